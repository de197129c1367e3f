"""Ids: unique among all processes, and in the order of time."""

from __future__ import annotations

import time
from datetime import datetime
from random import Random

_VERSION_AND_VARIANT = 7 << 76 | 2 << 62


class _Ids:
    """Generates ids; a later one of this process is greater, even if the clock was set back."""

    def __init__(self) -> None:
        self._last_tick = 0
        # Seeded by the system. Ids are unique, and not secret.
        self._bits = Random().getrandbits  # noqa: S311

    def new(self) -> str:
        """A UUID of version 7 (RFC 9562, section 5.7), in method 3 of section 6.2."""
        # A tick is a 4096th of a millisecond: the twelve bits that follow the milliseconds.
        tick = max(time.time_ns() * 4096 // 1_000_000, self._last_tick + 1)
        self._last_tick = tick
        uuid = tick >> 12 << 80 | (tick & 0xFFF) << 64 | _VERSION_AND_VARIANT | self._bits(62)
        return f"{uuid:032x}"


new_id = _Ids().new
"""Generates an id: a UUID of version 7 as 32 hexadecimal digits."""


def lower_bound(instant: datetime) -> str:
    """Lower bound of the ids generated at or after *instant*."""
    return f"{int(instant.timestamp() * 1000):012x}"
