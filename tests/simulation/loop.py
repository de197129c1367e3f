"""
An event loop with virtual time: when no task can run, it jumps to the next instant.

It receives no external events, so every run is the same. `asyncio.timeout` and `asyncio.sleep` work
as usual and take no real time. Each process has a list of the tasks that it has created.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

OWNER: ContextVar[list] = ContextVar("OWNER")
"""The tasks of the running process; the tasks that they create are added."""


class Deadlock(Exception):
    """No task can run, and none waits for an instant."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks in the order of asyncio, and never sleeps."""

    def __init__(self):
        super().__init__()
        self._now_seconds = 0.0
        self._clock_resolution = 1e-6
        self._selector = self
        self._numbers = {}
        self.task_count = 0
        """The number of tasks created so far."""

    def time(self):
        """Seconds since the start, in whole microseconds like those of a datetime."""
        return self._now_seconds

    def select(self, timeout):
        """Replace the selector: advance the virtual time by *timeout* seconds."""
        if timeout is None:
            raise Deadlock("no task can run, and none waits for an instant")
        if timeout > 0:
            self._now_seconds = round(self._now_seconds + timeout, 6)
        return ()

    def create_task(self, coro, **options):
        """Create the task, number it, and assign it to the process that creates it."""
        task = super().create_task(coro, **options)
        self.task_count += 1
        self._numbers[task] = self.task_count
        owned = OWNER.get(None)
        if owned is not None:
            owned.append(task)
        return task

    def number_of_task(self):
        """The number of tasks created before the running one, including it."""
        return self._numbers[asyncio.current_task()]

    def pending_tasks(self):
        """The unfinished tasks, except the calling one."""
        self._numbers = {one: number for one, number in self._numbers.items() if not one.done()}
        asking = asyncio.current_task()
        return [one for one in self._numbers if one is not asking]

    def _process_events(self, event_list):
        """There are no external events."""

    def _write_to_self(self):
        """No other thread needs to wake the loop."""
