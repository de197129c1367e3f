"""A process that writes to an SQLite file: `python -m tests.storage.writing FILE NAME`."""

from __future__ import annotations

import asyncio
import sys

from sqlalchemy import insert

from service.database.engine import Lane
from service.database.sqlite import SqliteDatabase
from service.storage.tables import origins
from tests.clock import START

COUNT = 300
"""How many rows a process writes, each in a transaction of its own."""


def write_name(tx, name="a"):
    """Write one row."""
    tx.execute(insert(origins), {"origin": name, "held_until": START})


def checkpoint(database):
    """Copy the log into the file, so that the next write begins the log anew."""
    with database._engines[Lane.WRITE].connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").close()


async def write_all(file, name):
    """Write `COUNT` rows, with a checkpoint after each."""
    database = SqliteDatabase(f"sqlite:///{file}")
    try:
        for number in range(COUNT):
            await database.write(write_name, f"{name}{number}")
            await asyncio.to_thread(checkpoint, database)
    finally:
        await database.close()


if __name__ == "__main__":
    asyncio.run(write_all(*sys.argv[1:]))
