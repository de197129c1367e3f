"""The connection of one listener, as the process sees it that has the connection."""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from service.domain.listening import LISTENER_PING, LISTENER_SILENCE, StreamEnd
from service.storage.listeners import ListenerRow
from service.values import value


@value()
class StreamEvent:
    """An event for a listener; *number* counts those of its connection from 1."""

    number: int
    name: str
    data: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class Stream:
    """
    Events for the listener of one origin of an account, in order, and what it has acknowledged.

    A listener that *acknowledges* says which events have arrived; of any other one it is assumed
    while the connection is open. Instants are those of the clock that never jumps.
    """

    account_id: str
    origin: str
    token: str
    acknowledges: bool
    seen_at: timedelta
    """When the listener acknowledged something last."""
    seen_count: int = 0
    end: StreamEnd | None = None
    _ping_at: timedelta = timedelta(0)
    _sent_count: int = 0
    _events: deque[StreamEvent] = field(default_factory=deque)
    _has_events: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def row(self) -> ListenerRow:
        """The connection as it is stored."""
        return ListenerRow(account_id=self.account_id, origin=self.origin, token=self.token)

    def put(self, name: str, data: Mapping[str, Any]) -> int:
        """Send an event; returns its number."""
        self._sent_count += 1
        self._events.append(StreamEvent(self._sent_count, name, data))
        self._has_events.set()
        return self._sent_count

    async def next(self, seconds: float) -> StreamEvent | None:
        """The next event to send; None if there is none within *seconds*, or after the end."""
        if not self._events and self.end is None:
            self._has_events.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._has_events.wait()
        return self._events.popleft() if self._events else None

    def note_seen(self, count: int, now: timedelta) -> None:
        """The first *count* events have arrived."""
        if self.seen_count < count <= self._sent_count:
            self.seen_count = count
            self.seen_at = now

    def has_received(self, number: int) -> bool:
        """Whether the event of that number is known to have arrived."""
        return self.seen_count >= number or (not self.acknowledges and self.end is None)

    def is_silent(self, now: timedelta) -> bool:
        """Whether the link is dead: an acknowledgement is missing."""
        return self.acknowledges and now - self.seen_at >= LISTENER_SILENCE

    def ping_if_due(self, now: timedelta, data: Mapping[str, Any]) -> None:
        """Send a ping with *data*, unless the last one was sent a moment ago."""
        if now >= self._ping_at:
            self._ping_at = now + LISTENER_PING
            self.put("ping", data)

    def close(self, end: StreamEnd) -> None:
        """Send no more events after one that says why."""
        if end is StreamEnd.DISPLACED:
            self.put("displaced", {})
        elif end is not StreamEnd.GONE:
            self.put("closed", {"reason": end.value})
        self.end = end
        self._has_events.set()
