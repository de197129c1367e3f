"""Which SQLite library is used, and that several processes cannot corrupt a file with it."""

import asyncio
import os
import platform
import stat
import sys
from contextlib import closing

import pytest

from service.database import sqlite
from service.database.sqlite import SqliteDatabase
from service.database.sqlite_library import LIBRARY, PRODUCT, VERSION, may_corrupt
from service.errors import StorageRefused
from service.storage.tables import origins
from tests.rows import a_database, rows_of
from tests.storage import writing

HAS_WHEELS = (sys.platform, platform.machine()) in {("linux", "x86_64"), ("darwin", "arm64")}


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("3.6.23", False),
        ("3.7.0", True),
        ("3.40.1", True),
        ("3.44.5", True),
        ("3.44.6", False),
        ("3.45.0", True),
        ("3.46.1", True),
        ("3.50.6", True),
        ("3.50.7", False),
        ("3.51.0", True),
        ("3.51.2", True),
        ("3.51.3", False),
        ("3.53.4", False),
        ("4.0.0", False),
    ],
)
def test_versions_that_can_corrupt_a_file_are_known(version, expected):
    """The defect came with the write-ahead log, and was mended in three series."""
    assert expected is may_corrupt(version)


@pytest.mark.skipif(not HAS_WHEELS, reason="pysqlite3 has no wheel for this machine")
def test_a_mended_library_is_used_where_there_is_one():
    """On machines with a wheel, the service brings its own SQLite."""
    assert ("pysqlite3.dbapi2", False) == (LIBRARY.__name__, may_corrupt(VERSION))
    assert f"SQLite {VERSION} (pysqlite3)" == PRODUCT


@pytest.mark.skipif(may_corrupt(VERSION), reason="this SQLite has the defect")
async def test_two_writers_do_not_corrupt_the_file(tmp_path):
    """Two processes write and reset the log thousands of times, and the file stays intact."""
    async with a_database(tmp_path) as database:
        path = str(tmp_path / "invoices.db")
        writers = [
            await asyncio.create_subprocess_exec(sys.executable, "-m", writing.__name__, path, name)
            for name in ("a", "b")
        ]
        assert [0, 0] == [await one.wait() for one in writers]

        rows = await rows_of(database, origins)
    with closing(LIBRARY.connect(tmp_path / "invoices.db")) as connection:
        assert [("ok",)] == connection.execute("PRAGMA integrity_check").fetchall()
    assert 2 * writing.COUNT == len(rows)


@pytest.fixture
def defective(monkeypatch):
    """The library is one that can corrupt the file."""
    monkeypatch.setattr(sqlite, "HAS_ONE_WRITING_PROCESS", True)


async def test_a_second_writer_is_refused_with_a_defective_library(tmp_path, defective):
    """While one process may write, another one gets an error that says what to do, and can read."""
    async with a_database(tmp_path) as database:
        another = SqliteDatabase(f"sqlite:///{tmp_path}/invoices.db")
        try:
            with pytest.raises(StorageRefused, match="Stop the service first"):
                await another.write(writing.write_name, "a")
            assert [] == await rows_of(another, origins)
            await asyncio.gather(*(database.write(writing.write_name, name) for name in "bc"))
        finally:
            await another.close()


async def test_a_writer_may_follow_another_with_a_defective_library(tmp_path, defective):
    """The right to write ends with the process that has it."""
    async with a_database(tmp_path) as database:
        await database.write(writing.write_name, "a")
    async with a_database(tmp_path) as database:
        async with database.joining() as is_alone:
            assert is_alone
        assert ["a"] == [row["origin"] for row in await rows_of(database, origins)]


async def test_the_files_of_a_database_are_private(tmp_path):
    """Only the owner can read the file, its log, its index and its lock, whatever the umask."""
    before = os.umask(0)
    try:
        async with a_database(tmp_path) as database, database.joining():
            await database.write(writing.write_name, "a")
            modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()}
    finally:
        os.umask(before)

    names = {f"invoices.db{ending}" for ending in ("", "-wal", "-shm", "-serving")}
    assert dict.fromkeys(names, 0o600) == modes


async def test_an_existing_file_keeps_its_mode(tmp_path):
    """An operator may have given the file to a group."""
    file = tmp_path / "invoices.db"
    file.touch()
    file.chmod(0o640)

    async with a_database(tmp_path):
        assert 0o640 == stat.S_IMODE(file.stat().st_mode)


async def test_deleted_rows_are_overwritten(tmp_path):
    """What was deleted is not in the file: a copy of it has no secrets of former days."""
    async with a_database(tmp_path) as database:
        await database.write(writing.write_name, "https://long-ago.example:443")
        await database.write(lambda tx: tx.execute(origins.delete()).close())
    for file in tmp_path.iterdir():
        assert b"long-ago" not in file.read_bytes()
