"""
The clocks of the machines: each machine reads the one virtual time with its own error.

All processes of a machine read the same clock. A wait does not use this clock: it is measured by
the event loop, as a real process uses the monotonic clock, so that a jump shortens no wait.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import lru_cache

from service.clock import SystemClock
from tests.clock import START


def true_now():
    """The virtual time, as a correct clock shows it."""
    return _after(asyncio.get_running_loop().time())


@lru_cache(maxsize=64)
def _after(seconds):
    """The instant so many *seconds* after the start; it is asked for several times in a row."""
    return START + timedelta(microseconds=round(seconds * 1e6))


class SkewedClock(SystemClock):
    """Reads the virtual time with an error that may change."""

    def __init__(self, offset):
        self.offset = offset
        self.latest = START + offset
        """The latest instant that was read here; the checks of leases use it."""

    def now(self):
        """The present instant on this machine."""
        now = true_now() + self.offset
        self.latest = max(self.latest, now)
        return now

    def elapsed(self):
        """The virtual time, which is independent of the clock."""
        return true_now() - START

    def monotonic(self):
        """That time in seconds."""
        return self.elapsed().total_seconds()

    def jump(self, by, limit):
        """Change the error of the clock, up to *limit*."""
        self.offset = max(-limit, min(limit, self.offset + by))
