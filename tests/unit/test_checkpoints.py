"""Checkpoints of SQLite are made in the pauses of the writer."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3

import pytest
from sqlalchemy import text

from service.database.checkpoints import ROWS_BETWEEN, Checkpoints
from service.database.one_thread import OneThread
from service.database.sqlite import SqliteDatabase, _Writer

PATIENCE_SECONDS = 10


class Moves:
    """Counts the checkpoints, and says when there is one."""

    def __init__(self):
        self.count = 0
        self.is_made = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def move(self):
        """In the thread of the writer."""
        self.count += 1
        self._loop.call_soon_threadsafe(self.is_made.set)

    async def are_made(self):
        """Return behind the first one."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.is_made.wait()


@pytest.fixture
async def thread():
    """The thread of a writer."""
    thread = OneThread("test")
    yield thread
    await thread.close()


@pytest.fixture
async def moves():
    """The checkpoints that are made."""
    return Moves()


@pytest.fixture
async def checkpoints(thread, moves):
    """What makes checkpoints in *thread*."""
    return Checkpoints(thread, moves.move)


async def test_the_log_is_moved_in_a_pause(checkpoints, moves):
    """After enough changed rows, the first moment without a transaction is used."""
    checkpoints.begin()
    checkpoints.end(ROWS_BETWEEN)

    await moves.are_made()
    assert 1 == moves.count


async def test_nobody_waits_for_a_checkpoint_that_is_not_due(checkpoints, moves, thread):
    """Few rows are left where they are, and so are many while somebody writes."""
    checkpoints.begin()
    checkpoints.end(ROWS_BETWEEN - 1)
    checkpoints.begin()
    checkpoints.begin()
    checkpoints.end(1)
    await thread.run(lambda: None)

    assert 0 == moves.count
    checkpoints.end(0)
    await moves.are_made()
    assert 1 == moves.count


async def test_a_transaction_that_begins_in_the_pause_is_not_delayed(checkpoints, moves, thread):
    """The checkpoint is put off until it has ended."""
    checkpoints.begin()
    checkpoints.end(ROWS_BETWEEN)
    checkpoints.begin()
    checkpoints._use_pause()
    await thread.run(lambda: None)

    assert 0 == moves.count
    checkpoints.close()


async def test_what_was_committed_is_in_the_file_after_a_pause(moves, tmp_path, monkeypatch):
    """Without the write-ahead log, the file has the rows."""
    path = tmp_path / "invoices.db"
    move_log = _Writer.move_log

    def move(self):
        move_log(self)
        moves.move()

    monkeypatch.setattr(_Writer, "move_log", move)
    database = SqliteDatabase(f"sqlite:///{path}")
    await database.write(lambda tx: tx.execute(text("CREATE TABLE t (n INTEGER)")))
    await database.write(
        lambda tx: tx.execute(text("INSERT INTO t VALUES (:n)"), [{"n": 1}] * ROWS_BETWEEN)
    )
    await moves.are_made()

    shutil.copyfile(path, tmp_path / "copy.db")
    with sqlite3.connect(tmp_path / "copy.db") as copy:
        assert [(ROWS_BETWEEN,)] == copy.execute("SELECT count(*) FROM t").fetchall()
    copy.close()
    await database.close()
