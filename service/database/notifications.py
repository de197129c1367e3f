"""
Processes wake each other with LISTEN and NOTIFY, over a connection that does nothing else.

A wake-up is a hint. It is sent after the commit that it speaks of and not in it, where it would
make commits wait for each other; if it is lost, whoever waits looks for itself after a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from service.database.connecting import REST_SECONDS, STATEMENT_SECONDS, Connector, translated
from service.errors import StorageUnavailable

log = logging.getLogger("invoices.storage")

ANNOUNCE_SECONDS = 0.02
"""At most so often; what is announced in between is one announcement."""

QUIET_SECONDS = 30
"""How long the connection may be silent before it is asked whether it still lives."""

_CHANNEL = "invoices"
_ANNOUNCE = "SELECT pg_notify($1, name) FROM unnest($2::text[]) AS name"


class Wakeups:
    """Announces names to other processes, and sets signals when they do."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._news: set[str] = set()
        self._has_news = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    def listen(self, signals: Mapping[str, asyncio.Event]) -> None:
        """Set the signal of a name whenever another process announces that name."""
        self._listening = asyncio.create_task(self._keep_listening(signals))

    def announce(self, name: str) -> None:
        """Tell the other processes, soon."""
        self._news.add(name)
        self._has_news.set()

    async def close(self) -> None:
        """Listen and announce no more."""
        if self._listening:
            self._listening.cancel()
            await asyncio.wait([self._listening])

    async def _keep_listening(self, signals: Mapping[str, asyncio.Event]) -> None:
        while True:
            try:
                with translated():
                    async with self._listener(signals) as connection:
                        await self._keep_announcing(connection)
            except StorageUnavailable as error:
                log.debug("listener.lost", extra={"fields": {"detail": str(error)}})
            await asyncio.sleep(REST_SECONDS[0])

    @asynccontextmanager
    async def _listener(
        self, signals: Mapping[str, asyncio.Event]
    ) -> AsyncIterator[asyncpg.Connection]:
        """A connection that sets *signals*; all of them at first, for what was missed."""
        # What is only announced need not be waited for on the disk.
        connection = await self._connector.connect(synchronous_commit="off")
        own_pid = connection.get_server_pid()

        def hear(_connection: Any, pid: int, _channel: str, name: object) -> None:
            if pid != own_pid and name in signals:
                signals[str(name)].set()

        try:
            connection.add_termination_listener(lambda _: self._has_news.set())
            await connection.add_listener(_CHANNEL, hear)
            for signal in signals.values():
                signal.set()
            yield connection
        finally:
            connection.terminate()

    async def _keep_announcing(self, connection: asyncpg.Connection) -> None:
        while not connection.is_closed():
            names, self._news = sorted(self._news), set()
            self._has_news.clear()
            # Without any names it only asks whether the server still answers.
            await connection.execute(_ANNOUNCE, _CHANNEL, names, timeout=STATEMENT_SECONDS)
            await asyncio.sleep(ANNOUNCE_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET_SECONDS):
                    await self._has_news.wait()
