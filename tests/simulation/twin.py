"""
A real database beside the memory: every transaction is done in both, and they must stay the same.

The memory decides what happens in a run, and is fast. With a twin, the service's own statements do
the same at the same time: an answer or a row that differs is a broken promise of one of the two.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache

from sqlalchemy import StaticPool, create_engine, event

from service.storage import invoices
from service.storage.leases import Undecided
from service.storage.tables import metadata
from tests.rows import rows_in

TABLES = ("invoices", "events", "deliveries", "attempts", "origins")

WORDS = {"detail"}
"""Columns for people, which the memory writes in words of its own."""


@cache
def _engine():
    """One database in this process; every run undoes what it has done to it."""
    engine = create_engine(
        "sqlite+pysqlite://", poolclass=StaticPool, connect_args={"isolation_level": None}
    )
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with engine.begin() as tx:
        metadata.create_all(tx)
    return engine


class Twin:
    """SQLite, for one run."""

    def __init__(self):
        self._connection = _engine().connect()
        self._run = self._connection.begin()

    def close(self):
        """Undo the run."""
        self._run.rollback()
        self._connection.close()

    @contextmanager
    def transaction(self, memory):
        """What is done inside is done together, and what is there then is what *memory* has."""
        with self._connection.begin_nested():
            yield
            self._compare(memory)

    def do(self, work, *given, **options):
        """Do to SQLite what is being done to the memory."""
        return work(self._connection, *given, **options)

    def do_all(self, work, items):
        """The answers for *items*; as group commit does, divided until it can be told whose."""
        if work is invoices.accept:
            # Of a batch, rows are born in the order of their ids; the memory's as they came.
            return [self.do(work, [item])[0] for item in items]
        try:
            with self._connection.begin_nested():
                return list(work(self._connection, items))
        except Undecided:
            middle = len(items) // 2
            return self.do_all(work, items[:middle]) + self.do_all(work, items[middle:])

    def _compare(self, memory):
        for name in TABLES:
            table = metadata.tables[name]
            stored = rows_in(self._connection, table)
            for ours, its in zip(rows_in(memory, table), stored, strict=True):
                for column in ours.keys() - WORDS:
                    if ours[column] != its[column]:
                        raise AssertionError(
                            f"{column} of {name} is {its[column]!r} in SQLite, and should be "
                            f"{ours[column]!r}: {its}"
                        )
