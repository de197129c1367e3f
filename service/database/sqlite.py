"""
SQLite: one file on this machine, with one writer and several readers.

Work runs in threads of the database, so that neither a statement nor the wait for the disk blocks
the event loop. The file, and those that SQLite makes beside it, can be read by their owner alone.
"""

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import IO, Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError

from service.database.checkpoints import Checkpoints
from service.database.compiled import DRIVER, is_watched
from service.database.engine import Database, Lane, Wakes
from service.database.file_access import OpenFile, obstacle
from service.database.one_thread import OneThread
from service.database.sqlite_library import (
    LIBRARY,
    PRODUCT,
    STATEMENTS_MAX,
    VERSION,
    is_busy,
    is_interrupted,
    may_corrupt,
)
from service.errors import StorageBusy, StorageRefused, StorageUnavailable

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

HAS_ONE_WRITING_PROCESS = may_corrupt(VERSION)
"""Whether a second process that writes is refused, because it could corrupt the file."""

PRAGMAS = (
    "synchronous=FULL",
    "foreign_keys=ON",
    # Every statement has an index; SQLite must not build one by scanning a table.
    "automatic_index=OFF",
    # With a limit, ANALYZE counts rows and samples no values: plans do not depend on parameters.
    "analysis_limit=1000",
    # What is deleted is overwritten: a copy of the file has no removed bodies and no old secrets.
    "secure_delete=ON",
)

PRIVATE = 0o600
"""The mode of every file of a database."""


class SqliteDatabase(Database):
    """
    An SQLite file in WAL mode with full synchronisation: a commit that returned is on disk.

    Writes are serialised in one thread over one connection, because SQLite has one writer. Reads
    run at the same time on connections of their own and see only committed rows. Other processes
    that use the file are not notified: they find by polling what is due.

    With a library that can corrupt the file in that case, only one process at a time may write.
    """

    product = PRODUCT
    has_one_writer = True
    is_shared = False

    def __init__(self, url: str) -> None:
        super().__init__()
        _create_private(url.removeprefix("sqlite:///").partition("?")[0])
        counts = {Lane.READ: READER_COUNT, Lane.BROWSE: BROWSER_COUNT}
        self._engines = {
            Lane.WRITE: _open(url, 1),
            **{lane: _open(url, count) for lane, count in counts.items()},
        }
        self._threads = {
            lane: ThreadPoolExecutor(count, thread_name_prefix=f"database-{lane}")
            for lane, count in counts.items()
        }
        self._writer = _Writer(self._engines[Lane.WRITE])
        self._write_thread = OneThread(f"database-{Lane.WRITE}")
        self._checkpoints = Checkpoints(self._write_thread, self._writer.move_log)
        self._joined: IO[bytes] | None = None

    @asynccontextmanager
    async def joining(self) -> AsyncIterator[bool]:
        """See `Database.joining`; processes lock a file, and a lock ends with its process."""
        if HAS_ONE_WRITING_PROCESS:
            await self._as_writer(self._exclude_writers)
            yield True
            return
        lock = self._joined = await asyncio.to_thread(self._open_lock)
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
        return await self.write(_in_transaction, work)

    async def check(self) -> None:
        """See `Database.check`; the file that is open must be the one that the path leads to."""
        if self._writer.has_lost_its_file():
            await self.write(self._probe_write)
        await super().check()

    def listen(self, signals: Mapping[str, Wakes]) -> None:
        """Do nothing: no process notifies another here."""

    def notify(self, name: str, details: Collection[str] = ()) -> None:
        """Do nothing: no other process listens."""

    async def close(self) -> None:
        """Finish what was begun, then close every connection."""
        for threads in reversed(self._threads.values()):
            await asyncio.to_thread(threads.shutdown)
        self._checkpoints.close()
        await self._write_thread.close()
        self._writer.close()
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
        if lane is Lane.WRITE and HAS_ONE_WRITING_PROCESS and not self._joined:
            await self._as_writer(self._exclude_writers)
        try:
            if lane is Lane.WRITE:
                return await self._run_write(work, args, options)
            return await asyncio.get_running_loop().run_in_executor(
                self._threads[lane], _read, self._engines[lane], work, args, options
            )
        except (DatabaseError, LIBRARY.DatabaseError) as error:
            # SQLAlchemy wraps the errors of the statements that it runs.
            of_driver = error.orig if isinstance(error, DatabaseError) else error
            if is_interrupted(of_driver):
                text = f"{self._path}: a read took longer than {READ_SECONDS} s"
                raise StorageBusy(text) from error
            if not _is_of_the_database(of_driver):
                raise
            because = obstacle(self._path) if _is_of_the_file(of_driver) else ""
            raise StorageUnavailable(f"{self._path}: {of_driver}{because}") from error

    async def _run_write(
        self, work: Callable[..., T], args: tuple[Any, ...], options: Mapping[str, Any]
    ) -> tuple[T, bool]:
        changed_count = 0
        self._checkpoints.begin()
        try:
            result, changed_count = await self._write_thread.run(
                _write, self._writer, work, args, options
            )
        finally:
            self._checkpoints.end(changed_count)
        return result, changed_count > 0

    @property
    def _path(self) -> str:
        return self._engines[Lane.WRITE].url.database or ""

    async def _as_writer(self, do: Callable[[], None]) -> None:
        await self._write_thread.run(do)

    def _open_lock(self) -> IO[bytes]:
        path = f"{self._path}-serving"
        try:
            return os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, PRIVATE), "rb+", buffering=0)
        except OSError as error:
            because = obstacle(self._path)
            raise StorageUnavailable(f"{path}: {error.strerror}{because}") from error

    def _exclude_writers(self) -> None:
        """Let no other process write to the file until `close`; StorageRefused if one does."""
        if self._joined:
            return
        lock = self._open_lock()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise StorageRefused(
                f"Another process writes to {self._path}, and SQLite "
                f"{VERSION} can corrupt the file if two do. Stop the service first, or install "
                "SQLite 3.51.3 or newer: with pip install pysqlite3, for example."
            ) from None
        self._joined = lock

    @staticmethod
    def _probe_read(tx: Connection) -> None:
        tx.exec_driver_sql("SELECT count(*) FROM alembic_version").close()

    @staticmethod
    def _probe_write(tx: Connection) -> None:
        # This number of the file is not used.
        tx.exec_driver_sql("PRAGMA user_version = 0").close()


def _create_private(path: str) -> None:
    """Create the file of *path*, unless it exists: SQLite gives its other files the same mode."""
    # An existing file is not opened: closing it would release the locks of SQLite in this process.
    with suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, PRIVATE))


def _is_of_the_database(error: object) -> bool:
    """Whether the database is locked, full, missing or damaged, rather than our statement wrong."""
    return isinstance(error, LIBRARY.OperationalError) or type(error) is LIBRARY.DatabaseError


def _is_of_the_file(error: object) -> bool:
    """Whether SQLite could not open the file, or not write to it."""
    return str(error).startswith(("unable to open", "attempt to write a readonly"))


def _write(
    writer: "_Writer", work: Callable[..., T], args: tuple[Any, ...], options: Mapping[str, Any]
) -> tuple[T, int]:
    """Run *work*; its result, and how many rows it changed: only a change is written to disk."""
    connection, driver_connection = writer.begin()
    try:
        changes_before = driver_connection.total_changes
        result = work(connection, *args, **options)
        changed_count = driver_connection.total_changes - changes_before
        driver_connection.commit()
    except BaseException:
        try:
            driver_connection.rollback()
        except BaseException:
            # In an open transaction no other one can begin.
            writer.drop()
            raise
        raise
    finally:
        if connection.in_transaction():
            # Statements that SQLAlchemy ran; for the driver, the transaction has ended.
            connection.rollback()
    return result, changed_count


def _in_transaction(tx: Connection, work: Callable[[Connection], T]) -> T:
    """Run *work* in a transaction that SQLAlchemy knows: otherwise Alembic begins some itself."""
    with tx.begin():
        return work(tx)


class _Driver:
    """Runs statements on a *connection* of the library; see `compiled.Driver`."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.is_watched = False

    def run(self, text: str, values: tuple[Any, ...]) -> int:
        count: int = self.connection.execute(text, values).rowcount
        return count

    def fetch(self, text: str, values: tuple[Any, ...]) -> Sequence[Sequence[Any]]:
        rows: Sequence[Sequence[Any]] = self.connection.execute(text, values).fetchall()
        return rows


class _Writer:
    """
    The one connection that writes: kept open, and used by the thread of the writer alone.

    A transaction of SQLAlchemy takes its connection from the pool and gives it back: some 250
    thousand instructions, for each of the transactions of an invoice that comes alone.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: Connection | None = None
        self._driver: _Driver
        self._file: OpenFile

    def begin(self) -> tuple[Connection, Any]:
        """
        Begin a transaction; the connection, and that of the driver below it.

        Raises:
            StorageUnavailable: if the path of the database no longer leads to its file.
        """
        if self._kept is not None:
            if gone := self._file.obstacle():
                raise StorageUnavailable(gone)
        else:
            connection = self._engine.connect()
            self._file = OpenFile(self._engine.url.database or "")
            self._driver = _Driver(connection.connection.driver_connection)
            self._kept = connection.execution_options(**{DRIVER: self._driver})
        self._driver.is_watched = is_watched(self._kept)
        self._driver.connection.execute("BEGIN IMMEDIATE")
        return self._kept, self._driver.connection

    def has_lost_its_file(self) -> bool:
        """Whether the path of the database no longer leads to the file that is open."""
        return self._kept is not None and bool(self._file.obstacle())

    def move_log(self) -> None:
        """Move the write-ahead log to the file, as far as no reader needs it."""
        if self._kept is not None:
            self._driver.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def drop(self) -> None:
        """Close the connection, whose state is not known; the next transaction opens one."""
        if self._kept is not None:
            self._kept.invalidate()
        self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None
            self._file.close()


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
        except LIBRARY.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= give_up_at:
                raise
            time.sleep(0.01)


def _open(url: str, count: int) -> Engine:
    """An engine of *count* connections, which are durable and begin no transaction themselves."""
    engine = create_engine(
        url.replace("sqlite:", "sqlite+pysqlite:", 1),
        module=LIBRARY,
        # Otherwise the driver would begin transactions by its own rules.
        connect_args={
            "timeout": BUSY_SECONDS,
            "isolation_level": None,
            "check_same_thread": False,
            "cached_statements": STATEMENTS_MAX,
        },
        pool_size=count,
    )

    @event.listens_for(engine, "connect")
    def make_durable(connection: Any, _record: Any) -> None:
        _use_write_ahead_log(connection)
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    return engine
