"""
The clocks of the machines: each has its own view of the one virtual time.

All of a machine's processes read the same clock. Waiting is the service's own: it measures with
the loop, as a real process does with the monotonic clock, so that a jump shortens no wait.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from service.clock import SystemClock
from tests.clock import START


def true_now():
    """The virtual time, as a clock that is right reads."""
    return START + timedelta(microseconds=round(asyncio.get_running_loop().time() * 1e6))


class SkewedClock(SystemClock):
    """Reads the virtual time, wrong by an offset that may change."""

    def __init__(self, offset):
        self.offset = offset
        self.latest = START + offset
        """The latest instant that was ever read here: what leases are judged by."""

    def now(self):
        """The present instant on this machine."""
        now = true_now() + self.offset
        self.latest = max(self.latest, now)
        return now

    def elapsed(self):
        """The virtual time, which no setting of the clock changes."""
        return true_now() - START

    def jump(self, by, limit):
        """Be wrong by something else from now on, by *limit* at most."""
        self.offset = max(-limit, min(limit, self.offset + by))
