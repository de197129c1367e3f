"""
The connections to PostgreSQL that write: they stay checked out, and the driver begins and commits.

SQLAlchemy takes a connection from its pool for each transaction, begins, commits and gives it back:
a greenlet for each of them, a task and several events, for three transactions of every invoice.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio.engine import AsyncConnection, AsyncEngine
from sqlalchemy.util import await_only

from service.database.at_once import AtOnce, Found
from service.database.compiled import DRIVER, is_watched
from service.errors import StorageUnavailable

T = TypeVar("T")

READ_ONLY = "25006"
"""The SQLSTATE of a statement that would write in a transaction that may not."""


class _Driver:
    """Runs statements on a *connection* of asyncpg, in a greenlet; see `compiled.Driver`."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.is_watched = False
        self.is_sound = True
        """Whether its last transaction has ended as it should; another one may begin then."""

    def run(self, text: str, values: tuple[Any, ...]) -> int:
        status: str = await_only(self.connection.execute(text, *values))
        return int(status.rpartition(" ")[2])

    def fetch(self, text: str, values: tuple[Any, ...]) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]] = await_only(self.connection.fetch(text, *values))
        return rows


_Writer = tuple[AsyncConnection, _Driver]
"""A connection, and the driver below it."""


class Writers:
    """Connections of *engine*, taken once and kept; each is opened within *timeout_seconds*."""

    def __init__(self, engine: AsyncEngine, timeout_seconds: float) -> None:
        self._engine = engine
        self._timeout_seconds = timeout_seconds
        self._kept: list[_Writer] = []
        self._opening_count = 0

    async def transact(
        self, work: Callable[..., T], args: tuple[Any, ...], options: Mapping[str, Any]
    ) -> T:
        """Run *work* in a transaction and commit it; an exception rolls all of it back."""
        writer = await self._take()
        connection, driver = writer
        return await self._run(writer, connection.run_sync(_transact, driver, work, args, options))

    async def run_at_once(self, statement: AtOnce) -> Found:
        """The rows of *statement*, which is a transaction of its own."""
        writer = await self._take()
        return await self._run(writer, _fetch(writer, statement, self._timeout_seconds))

    async def close(self) -> None:
        """Close the connections that are not in use."""
        while self._kept:
            await self._kept.pop()[0].close()

    async def _run(self, writer: _Writer, transaction: Awaitable[T]) -> T:
        """What *transaction* gives, which uses *writer*; the writer is kept if it can be."""
        try:
            result = await transaction
        except BaseException as failure:
            if isinstance(failure, TimeoutError) or not isinstance(failure, Exception):
                # At its deadline, or cancelled: what the server has done is not known.
                await _drop(writer)
            elif _is_of_a_reader(failure):
                # It keeps what was set when it began, and perhaps leads to a server that is no
                # longer the one for writes: a new one sees what is true now.
                await _drop(writer)
            else:
                await self._give_back(writer)
            raise
        await self._give_back(writer)
        return result

    async def _take(self) -> _Writer:
        while self._kept:
            writer = self._kept.pop()
            if not writer[1].connection.is_closed():
                return writer
            # The server has closed it while it was not in use.
            await _drop(writer)
        return await self._open()

    async def _open(self) -> _Writer:
        self._opening_count += 1
        try:
            async with asyncio.timeout(self._timeout_seconds):
                connection = await self._engine.connect()
        finally:
            self._opening_count -= 1
        pooled = await connection.get_raw_connection()
        driver: Any = pooled.driver_connection
        of_connection = _Driver(driver)
        # Otherwise SQLAlchemy would begin a transaction as well.
        options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", DRIVER: of_connection}
        await connection.execution_options(**options)
        return connection, of_connection

    async def _give_back(self, writer: _Writer) -> None:
        connection, driver = writer
        if driver.connection.is_closed() or not driver.is_sound:
            await _drop(writer)
        elif self._opening_count:
            # Somebody waits for a connection, perhaps for this one.
            await connection.close()
        else:
            self._kept.append(writer)


async def _fetch(writer: _Writer, statement: AtOnce, timeout_seconds: float) -> Found:
    connection, driver = writer
    of_writer = connection.sync_connection
    if of_writer is not None and is_watched(of_writer):
        async with asyncio.timeout(timeout_seconds):
            run = await connection.exec_driver_sql(statement.text, statement.values)
        return run.all()
    # The driver bounds its time: a block with a deadline takes 27 thousand instructions.
    rows: Found = await driver.connection.fetch(
        statement.text, *statement.values, timeout=timeout_seconds
    )
    return rows


def _is_of_a_reader(failure: BaseException) -> bool:
    """Whether *failure* says that nothing can be written over this connection."""
    of_driver = getattr(failure, "orig", failure)
    return isinstance(failure, StorageUnavailable) or (
        getattr(of_driver, "sqlstate", None) == READ_ONLY
    )


async def _drop(writer: _Writer) -> None:
    connection, driver = writer
    driver.connection.terminate()
    await connection.invalidate()
    await connection.close()


def _transact(
    tx: Connection,
    driver: _Driver,
    work: Callable[..., T],
    args: tuple[Any, ...],
    options: Mapping[str, Any],
) -> T:
    driver.is_watched = is_watched(tx)
    driver.is_sound = False
    await_only(driver.connection.execute("BEGIN"))
    try:
        result = work(tx, *args, **options)
    except Exception:
        # A connection that cannot roll back is dropped; why the work failed is what counts.
        with suppress(Exception):
            await_only(driver.connection.execute("ROLLBACK"))
            driver.is_sound = True
        raise
    else:
        await_only(driver.connection.execute("COMMIT"))
        driver.is_sound = True
        return result
    finally:
        if tx.in_transaction():
            # Statements that SQLAlchemy ran; for the driver, the transaction has ended.
            tx.rollback()
