"""
PostgreSQL: one server for any number of processes, which notify each other.

Work is written for a synchronous connection; SQLAlchemy runs it in a greenlet over asyncpg, on
the event loop. Every transaction has a deadline.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import uuid4

from sqlalchemy import Connection, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service.database.connecting import TRANSACTION_SECONDS, Connector, translated
from service.database.notifications import Notifications
from service.database.outage import Outage
from service.errors import StorageUnavailable

P = ParamSpec("P")
T = TypeVar("T")

READER_COUNT = 4
WRITER_COUNT = 6
"""Connections of one process, besides the one that listens: each kind of work has its own."""

_UNPREPARED: dict[str, Any] = {
    "prepared_statement_cache_size": 0,
    # Another client of the pooler may have used the usual names on the same server connection.
    "prepared_statement_name_func": lambda: f"invoices_{uuid4().hex}",
}

SCHEMA_LOCK = 0x696E766F69636573
"""The advisory lock under which a schema is changed: "invoices" in ASCII."""


class PostgresDatabase:
    """
    A PostgreSQL server, 15 or newer. A commit that returned is as durable as the server makes it.

    Transactions run concurrently, each on a connection of its own.
    """

    has_one_writer = False

    def __init__(self, url: str, *, has_prepared_statements: bool = True) -> None:
        self._connector = Connector(url)
        self._notifications = Notifications(self._connector)
        self._statements = {} if has_prepared_statements else _UNPREPARED
        self._outage = Outage()
        self._writers = self._engine(WRITER_COUNT)
        self._readers = self._engine(
            READER_COUNT, isolation_level="REPEATABLE READ", postgresql_readonly=True
        )

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        """
        Run *work* in a transaction and commit it; an exception rolls all of it back.

        Raises:
            StorageUnavailable: if the server cannot be written to now. Where the connection
                was lost during the commit, it may have been written all the same.
        """
        return await self._run(self._writers, TRANSACTION_SECONDS, work, *args, **options)

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        """
        Run *work* on one consistent state of what has been committed.

        Raises:
            StorageUnavailable: if the server cannot be read now.
        """
        return await self._run(self._readers, TRANSACTION_SECONDS, work, *args, **options)

    async def check(self) -> None:
        """
        Return if the server can be read, and written to if that has failed lately.

        Raises:
            StorageUnavailable: otherwise.
        """
        if self._outage.is_of_writes:
            # The server gives this transaction a number, and writes that to its log.
            await self.write(lambda tx: tx.execute(select(func.pg_current_xact_id())).close())
        else:
            await self.read(lambda tx: tx.execute(select(1)).close())

    async def change_schema(self, work: Callable[[Connection], T]) -> T:
        """As `write`, without a time limit, and in one process at a time."""

        def work_alone(tx: Connection) -> T:
            tx.execute(text("SET LOCAL statement_timeout = 0"))
            tx.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
            return work(tx)

        return await self._run(self._writers, None, work_alone)

    def listen(self, signals: Mapping[str, asyncio.Event]) -> None:
        """Set the signal of a name whenever another process notifies that name."""
        self._notifications.listen(signals)

    def notify(self, name: str) -> None:
        """Wake the other processes soon."""
        self._notifications.notify(name)

    async def close(self) -> None:
        """Close every connection."""
        await self._notifications.close()
        await self._close_idle_connections()

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
        timeout_seconds: float | None,
        work: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **options: P.kwargs,
    ) -> T:
        is_write = engine is self._writers
        try:
            with translated():
                async with asyncio.timeout(timeout_seconds), engine.begin() as connection:
                    result = await connection.run_sync(work, *args, **options)
        except StorageUnavailable as error:
            self._outage.begin(error, is_write=is_write)
            raise
        self._connector.is_reached()
        if self._outage.end(has_written=is_write):
            await self._close_idle_connections()
        return result

    async def _close_idle_connections(self) -> None:
        """Close all idle connections: each one from before an outage would fail once more."""
        for engine in (self._readers, self._writers):
            await engine.dispose()
