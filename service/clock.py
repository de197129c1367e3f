"""
Time as an argument: what the service reads the time from, and what its loops wait on.

Loops wait for a signal or for an instant, whichever comes first, and only through a `Clock`.
Tests pass a clock that they move by hand, so that nothing in them sleeps.
"""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the time and waits for it."""

    def now(self) -> datetime:
        """The present instant, aware and in UTC. It jumps when the clock is set."""
        ...

    def elapsed(self) -> timedelta:
        """How long it has been since some instant of the past; this never jumps."""
        ...

    async def wait(self, signal: asyncio.Event, until: datetime) -> None:
        """
        Return once *signal* is set or *until* has come, and clear *signal*.

        A signal that is set already returns at once: what was announced between two
        waits is never missed.
        """
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """The present instant, aware and in UTC."""
        return datetime.now(UTC)

    def elapsed(self) -> timedelta:
        """How long it has been since some instant of the past; this never jumps."""
        return timedelta(seconds=time.monotonic())

    async def wait(self, signal: asyncio.Event, until: datetime) -> None:
        """Return once *signal* is set or *until* has come, and clear *signal*."""
        remaining_seconds = (until - self.now()).total_seconds()
        try:
            async with asyncio.timeout(max(remaining_seconds, 0)):
                await signal.wait()
        except TimeoutError:
            pass
        signal.clear()
