"""
Open connections: how many there may be, and which one is closed for a new one.

A connection costs a file descriptor and some kilobytes, so their number is limited. At the limit,
the connection that has waited longest for a request is closed for the new one. Thousands of idle
connections therefore do not exclude other clients: a new connection is refused only while every
open one is in the middle of a request.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger("invoices.api")

SWEEP_SECONDS = 5
"""How often connections are checked for answers that their client does not read."""

REFUSED_MAX = 64
"""How many refused connections may stay open until their client has read the refusal."""

WARNING_SECONDS = 60
"""Minimum time between two warnings that the limit is reached."""


class Connection(Protocol):
    """One connection of a client."""

    def is_waiting(self) -> bool:
        """Whether it waits for a request, or for the end of a request's head."""
        ...


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections may be open, and for how long without progress."""

    count: int = 512
    """How many connections may be open at once."""
    idle_seconds: float = 30
    """How long a connection may wait for a request, or for the end of a request's head."""
    unread_seconds: float = 60
    """How long an answer may be buffered here because its client does not read it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a connection above the limit, and how long its client has to read it."""

    text: bytes
    linger_seconds: float


class OpenConnections:
    """
    Connections within *limits*, in the order in which they began to wait.

    A connection whose client does not read its answers is aborted: it would otherwise keep its
    place and its buffer forever. *report_count* is called with the number of open connections.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        refusal: Refusal,
        report_count: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._limits = limits
        self._refusal = refusal
        self._report_count = report_count
        self._transports: OrderedDict[Connection, asyncio.Transport] = OrderedDict()
        self._unread_since: dict[Connection, float] = {}
        self._refused: OrderedDict[Connection, asyncio.Transport] = OrderedDict()
        self._warned_at: float | None = None
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._transports)

    def admit(self, connection: Connection, transport: asyncio.Transport) -> bool:
        """Add *connection*; refuse it if the limit is reached and no other can be closed."""
        if len(self._transports) >= self._limits.count and not self._close_one_waiting():
            self._warn()
            self._refuse(connection, transport)
            return False
        self._transports[connection] = transport
        self._report_count(len(self._transports))
        if self._sweep is None:
            self._sweep_later()
        return True

    def has_answered(self, connection: Connection) -> None:
        """Move *connection* to the end of the order: it has just sent an answer."""
        if connection in self._transports:
            self._transports.move_to_end(connection)

    def leave(self, connection: Connection) -> None:
        """Remove *connection*, which is closed."""
        self._transports.pop(connection, None)
        self._unread_since.pop(connection, None)
        self._refused.pop(connection, None)
        self._report_count(len(self._transports))

    def close(self) -> None:
        """Stop checking for unread answers."""
        if self._sweep is not None:
            self._sweep.cancel()

    def _close_one_waiting(self) -> bool:
        for connection, transport in self._transports.items():
            if connection.is_waiting() or transport.is_closing():
                self.leave(connection)
                # close() would first wait until its buffer is sent.
                transport.abort()
                return True
        return False

    def _refuse(self, connection: Connection, transport: asyncio.Transport) -> None:
        if len(self._refused) >= REFUSED_MAX:
            _, longest_refused = self._refused.popitem(last=False)
            longest_refused.abort()
        self._refused[connection] = transport
        transport.write(self._refusal.text)
        # Closing now, with the request unread, would reset the connection before the client reads.
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
        seconds = min(SWEEP_SECONDS, self._limits.unread_seconds)
        self._sweep = loop.call_later(seconds, self._sweep_now)

    def _sweep_now(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection, transport in [*self._transports.items()]:
            if not transport.get_write_buffer_size():
                self._unread_since.pop(connection, None)
                continue
            since = self._unread_since.setdefault(connection, now)
            if now - since >= self._limits.unread_seconds:
                transport.abort()
        self._sweep = None
        if self._transports:
            self._sweep_later()
