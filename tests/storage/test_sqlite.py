import asyncio
import threading

import pytest
from sqlalchemy import select, text

from service.database import file_access, sqlite
from service.database.engine import Lane
from service.database.sqlite import SqliteDatabase
from service.database.sqlite_library import LIBRARY
from service.errors import StorageBusy, StorageUnavailable
from service.storage.tables import origins
from tests.clock import PATIENCE_SECONDS
from tests.rows import a_database
from tests.storage.writing import write_name


def names(tx):
    """The names of the stored rows."""
    return list(tx.scalars(select(origins.c.origin).order_by(origins.c.origin)))


@pytest.fixture
async def database(tmp_path, migrated):
    """A database on the newest schema."""
    async with a_database(tmp_path) as database:
        yield database


@pytest.fixture
async def impatient(tmp_path, monkeypatch, migrated):
    """A database that waits only for a moment while another program writes."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.01)
    async with a_database(tmp_path) as database:
        yield database


@pytest.fixture
def another(tmp_path):
    """A connection of another program to the same file."""
    connection = LIBRARY.connect(tmp_path / "invoices.db", isolation_level=None)
    yield connection
    connection.close()


@pytest.mark.parametrize(
    ("expected", "pragma"), [("wal", "journal_mode"), (2, "synchronous"), (1, "foreign_keys")]
)
async def test_connections_are_durable(database, expected, pragma):
    """Every connection has the write-ahead log, full synchronisation and foreign keys."""

    def setting(tx):
        return tx.scalar(text(f"PRAGMA {pragma}"))

    assert expected == await database.write(setting)
    assert [expected] * 8 == await asyncio.gather(*(database.read(setting) for _ in range(8)))


async def test_reads_of_accounts_delay_no_others(database):
    """However many reads of accounts last, the service itself reads."""
    may_end = threading.Event()

    def wait(_tx):
        assert may_end.wait(PATIENCE_SECONDS)

    browsing = [asyncio.create_task(database.browse(wait)) for _ in range(20)]
    await asyncio.sleep(0)

    assert [] == await database.read(names)
    await database.check()

    may_end.set()
    await asyncio.gather(*browsing)


ENDLESS = """
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers)
    SELECT max(n) FROM numbers
"""


async def test_a_read_that_takes_too_long_is_ended_and_no_outage(database, monkeypatch, caplog):
    """A read has a deadline; one that reaches it is a defect, and the next read succeeds."""
    monkeypatch.setattr(sqlite, "READ_SECONDS", 0.01)

    with pytest.raises(StorageBusy, match="longer"):
        await database.browse(lambda tx: tx.execute(text(ENDLESS)).all())

    assert ["storage.busy"] == [record.msg for record in caplog.records]
    monkeypatch.undo()
    assert [] == await database.browse(names)


async def test_a_transaction_that_raises_is_rolled_back(database):
    """A transaction that raises stores nothing."""

    def write_and_fail(tx):
        write_name(tx)
        raise LookupError("afterwards")

    with pytest.raises(LookupError):
        await database.write(write_and_fail)

    assert [] == await database.read(names)


class NeverRolledBack:
    """A connection of the library that cannot roll back, as on a disk with errors."""

    def __init__(self, connection):
        self._connection = connection

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def rollback(self):
        """Fail."""
        raise LIBRARY.OperationalError("disk I/O error")


async def test_a_connection_that_cannot_roll_back_is_replaced(database):
    """Its transaction is open, so no other one could begin on it: the next write opens another."""
    await database.write(lambda tx: None)
    driver = database._writer._driver
    driver.connection = NeverRolledBack(driver.connection)

    def write_and_fail(tx):
        write_name(tx)
        raise LookupError("afterwards")

    with pytest.raises(StorageUnavailable, match="disk I/O error"):
        await database.write(write_and_fail)

    await database.write(write_name, "b")
    assert ["b"] == await database.read(names)


async def test_reads_continue_during_a_write(database):
    """A long write delays no read, and the read sees what was committed before it."""
    has_written, may_commit = threading.Event(), threading.Event()

    def write_and_wait(tx):
        write_name(tx)
        has_written.set()
        assert may_commit.wait(PATIENCE_SECONDS)

    writing = asyncio.create_task(database.write(write_and_wait))
    assert await asyncio.to_thread(has_written.wait, PATIENCE_SECONDS)

    assert [] == await database.read(names)

    may_commit.set()
    await writing
    assert ["a"] == await database.read(names)


async def test_a_read_sees_one_snapshot(database, another):
    """Rows that are committed during a read are not part of it."""

    def read_twice(tx):
        before = names(tx)
        another.execute("INSERT INTO origins VALUES ('b', 0)")
        return before, names(tx)

    # The thread that reads uses the other connection.
    another.close()
    another = LIBRARY.connect(
        database._engines[Lane.READ].url.database, isolation_level=None, check_same_thread=False
    )
    try:
        assert ([], []) == await database.read(read_twice)
    finally:
        another.close()
    assert ["b"] == await database.read(names)


async def test_a_locked_database_is_unavailable(impatient, another):
    """While another program writes, a write fails with an error that allows a retry."""
    another.execute("BEGIN IMMEDIATE")

    with pytest.raises(StorageUnavailable):
        await impatient.write(write_name)
    assert [] == await impatient.read(names)

    another.execute("ROLLBACK")
    await impatient.write(write_name)
    assert ["a"] == await impatient.read(names)


async def test_a_database_that_cannot_be_opened_is_unavailable(tmp_path):
    """A missing folder is reported as an unavailable database, with the reason."""
    database = SqliteDatabase(f"sqlite:///{tmp_path}/missing/invoices.db")
    try:
        with pytest.raises(StorageUnavailable, match="unable to open"):
            await database.write(write_name)
        with pytest.raises(StorageUnavailable):
            await database.read(names)
    finally:
        await database.close()


async def test_a_file_that_is_not_a_database_is_unavailable(tmp_path):
    """A damaged or foreign file is reported as an unavailable database, with the reason."""
    (tmp_path / "invoices.db").write_bytes(b"this is no database at all" * 100)
    database = SqliteDatabase(f"sqlite:///{tmp_path}/invoices.db")
    try:
        with pytest.raises(StorageUnavailable, match="not a database"):
            await database.write(write_name)
    finally:
        await database.close()


async def test_a_write_in_progress_is_finished_before_closing(tmp_path):
    """Closing waits for a write in progress, so that its caller gets a result."""
    async with a_database(tmp_path) as database:
        has_begun = threading.Event()

        def write(tx):
            has_begun.set()
            write_name(tx)

        writing = asyncio.create_task(database.write(write))
        assert await asyncio.to_thread(has_begun.wait, PATIENCE_SECONDS)

    await writing
    async with a_database(tmp_path) as database:
        assert ["a"] == await database.read(names)


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda file: file.rename(file.with_name("moved.db")), "was deleted or moved"),
        (lambda file: [file.rename(file.with_name("moved.db")), file.touch()], "was replaced"),
    ],
)
async def test_nothing_is_written_to_a_file_that_was_moved(
    tmp_path, database, monkeypatch, change, detail
):
    """What is accepted then would be gone after a restart; with the file back, all is well."""
    monkeypatch.setattr(file_access, "LOOK_SECONDS", 0)
    await database.write(write_name)
    await database.check()

    change(tmp_path / "invoices.db")
    with pytest.raises(StorageUnavailable, match=detail):
        await database.check()
    with pytest.raises(StorageUnavailable, match=detail):
        await database.write(lambda tx: write_name(tx, "b"))
    (tmp_path / "moved.db").rename(tmp_path / "invoices.db")

    await database.check()
    await database.write(lambda tx: write_name(tx, "c"))
    assert ["a", "c"] == await database.read(names)


async def test_the_file_is_not_looked_at_for_each_write(tmp_path, database, monkeypatch):
    """Between two looks, a write costs no call of the system for this."""
    monkeypatch.setattr(file_access, "LOOK_SECONDS", PATIENCE_SECONDS)
    await database.write(write_name)
    await database.write(lambda tx: write_name(tx, "b"))
    (tmp_path / "invoices.db").rename(tmp_path / "moved.db")

    await database.write(lambda tx: write_name(tx, "c"))
