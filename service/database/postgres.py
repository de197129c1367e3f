"""
PostgreSQL: one server for any number of processes, which notify each other.

Work is written for a synchronous connection; SQLAlchemy runs it in a greenlet over asyncpg, on
the event loop. Every transaction has a deadline.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from sqlalchemy import Connection, func, select, text
from sqlalchemy.ext.asyncio.engine import AsyncEngine, create_async_engine

from service.database.connecting import TRANSACTION_SECONDS, Connector, translated
from service.database.engine import Database, Lane, Wakes, run_at_once
from service.database.notifications import Notifications
from service.database.writers import Writers
from service.errors import StorageUnavailable

T = TypeVar("T")

READER_COUNT = 2
BROWSER_COUNT = 4
WRITER_COUNT = 8
"""
Connections of one process, besides the one that listens: each kind of work has its own, so that a
beat of the process does not wait for other work.
"""

STATEMENTS_MAX = 64
"""How many statements a connection keeps prepared that the driver runs: more than there are."""

_UNPREPARED: dict[str, Any] = {"prepared_statement_cache_size": 0}

NOBODY_WRITES = "PostgreSQL: it lets nobody write (default_transaction_read_only)"

SCHEMA_LOCK = 0x696E766F69636573
"""The advisory lock under which a schema is changed: "invoices" in ASCII."""


class PostgresDatabase(Database):
    """
    A PostgreSQL server, 15 or newer. A commit that returned is as durable as the server makes it.

    Transactions run concurrently, each on a connection of its own.
    """

    product = "PostgreSQL"
    has_one_writer = False
    is_shared = True

    def __init__(self, url: str, *, has_prepared_statements: bool = True) -> None:
        super().__init__()
        # Otherwise the driver prepares each statement anew, which a pooler may pass to one server
        # connection, and its values to another one.
        self.writes_at_once = has_prepared_statements
        self._connector = Connector(url, STATEMENTS_MAX if has_prepared_statements else 0)
        self._notifications = Notifications(self._connector)
        self._statements = {} if has_prepared_statements else _UNPREPARED
        reading = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._engines = {
            Lane.WRITE: self._engine(WRITER_COUNT),
            Lane.READ: self._engine(READER_COUNT, **reading),
            Lane.BROWSE: self._engine(BROWSER_COUNT, **reading),
        }
        self._writers = Writers(self._engines[Lane.WRITE], TRANSACTION_SECONDS)

    async def change_schema(self, work: Callable[[Connection], T]) -> T:
        """As `write`, without a time limit, and in one process at a time."""
        return await self.write(_alone, work)

    def listen(self, signals: Mapping[str, Wakes]) -> None:
        """Set the signal of a name whenever another process notifies that name."""
        self._notifications.listen(signals)

    def notify(self, name: str, details: Collection[str] = ()) -> None:
        """Wake the other processes soon; *details* say for what."""
        self._notifications.notify(name, details)

    async def close(self) -> None:
        """Close every connection."""
        await self._notifications.close()
        await self._recover()

    def _engine(self, size: int, **options: Any) -> AsyncEngine:
        return create_async_engine(
            "postgresql+asyncpg://",
            connect_args={"async_creator_fn": self._connector.connect, **self._statements},
            pool_size=size,
            max_overflow=0,
            pool_timeout=TRANSACTION_SECONDS,
            execution_options=options,
        )

    async def _transact(
        self,
        work: Callable[..., T],
        args: tuple[Any, ...],
        options: Mapping[str, Any],
        lane: Lane,
    ) -> tuple[T, bool]:
        if work is run_at_once:
            with translated(is_of_statements=True):
                found: Any = await self._writers.run_at_once(*args)
            self._connector.is_reached()
            return found, True
        timeout_seconds = None if work is _alone else TRANSACTION_SECONDS
        with translated(is_of_statements=True):
            async with asyncio.timeout(timeout_seconds):
                if lane is Lane.WRITE:
                    result = await self._writers.transact(work, args, options)
                else:
                    async with self._engines[lane].begin() as connection:
                        result = await connection.run_sync(work, *args, **options)
        self._connector.is_reached()
        return result, lane is Lane.WRITE

    async def _recover(self) -> None:
        """Close all idle connections: each one from before an outage would fail once more."""
        await self._writers.close()
        for engine in self._engines.values():
            await engine.dispose()

    @staticmethod
    def _probe_read(tx: Connection) -> None:
        tx.execute(select(1)).close()

    @staticmethod
    def _probe_write(tx: Connection) -> None:
        # The server gives this transaction a number, and writes that to its log: even if no
        # transaction may change a row, as where a provider wants to stop a disk from filling up.
        tx.execute(select(func.pg_current_xact_id())).close()
        if tx.scalar(select(func.current_setting("transaction_read_only"))) == "on":
            raise StorageUnavailable(NOBODY_WRITES)


def _alone(tx: Connection, work: Callable[[Connection], T]) -> T:
    """Run *work* while no other process changes the schema, without a time limit."""
    # A transaction that SQLAlchemy knows: otherwise Alembic begins some itself.
    with tx.begin():
        tx.execute(text("SET LOCAL statement_timeout = 0"))
        tx.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
        return work(tx)
