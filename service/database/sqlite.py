"""
SQLite: one file on this machine, with one writer and several readers.

Work runs in threads of the database, so that neither a statement nor the wait for the disk blocks
the event loop.
"""

import asyncio
import fcntl
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, OperationalError

from service.database.engine import Database, Lane, Wakes
from service.errors import StorageBusy, StorageUnavailable

T = TypeVar("T")

READER_COUNT = 2
BROWSER_COUNT = 4
"""Reads at the same time: those of the service itself, and those that accounts ask for."""

READ_SECONDS = 5
"""A read that takes longer is ended: while it lasts, the write-ahead log cannot begin anew."""

INSTRUCTIONS_BETWEEN_CHECKS = 100_000
"""How often a read looks at the time: about every millisecond."""

BUSY_SECONDS = 5
"""How long a statement waits for another process, such as a command, to finish writing."""


class SqliteDatabase(Database):
    """
    An SQLite file in WAL mode with full synchronisation: a commit that returned is on disk.

    Writes are serialised in one thread over one connection, because SQLite has one writer. Reads
    run at the same time on connections of their own and see only committed rows. Other processes
    that use the file are not notified: they find by polling what is due.
    """

    product = f"SQLite {sqlite3.sqlite_version}"
    has_one_writer = True

    def __init__(self, url: str) -> None:
        super().__init__()
        counts = {Lane.WRITE: 1, Lane.READ: READER_COUNT, Lane.BROWSE: BROWSER_COUNT}
        self._engines = {lane: _open(url, count) for lane, count in counts.items()}
        self._threads = {
            lane: ThreadPoolExecutor(count, thread_name_prefix=f"database-{lane}")
            for lane, count in counts.items()
        }
        self._joined: IO[bytes] | None = None

    @asynccontextmanager
    async def joining(self) -> AsyncIterator[bool]:
        """See `Database.joining`; processes lock a file, and a lock ends with its process."""
        path = Path(f"{self._engines[Lane.WRITE].url.database}-serving")
        lock = self._joined = await asyncio.to_thread(path.open, "ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Waits while another process is alone inside the block.
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_SH)
            yield False
        else:
            yield True
            await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_SH)

    async def change_schema(self, work: Callable[[Connection], T]) -> T:
        """As `write`: there is one writer, and no time limit."""
        return await self.write(work)

    def listen(self, signals: Mapping[str, Wakes]) -> None:
        """Do nothing: no process notifies another here."""

    def notify(self, name: str, details: Collection[str] = ()) -> None:
        """Do nothing: no other process listens."""

    async def close(self) -> None:
        """Finish what was begun, then close every connection."""
        for threads in reversed(self._threads.values()):
            await asyncio.to_thread(threads.shutdown)
        for engine in self._engines.values():
            engine.dispose()
        if self._joined:
            self._joined.close()

    async def _transact(
        self,
        work: Callable[..., T],
        args: tuple[Any, ...],
        options: Mapping[str, Any],
        lane: Lane,
    ) -> tuple[T, bool]:
        engine, threads = self._engines[lane], self._threads[lane]
        transact = _write if lane is Lane.WRITE else _read
        try:
            return await asyncio.get_running_loop().run_in_executor(
                threads, transact, engine, work, args, options
            )
        except DatabaseError as error:
            if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                text = f"{engine.url.database}: a read took longer than {READ_SECONDS} s"
                raise StorageBusy(text) from error
            if not _is_of_the_database(error):
                raise
            raise StorageUnavailable(f"{engine.url.database}: {error.orig}") from error

    @staticmethod
    def _probe_read(tx: Connection) -> None:
        tx.exec_driver_sql("SELECT count(*) FROM alembic_version").close()

    @staticmethod
    def _probe_write(tx: Connection) -> None:
        # This number of the file is not used.
        tx.exec_driver_sql("PRAGMA user_version = 0").close()


def _is_of_the_database(error: DatabaseError) -> bool:
    """Whether the database is locked, full, missing or damaged, rather than our statement wrong."""
    return isinstance(error, OperationalError) or type(error) is DatabaseError


def _write(
    engine: Engine, work: Callable[..., T], args: tuple[Any, ...], options: Mapping[str, Any]
) -> tuple[T, bool]:
    """Run *work*; its result, and whether it changed a row: only a change is written to disk."""
    with engine.begin() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE").close()
        driver_connection: Any = connection.connection.dbapi_connection
        changes_before = driver_connection.total_changes
        result = work(connection, *args, **options)
        has_written = driver_connection.total_changes > changes_before
    return result, has_written


def _read(
    engine: Engine, work: Callable[..., T], args: tuple[Any, ...], options: Mapping[str, Any]
) -> tuple[T, bool]:
    """Run *work* until the deadline of a read; its result, and that it changed nothing."""
    deadline = time.monotonic() + READ_SECONDS
    with engine.begin() as connection:
        driver_connection: Any = connection.connection.dbapi_connection
        driver_connection.set_progress_handler(
            lambda: time.monotonic() > deadline, INSTRUCTIONS_BETWEEN_CHECKS
        )
        connection.exec_driver_sql("BEGIN").close()
        return work(connection, *args, **options), False


def _use_write_ahead_log(connection: Any) -> None:
    """Turn the write-ahead log on; SQLite does not wait if another process does so as well."""
    give_up_at = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() >= give_up_at:
                raise
            time.sleep(0.01)


def _open(url: str, count: int) -> Engine:
    """An engine of *count* connections, which are durable and begin no transaction themselves."""
    engine = create_engine(
        url.replace("sqlite:", "sqlite+pysqlite:", 1),
        # Otherwise the driver would begin transactions by its own rules.
        connect_args={"timeout": BUSY_SECONDS, "isolation_level": None, "check_same_thread": False},
        pool_size=count,
    )

    @event.listens_for(engine, "connect")
    def make_durable(connection: Any, _record: Any) -> None:
        _use_write_ahead_log(connection)
        # Every statement has an index; SQLite must not build one by scanning a table.
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "automatic_index=OFF"):
            connection.execute(f"PRAGMA {pragma}")

    return engine
