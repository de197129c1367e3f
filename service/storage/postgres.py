"""
PostgreSQL: one server for any number of processes, which wake each other with LISTEN and NOTIFY.

Work is written for a synchronous connection; SQLAlchemy runs it in a greenlet over asyncpg, on
the event loop. A server that is away is tried again after a short and growing rest, so that
requests meanwhile fail at once; a server that does not answer is given up after a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service.errors import StorageRefused, StorageUnavailable
from service.storage.outage import Outage

log = logging.getLogger("invoices.storage")

T = TypeVar("T")

READER_COUNT = 4
WRITER_COUNT = 6
"""Connections of one process, beside the one that listens: each kind of work has its own."""

CONNECT_SECONDS = 5
STATEMENT_SECONDS = 5
TRANSACTION_SECONDS = 10
"""A transaction of ours takes milliseconds; whatever takes this long is not going to end."""

REST_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""How long a server that could not be reached is left alone, each time longer."""

ANNOUNCE_SECONDS = 0.02
"""At most so often; what is announced in between is one announcement."""

QUIET_SECONDS = 30
"""How long the listening connection may be silent before it is asked whether it still lives."""

SETTINGS = {
    "application_name": "invoices",
    "statement_timeout": f"{STATEMENT_SECONDS}s",
    # A process that stands still in a transaction holds rows; others want them.
    "idle_in_transaction_session_timeout": f"{TRANSACTION_SECONDS}s",
    # Every statement here has an index to go by. Plans are kept, and one that was made while a
    # table was small must not walk through it when it has grown.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}

_REFUSALS = (
    asyncpg.ClientConfigurationError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
"""What a server, or the driver, says to an address, user, password or name that is wrong."""

_UNPREPARED: dict[str, Any] = {
    "prepared_statement_cache_size": 0,
    # The server connection may have been somebody else's, who used the usual names.
    "prepared_statement_name_func": lambda: f"invoices_{uuid4().hex}",
}

SCHEMA_LOCK = 0x696E766F69636573
"""The advisory lock under which a schema is changed: "invoices" in ASCII."""

_CHANNEL = "invoices"
_ANNOUNCE = "SELECT pg_notify($1, name) FROM unnest($2::text[]) AS name"

_UNAVAILABLE = ("08", "25006", "25P03", "40", "53", "55P03", "57", "58")
"""SQLSTATEs, by their beginning, that speak of the server's state and not of our statement."""


class PostgresDatabase:
    """
    A PostgreSQL server, 15 or newer. A commit that returned is as durable as the server has it.

    Transactions run beside each other, each on a connection of its own.
    """

    has_one_writer = False

    def __init__(self, url: str, *, has_prepared_statements: bool = True) -> None:
        self._url = url
        self._statements = {} if has_prepared_statements else _UNPREPARED
        self._outage = Outage()
        self._failure_count = 0
        self._rest_until = 0.0
        self._writers = self._engine(WRITER_COUNT)
        self._readers = self._engine(
            READER_COUNT, isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self._news: set[str] = set()
        self._has_news = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    async def write(self, work: Callable[[Connection], T]) -> T:
        """
        Run *work* in a transaction and commit it; whatever it raises rolls all of it back.

        Raises:
            StorageUnavailable: if the server cannot be written to now. Where the connection
                was lost during the commit, it may have been written all the same.
        """
        return await self._run(self._writers, work, TRANSACTION_SECONDS)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """
        Run *work* on one consistent state of what has been committed.

        Raises:
            StorageUnavailable: if the server cannot be read now.
        """
        return await self._run(self._readers, work, TRANSACTION_SECONDS)

    async def change_schema(self, work: Callable[[Connection], T]) -> T:
        """As `write`, with all the time that it takes, and by one process at a time."""

        def work_alone(tx: Connection) -> T:
            tx.execute(text("SET LOCAL statement_timeout = 0"))
            tx.execute(select(func.pg_advisory_xact_lock(SCHEMA_LOCK)))
            return work(tx)

        return await self._run(self._writers, work_alone, None)

    def listen(self, signals: Mapping[str, asyncio.Event]) -> None:
        """Set the signal of a name whenever another process announces that name."""
        self._listening = asyncio.create_task(self._keep_listening(signals))

    def announce(self, name: str) -> None:
        """Tell the other processes, soon, that there is something to find."""
        self._news.add(name)
        self._has_news.set()

    async def close(self) -> None:
        """Close every connection."""
        if self._listening:
            self._listening.cancel()
            await asyncio.wait([self._listening])
        await self._readers.dispose()
        await self._writers.dispose()

    def _engine(self, size: int, **options: Any) -> AsyncEngine:
        return create_async_engine(
            "postgresql+asyncpg://",
            connect_args={"async_creator_fn": self._connect, **self._statements},
            pool_size=size,
            max_overflow=0,
            pool_timeout=TRANSACTION_SECONDS,
            execution_options=options,
        )

    async def _run(
        self, engine: AsyncEngine, work: Callable[[Connection], T], seconds: float | None
    ) -> T:
        try:
            with _translated():
                async with asyncio.timeout(seconds), engine.begin() as connection:
                    result = await connection.run_sync(work)
        except StorageUnavailable as error:
            self._outage.goes_on(error)
            raise
        self._outage.is_over()
        return result

    async def _connect(self, **settings: str) -> asyncpg.Connection:
        """A new connection; one that failed a moment ago is not tried again yet."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._rest_until:
            raise StorageUnavailable("PostgreSQL: it could not be reached a moment ago")
        try:
            with _translated():
                connection = await asyncpg.connect(
                    self._url,
                    timeout=CONNECT_SECONDS,
                    # SQLAlchemy keeps the prepared statements.
                    statement_cache_size=0,
                    server_settings={**SETTINGS, **settings},
                )
        except BaseException:
            rest = REST_SECONDS[min(self._failure_count, len(REST_SECONDS) - 1)]
            self._failure_count += 1
            self._rest_until = loop.time() + rest
            raise
        self._failure_count = 0
        return connection

    async def _keep_listening(self, signals: Mapping[str, asyncio.Event]) -> None:
        while True:
            try:
                with _translated():
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
        connection = await self._connect(synchronous_commit="off")
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


@contextmanager
def _translated() -> Iterator[None]:
    """Errors that speak of the server become StorageUnavailable; those of our work stay."""
    try:
        yield
    except _REFUSALS as error:
        raise StorageRefused(f"PostgreSQL: {error}") from error
    except (OSError, PoolTimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError) as error:
        raise StorageUnavailable(f"PostgreSQL: {error or type(error).__name__}") from error
    except DBAPIError as error:
        if not _is_of_the_server(error):
            raise
        raise StorageUnavailable(f"PostgreSQL: {error.orig}") from error


def _is_of_the_server(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated if code is None else code.startswith(_UNAVAILABLE)
