"""
A real database beside the memory: every transaction runs on both, and their rows must be equal.

The memory is fast and decides the run. With a twin, the statements of the service execute the same
transactions: a result or a row that differs is a defect of one of the two.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache

from sqlalchemy import StaticPool, create_engine, event, func, select

from service.storage import accepting, accounts, history, invoices, receivers
from service.storage.leases import Undecided
from service.storage.tables import metadata
from tests.rows import rows_in

FREE_COLUMNS = {("attempts", "detail"), ("account_secrets", "id"), ("events", "position")}
"""Columns that differ: texts for people, and what each database generates for itself."""

UNORDERED = {accounts.all_secrets, receivers.answered}
"""Reads whose results have no order."""

SHOWN = {history.find, invoices.find}
"""Reads for people: their results are not compared here."""


@cache
def _engine():
    """One database for this process; every run is rolled back."""
    engine = create_engine(
        "sqlite+pysqlite://", poolclass=StaticPool, connect_args={"isolation_level": None}
    )
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with engine.begin() as tx:
        metadata.create_all(tx)
    return engine


@cache
def _row_counts():
    """The statement that counts the rows of every table."""
    counts = (select(func.count()).select_from(one) for one in metadata.tables.values())
    return select(*(one.scalar_subquery() for one in counts))


class Twin:
    """SQLite, for one run."""

    def __init__(self):
        self._connection = _engine().connect()
        self._run = self._connection.begin()
        self._changed_count = self._total_changes()

    def close(self):
        """Roll back the run."""
        self._run.rollback()
        self._connection.close()

    @contextmanager
    def transaction(self, memory):
        """Execute the body as one transaction; afterwards the rows must equal those of *memory*."""
        with self._connection.begin_nested():
            yield
            self._compare_rows(memory)

    def do(self, work, *args, **options):
        """Execute *work* on SQLite as well."""
        return None if work in SHOWN else work(self._connection, *args, **options)

    def compare(self, work, expected, result):
        """Compare what SQLite and the memory have returned for *work*."""
        if work in UNORDERED:
            expected, result = sorted(expected, key=repr), sorted(result, key=repr)
        if expected != result and work not in SHOWN:
            raise AssertionError(f"SQLite returns {expected}, and the memory {result}")

    def do_all(self, work, items):
        """The results for *items*, split like group commit after a failure."""
        if work in {invoices.accept, accepting.accept}:
            # SQLite inserts the rows of a batch in the order of their ids, the memory does not.
            return [self.do(work, [item])[0] for item in items]
        try:
            with self._connection.begin_nested():
                return list(work(self._connection, items))
        except Undecided:
            middle = len(items) // 2
            return self.do_all(work, items[:middle]) + self.do_all(work, items[middle:])

    def _total_changes(self):
        """The number of rows that SQLite has inserted, changed or deleted so far."""
        return self._connection.connection.dbapi_connection.total_changes

    def _compare_rows(self, memory):
        before, self._changed_count = self._changed_count, self._total_changes()
        if before == self._changed_count and not memory.has_changed:
            # Neither of the two has written: the rows are those of the last comparison.
            return
        counts = self._connection.execute(_row_counts()).one()
        for (name, table), count in zip(metadata.tables.items(), counts, strict=True):
            # More than half of the tables are empty: reading them takes longer than counting all.
            stored = rows_in(self._connection, table) if count else []
            expected = rows_in(memory, table)
            if name == "account_secrets":
                for rows in (stored, expected):
                    rows.sort(key=lambda row: row["ciphertext"])
            for ours, its in zip(expected, stored, strict=True):
                for column in ours:
                    if ours[column] != its[column] and (name, column) not in FREE_COLUMNS:
                        raise AssertionError(
                            f"{column} of {name} is {its[column]!r} in SQLite, and in the memory "
                            f"{ours[column]!r}: {its}"
                        )
