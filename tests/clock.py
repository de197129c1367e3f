"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
PATIENCE_SECONDS = 5
"""How long a test waits for what should have happened by now before it fails."""


class ManualClock:
    """
    Implements `service.clock.Clock`; waits end by their signal or by `advance`.

    `parked` tells a test that a loop has nothing more to do until one of the two happens.
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
        """How far the test has moved the clock, but for its jumps."""
        return self._elapsed

    def jump(self, by: timedelta) -> None:
        """Set the clock to another instant: no time passes, and who waits goes on waiting."""
        self._now += by
        self._waits = {
            passed: (signal, until + by) for passed, (signal, until) in self._waits.items()
        }

    def advance(self, by: timedelta) -> None:
        """Move the clock, and wake who waited for that."""
        self._now += by
        self._elapsed += by
        for passed, (_, until) in self._waits.items():
            if until <= self._now and not passed.done():
                passed.set_result(None)

    async def parked(self) -> datetime:
        """Wait until somebody waits, unsignalled; the instant until which they do."""
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
    Move the time of the running event loop, and let its timers run that are due by then.

    From then on it stands still, so that a slow machine changes nothing.
    """
    loop = asyncio.get_running_loop()
    now = loop.time() + seconds
    loop.time = lambda: now  # type: ignore[method-assign]
    # The first iteration finds the timers that are due and runs them; the second comes after them.
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def idle() -> None:
    """
    Let every task go on that can, until all of them wait for something.

    Where nothing happens outside this loop, whatever is going to happen has happened then.
    """
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
    async with asyncio.timeout(PATIENCE_SECONDS):
        while ready:  # noqa: ASYNC110 -- only the loop knows, and it sets no event
            await asyncio.sleep(0)
