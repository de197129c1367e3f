"""Ids: unique among all processes, and in the order of time."""

import secrets
import time
from datetime import datetime


class _Ids:
    """
    Generates UUIDs of version 7 (RFC 9562, section 5.7), by method 3 of section 6.2.

    They count nanoseconds: a later id of this process is greater, even if the clock was set back.
    The last 52 bits are random, and the same for all ids of a process. Ids are not secret.
    """

    def __init__(self) -> None:
        self._last_ns = 0
        self._process = f"{secrets.randbits(52):013x}"

    def new(self) -> str:
        """A new id, as 32 hexadecimal digits."""
        ns = time.time_ns()
        if ns <= self._last_ns:
            ns = self._last_ns + 1
        self._last_ns = ns
        ms, ns_of_ms = divmod(ns, 1_000_000)
        return "%012x7%03x8%02x%s" % (ms, ns_of_ms >> 8, ns_of_ms & 0xFF, self._process)  # noqa: UP031 -- half the time of an f-string


new_id = _Ids().new
"""Generates an id: a UUID of version 7 as 32 hexadecimal digits."""


def lower_bound(instant: datetime) -> str:
    """Lower bound of the ids generated at or after *instant*."""
    return f"{int(instant.timestamp() * 1000):012x}"
