"""
PostgreSQL: one server for any number of processes, which wake each other with LISTEN and NOTIFY.

Work is written for a synchronous connection; SQLAlchemy runs it in a greenlet over asyncpg, on
the event loop. A server that does not answer is given up after a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from uuid import uuid4

from sqlalchemy import Connection, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service.database.connecting import TRANSACTION_SECONDS, Connector, translated
from service.database.notifications import Wakeups
from service.database.outage import Outage
from service.errors import StorageUnavailable

T = TypeVar("T")

READER_COUNT = 4
WRITER_COUNT = 6
"""Connections of one process, beside the one that listens: each kind of work has its own."""

_UNPREPARED: dict[str, Any] = {
    "prepared_statement_cache_size": 0,
    # The server connection may have been somebody else's, who used the usual names.
    "prepared_statement_name_func": lambda: f"invoices_{uuid4().hex}",
}

SCHEMA_LOCK = 0x696E766F69636573
"""The advisory lock under which a schema is changed: "invoices" in ASCII."""


class PostgresDatabase:
    """
    A PostgreSQL server, 15 or newer. A commit that returned is as durable as the server has it.

    Transactions run beside each other, each on a connection of its own.
    """

    has_one_writer = False

    def __init__(self, url: str, *, has_prepared_statements: bool = True) -> None:
        self._connector = Connector(url)
        self._wakeups = Wakeups(self._connector)
        self._statements = {} if has_prepared_statements else _UNPREPARED
        self._outage = Outage()
        self._writers = self._engine(WRITER_COUNT)
        self._readers = self._engine(
            READER_COUNT, isolation_level="REPEATABLE READ", postgresql_readonly=True
        )

    async def write(self, work: Callable[[Connection], T]) -> T:
        """
        Run *work* in a transaction and commit it; whatever it raises rolls all of it back.

        Raises:
            StorageUnavailable: if the server cannot be written to now. Where the connection
                was lost during the commit, it may have been written all the same.
        """
        return await self._run(self._writers, work, TRANSACTION_SECONDS, is_write=True)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """
        Run *work* on one consistent state of what has been committed.

        Raises:
            StorageUnavailable: if the server cannot be read now.
        """
        return await self._run(self._readers, work, TRANSACTION_SECONDS, is_write=False)

    async def check(self) -> None:
        """
        Return if the server can be read, and written to if that has failed lately.

        Raises:
            StorageUnavailable: otherwise.
        """
        if self._outage.is_of_writes:
            # Whoever asks for the number of a transaction is given one, and writes it to the log.
            await self.write(lambda tx: tx.execute(select(func.pg_current_xact_id())).close())
        else:
            await self.read(lambda tx: tx.execute(select(1)).close())

    async def change_schema(self, work: Callable[[Connection], T]) -> T:
        """As `write`, with all the time that it takes, and by one process at a time."""

        def work_alone(tx: Connection) -> T:
            tx.execute(text("SET LOCAL statement_timeout = 0"))
            tx.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
            return work(tx)

        return await self._run(self._writers, work_alone, None, is_write=True)

    def listen(self, signals: Mapping[str, asyncio.Event]) -> None:
        """Set the signal of a name whenever another process announces that name."""
        self._wakeups.listen(signals)

    def announce(self, name: str) -> None:
        """Tell the other processes, soon, that there is something to find."""
        self._wakeups.announce(name)

    async def close(self) -> None:
        """Close every connection."""
        await self._wakeups.close()
        await self._forget_connections()

    def _engine(self, size: int, **options: Any) -> AsyncEngine:
        return create_async_engine(
            "postgresql+asyncpg://",
            connect_args={"async_creator_fn": self._connector.connect, **self._statements},
            pool_size=size,
            max_overflow=0,
            pool_timeout=TRANSACTION_SECONDS,
            execution_options=options,
        )

    async def _run(
        self,
        engine: AsyncEngine,
        work: Callable[[Connection], T],
        seconds: float | None,
        *,
        is_write: bool,
    ) -> T:
        try:
            with translated():
                async with asyncio.timeout(seconds), engine.begin() as connection:
                    result = await connection.run_sync(work)
        except StorageUnavailable as error:
            self._outage.goes_on(error, is_write=is_write)
            raise
        self._connector.is_reached()
        if self._outage.ends(has_written=is_write):
            await self._forget_connections()
        return result

    async def _forget_connections(self) -> None:
        """Close all that nobody uses. Left from before an outage, each would fail once more."""
        for engine in (self._readers, self._writers):
            await engine.dispose()
