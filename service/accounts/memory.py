"""What was read a moment ago, so that not every request asks the database again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from service.clock import Clock

Value = TypeVar("Value")

FRESH = timedelta(seconds=5)
"""How long it may take until a rotation, or a disabled account, is noticed everywhere."""

KNOWN_MAX = 10_000


class Memory(Generic[Value]):
    """Remembers for `FRESH` what *read* said about a name; of many names, those asked last."""

    def __init__(self, read: Callable[[str], Awaitable[Value]], clock: Clock) -> None:
        self._read = read
        self._clock = clock
        self._known: OrderedDict[str, tuple[datetime, Value]] = OrderedDict()

    async def get(self, name: str) -> Value:
        """What is known of *name*, read again if that is too long ago."""
        known = self._known.get(name)
        # A clock that was set back must not keep alive what was read in its future.
        if known and timedelta(0) <= self._clock.now() - known[0] < FRESH:
            return known[1]
        value = await self._read(name)
        self._known[name] = (self._clock.now(), value)
        self._known.move_to_end(name)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        return value
