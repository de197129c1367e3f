"""
An event loop without time of its own: when nobody can go on, it jumps to the next instant.

Nothing in it comes from outside, so what happens is the same in every run. `asyncio.timeout` and
`asyncio.sleep` work as ever, in no time. Tasks are remembered by the process that began them.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

OWNER: ContextVar[list] = ContextVar("OWNER")
"""The tasks of the process that is running: what is begun by them is one of them."""


class Stuck(Exception):
    """Nobody can go on, and nobody waits for an instant."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs what is ready in the order of asyncio, and never sleeps."""

    def __init__(self):
        super().__init__()
        self._now_seconds = 0.0
        self._clock_resolution = 1e-6
        self._selector = self
        self._tasks = []

    def time(self):
        """Seconds since the beginning, whole microseconds as those of a datetime."""
        return self._now_seconds

    def select(self, timeout):
        """Stand in for the selector: wait *timeout* seconds, in no time."""
        if timeout is None:
            raise Stuck("nobody can go on, and nobody waits for an instant")
        if timeout > 0:
            self._now_seconds = round(self._now_seconds + timeout, 6)
        return ()

    def create_task(self, coro, **options):
        """As ever; the task belongs to whoever begins it."""
        task = super().create_task(coro, **options)
        self._tasks.append(task)
        owned = OWNER.get(None)
        if owned is not None:
            owned.append(task)
        return task

    def pending_tasks(self):
        """The tasks that have not ended, but for the one that asks."""
        self._tasks = [one for one in self._tasks if not one.done()]
        asking = asyncio.current_task()
        return [one for one in self._tasks if one is not asking]

    def _process_events(self, event_list):
        """Nothing comes from outside."""

    def _write_to_self(self):
        """Nobody has to be woken up."""
