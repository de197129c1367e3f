"""
The clock, which is always an argument: the service reads the time from it and waits with it.

Loops wait for a signal or for an instant, whichever comes first, and only through a `Clock`.
Tests pass a clock that they move themselves, so that they need not sleep.
"""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Gives the time, and waits for an instant or a signal."""

    def now(self) -> datetime:
        """The present instant, aware and in UTC. It jumps when the clock is set."""
        ...

    def elapsed(self) -> timedelta:
        """The time since a fixed instant in the past; this never jumps."""
        ...

    def monotonic(self) -> float:
        """`elapsed` in seconds, a tenth of the instructions: for what every delivery asks."""
        ...

    async def wait(self, signal: asyncio.Event, until: datetime) -> None:
        """
        Return once *signal* is set or *until* has come, and clear *signal*.

        If *signal* is set already, it returns at once: a signal that is set between two waits is
        never missed.
        """
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """The present instant, aware and in UTC."""
        return datetime.now(UTC)

    def elapsed(self) -> timedelta:
        """The time since a fixed instant in the past; this never jumps."""
        return timedelta(seconds=time.monotonic())

    def monotonic(self) -> float:
        """`elapsed` in seconds."""
        return time.monotonic()

    async def wait(self, signal: asyncio.Event, until: datetime) -> None:
        """Return once *signal* is set or *until* has come, and clear *signal*."""
        remaining_seconds = (until - self.now()).total_seconds()
        try:
            async with asyncio.timeout(max(remaining_seconds, 0)):
                await signal.wait()
        except TimeoutError:
            pass
        signal.clear()
