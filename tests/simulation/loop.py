"""
An event loop without time of its own: when no task can go on, it jumps to the next instant.

Nothing in it comes from outside, so what happens is the same in every run. `asyncio.timeout` and
`asyncio.sleep` work as ever, in no time. Tasks are remembered by the process that began them.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

OWNER: ContextVar[list] = ContextVar("OWNER")
"""The tasks of the process that is running: what is begun by them is one of them."""


class Stuck(Exception):
    """No task can go on, and none waits for an instant."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs what is ready in the order of asyncio, and never sleeps."""

    def __init__(self):
        super().__init__()
        self._now_seconds = 0.0
        self._clock_resolution = 1e-6
        self._selector = self
        self._numbers = {}
        self.task_count = 0
        """How many tasks were created so far."""

    def time(self):
        """Seconds since the beginning, whole microseconds as those of a datetime."""
        return self._now_seconds

    def select(self, timeout):
        """Stand in for the selector: wait *timeout* seconds, in no time."""
        if timeout is None:
            raise Stuck("no task can go on, and none waits for an instant")
        if timeout > 0:
            self._now_seconds = round(self._now_seconds + timeout, 6)
        return ()

    def create_task(self, coro, **options):
        """As ever; the task has a number, and belongs to the process that creates it."""
        task = super().create_task(coro, **options)
        self.task_count += 1
        self._numbers[task] = self.task_count
        owned = OWNER.get(None)
        if owned is not None:
            owned.append(task)
        return task

    def number_of_task(self):
        """How many tasks had been created when the running one was, itself included."""
        return self._numbers[asyncio.current_task()]

    def pending_tasks(self):
        """The tasks that have not ended, but for the one that asks."""
        self._numbers = {one: number for one, number in self._numbers.items() if not one.done()}
        asking = asyncio.current_task()
        return [one for one in self._numbers if one is not asking]

    def _process_events(self, event_list):
        """Nothing comes from outside."""

    def _write_to_self(self):
        """No other thread has to wake it."""
