"""
Processes wake each other with LISTEN and NOTIFY, over a connection that does nothing else.

A notification is sent after the commit: inside the transaction, it would make commits wait for each
other. It may be lost; the loops also poll.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from service.database.connecting import RECONNECT_SECONDS, STATEMENT_SECONDS, Connector, translated
from service.database.engine import Wakes
from service.errors import StorageUnavailable

log = logging.getLogger("invoices.storage")

NOTIFY_INTERVAL_SECONDS = 0.02
"""The shortest time between two notifications: each one locks the whole database for a moment."""

IDLE_SECONDS = 30
"""How long the connection may be silent before a statement tests it."""

_CHANNEL = "invoices"
_NOTIFY = "SELECT pg_notify($1, text) FROM unnest($2::text[]) AS text"

TEXTS_MAX = 100
"""Notifications in one statement; above this, they do not say for what."""

TEXT_LENGTH_MAX = 7_000
"""PostgreSQL takes up to 8,000 bytes; all that is notified is ASCII."""


class Notifications:
    """Sends names to other processes, and sets signals when they send some."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._texts: set[str] = set()
        self._is_pending = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    def listen(self, signals: Mapping[str, Wakes]) -> None:
        """Set the signal of a name whenever another process notifies that name."""
        self._listening = asyncio.create_task(self._keep_listening(signals))

    def notify(self, name: str, details: Collection[str] = ()) -> None:
        """Wake the other processes soon; *details* say for what."""
        texts = {f"{name} {detail}" for detail in details}
        is_too_much = len(self._texts) + len(texts) > TEXTS_MAX
        if not texts or is_too_much or max(map(len, texts)) > TEXT_LENGTH_MAX:
            texts = {name}
        self._texts |= texts
        self._is_pending.set()

    async def close(self) -> None:
        """Stop listening and notifying."""
        if self._listening:
            self._listening.cancel()
            await asyncio.wait([self._listening])

    async def _keep_listening(self, signals: Mapping[str, Wakes]) -> None:
        while True:
            try:
                with translated():
                    async with self._listener(signals) as connection:
                        await self._keep_notifying(connection)
            except StorageUnavailable as error:
                log.debug("listener.lost", extra={"fields": {"detail": str(error)}})
            await asyncio.sleep(RECONNECT_SECONDS[0])

    @asynccontextmanager
    async def _listener(self, signals: Mapping[str, Wakes]) -> AsyncIterator[asyncpg.Connection]:
        """A connection that sets *signals*; first it sets all, as some may have been missed."""
        # A notification needs no durable commit.
        connection = await self._connector.connect(synchronous_commit="off")
        own_pid = connection.get_server_pid()

        def receive(_connection: Any, pid: int, _channel: str, text: object) -> None:
            name, _, detail = str(text).partition(" ")
            if pid != own_pid and name in signals:
                signals[name].set_for([detail] if detail else [])

        try:
            connection.add_termination_listener(lambda _: self._is_pending.set())
            await connection.add_listener(_CHANNEL, receive)
            for signal in signals.values():
                signal.set()
            yield connection
        finally:
            connection.terminate()

    async def _keep_notifying(self, connection: asyncpg.Connection) -> None:
        while not connection.is_closed():
            texts, self._texts = sorted(self._texts), set()
            self._is_pending.clear()
            # Without texts, the statement only tests the connection.
            await connection.execute(_NOTIFY, _CHANNEL, texts, timeout=STATEMENT_SECONDS)
            await asyncio.sleep(NOTIFY_INTERVAL_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._is_pending.wait()
