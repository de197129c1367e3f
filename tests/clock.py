"""A clock that moves only when a test moves it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
PATIENCE_SECONDS = 10
"""
The time that a test waits for an expected event before it fails, on a busy machine too.

Shorter than the deadline of a callback and than the time limits of idle connections.
"""


async def woken_by(signal: asyncio.Event) -> None:
    """Wait for *signal*, and clear it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await signal.wait()
    signal.clear()


class ManualClock:
    """
    Implements `service.clock.Clock`; waits end by their signal or by `advance`.

    With `parked` a test waits until a loop has nothing to do before one of the two happens.
    """

    def __init__(self, now: datetime = START) -> None:
        self._now = now
        self._elapsed = timedelta(0)
        self._waits: dict[asyncio.Future[None], tuple[asyncio.Event, datetime]] = {}
        self._has_changed = asyncio.Event()

    def now(self) -> datetime:
        """The instant that the test has set."""
        return self._now

    async def wait(self, signal: asyncio.Event, until: datetime) -> None:
        """Return once *signal* is set or the clock was moved to *until*, and clear *signal*."""
        if until > self._now and not signal.is_set():
            passed = asyncio.get_running_loop().create_future()
            signalled = asyncio.ensure_future(signal.wait())
            self._waits[passed] = (signal, until)
            self._has_changed.set()
            try:
                await asyncio.wait({passed, signalled}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                del self._waits[passed]
                signalled.cancel()
        signal.clear()

    def elapsed(self) -> timedelta:
        """The time by which the test has advanced the clock; jumps do not count."""
        return self._elapsed

    def monotonic(self) -> float:
        """That time in seconds."""
        return self._elapsed.total_seconds()

    def jump(self, by: timedelta) -> None:
        """Set the clock to another instant: no time passes, and running waits continue."""
        self._now += by
        self._waits = {
            passed: (signal, until + by) for passed, (signal, until) in self._waits.items()
        }

    def advance(self, by: timedelta) -> None:
        """Move the clock, and end the waits whose instant has come."""
        self._now += by
        self._elapsed += by
        for passed, (_, until) in self._waits.items():
            if until <= self._now and not passed.done():
                passed.set_result(None)

    async def parked(self) -> datetime:
        """Wait until a wait without a signal exists; returns the earliest end of such waits."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (waiting := self._unsignalled()):
                self._has_changed.clear()
                await self._has_changed.wait()
        return min(waiting)

    def _unsignalled(self) -> list[datetime]:
        return [
            until
            for passed, (signal, until) in self._waits.items()
            if not passed.done() and not signal.is_set()
        ]


async def advance_loop(seconds: float) -> None:
    """
    Move the time of the running event loop, and run the timers that are due.

    After that the time of the loop does not move, so that a slow machine changes nothing.
    """
    loop = asyncio.get_running_loop()
    now = loop.time() + seconds
    loop.time = lambda: now  # type: ignore[method-assign]
    # The first iteration finds the timers that are due and runs them; the second comes after them.
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def idle() -> None:
    """
    Run all tasks until each of them waits for something.

    If nothing runs outside this loop, no task can continue after that.
    """
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while ready:  # noqa: ASYNC110 -- only the loop knows, and it sets no event
            await asyncio.sleep(0)
