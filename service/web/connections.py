"""
The connections that are open, and which of them makes room for a new one.

A connection costs a file descriptor and some kilobytes, so only so many may be open. One that
merely waits for a request has no claim to its place: it is given to whoever comes new, those that
wait longest going first. Thousands of silent connections so keep nobody out, and only where every
one of them is in the middle of a request is a new one refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger("invoices.api")

SWEEP_SECONDS = 5
"""How often it is looked whether what was answered is taken."""

REFUSED_MAX = 64
"""How many refused connections may linger until their client has read why."""

WARNING_SECONDS = 60
"""How much time passes between two warnings that there is no room."""


class Connection(Protocol):
    """What may be asked of a connection."""

    def is_waiting(self) -> bool:
        """Whether it waits for a request, or for the rest of a request's head."""
        ...


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What clients may occupy."""

    count: int = 512
    """How many connections may be open at once."""
    idle_seconds: float = 30
    """How long a connection may wait for a request, or a request for the end of its head."""
    taking_seconds: float = 60
    """How long what was answered may lie here because its client does not read it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is said where there is no room, and how long its client has to read it."""

    text: bytes
    linger_seconds: float


class OpenConnections:
    """
    Connections within *limits*, in the order in which they began to wait.

    One whose answers are not taken is broken off: a client that reads nothing would keep its
    connection, and what was to be sent, for good. *tell_count* learns how many are open.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        refusal: Refusal,
        tell_count: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._limits = limits
        self._refusal = refusal
        self._tell_count = tell_count
        self._transports: OrderedDict[Connection, asyncio.Transport] = OrderedDict()
        self._full_since: dict[Connection, float] = {}
        self._refused: OrderedDict[Connection, asyncio.Transport] = OrderedDict()
        self._warned_at: float | None = None
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._transports)

    def admit(self, connection: Connection, transport: asyncio.Transport) -> bool:
        """Take *connection* in, or refuse it where there is no room and none can be made."""
        if len(self._transports) >= self._limits.count and not self._make_room():
            self._warn()
            self._refuse(connection, transport)
            return False
        self._transports[connection] = transport
        self._tell_count(len(self._transports))
        if self._sweep is None:
            self._sweep_later()
        return True

    def has_answered(self, connection: Connection) -> None:
        """Put *connection* last in the row of those that wait: it has just been of use."""
        if connection in self._transports:
            self._transports.move_to_end(connection)

    def leave(self, connection: Connection) -> None:
        """Forget *connection*, which is closed."""
        self._transports.pop(connection, None)
        self._full_since.pop(connection, None)
        self._refused.pop(connection, None)
        self._tell_count(len(self._transports))

    def close(self) -> None:
        """Look after them no longer."""
        if self._sweep is not None:
            self._sweep.cancel()

    def _make_room(self) -> bool:
        for connection, transport in self._transports.items():
            if connection.is_waiting() or transport.is_closing():
                self.leave(connection)
                # Not closed, which would first wait until all is sent that was to be.
                transport.abort()
                return True
        return False

    def _refuse(self, connection: Connection, transport: asyncio.Transport) -> None:
        if len(self._refused) >= REFUSED_MAX:
            _, longest_refused = self._refused.popitem(last=False)
            longest_refused.abort()
        self._refused[connection] = transport
        transport.write(self._refusal.text)
        # Closed at once, with the request unread, it would be reset before the client reads why.
        transport.write_eof()
        loop = asyncio.get_running_loop()
        loop.call_later(self._refusal.linger_seconds, transport.abort)

    def _warn(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._warned_at is None or now - self._warned_at >= WARNING_SECONDS:
            self._warned_at = now
            log.warning("connections.exhausted", extra={"fields": {"limit": self._limits.count}})

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        seconds = min(SWEEP_SECONDS, self._limits.taking_seconds)
        self._sweep = loop.call_later(seconds, self._sweep_now)

    def _sweep_now(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection, transport in [*self._transports.items()]:
            if not transport.get_write_buffer_size():
                self._full_since.pop(connection, None)
            elif now - self._full_since.setdefault(connection, now) >= self._limits.taking_seconds:
                transport.abort()
        self._sweep = None
        if self._transports:
            self._sweep_later()
