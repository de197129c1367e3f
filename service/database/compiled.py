"""
Statements that SQLAlchemy compiles once, and the driver of the database runs.

They are the few that every invoice needs. For one of them SQLAlchemy spends more than the driver
and SQLite together, on parameters, events and the object of the result: a lone invoice took 5,030
thousand instructions when SQLAlchemy ran them. All other statements stay with SQLAlchemy.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import orjson
from sqlalchemy import Connection, Dialect, TableClause
from sqlalchemy.sql.elements import CompilerElement
from sqlalchemy.util import await_only

ROWS_MAX = 64
"""Rows in one statement of SQLite: with twenty columns, far below the limit on parameters."""

ROWS_HERE = "/* rows */"
"""In a statement of SQLite, the place of the rows of its values."""

FOR_DRIVER = {"literal_binds": True, "is_for_driver": True}
"""Options of compilation: constants stand in the text, and given rows are its parameters."""


def run(tx: Connection, text: str, values: Sequence[Any]) -> int:
    """Run the statement *text* with *values* as the driver takes them; returns the row count."""
    if tx.engine._has_events:
        # Who listens to statements, such as a tracer, is to see all of them.
        return tx.exec_driver_sql(text, tuple(values)).rowcount
    driver: Any = tx.connection.driver_connection
    if tx.dialect.name == "sqlite":
        count: int = driver.execute(text, values).rowcount
        return count
    status: str = await_only(driver.execute(text, *values))
    return int(status.rpartition(" ")[2])


def fetch(tx: Connection, text: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
    """Run the query *text* with *values* as the driver takes them; returns its rows."""
    if tx.engine._has_events:
        return tx.exec_driver_sql(text, tuple(values)).all()
    driver: Any = tx.connection.driver_connection
    rows: Sequence[Sequence[Any]] = (
        driver.execute(text, values).fetchall()
        if tx.dialect.name == "sqlite"
        else await_only(driver.fetch(text, *values))
    )
    return rows


class Compiled:
    """
    A *statement* whose only parameters are the rows of *given*, a `bulk.Given`.

    A row has a value for each column, in their order and as the database stores it: an instant in
    microseconds since 1970.
    """

    def __init__(self, statement: CompilerElement, given: TableClause) -> None:
        self._statement = statement
        self._columns = tuple(given.columns.keys())

    def run(self, tx: Connection, rows: Sequence[Sequence[Any]]) -> int:
        """Run the statement for *rows*; returns how many rows it has changed."""
        return sum([run(tx, text, values) for text, values in self._calls(tx, rows)])

    def fetch(self, tx: Connection, rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
        """The rows that the query finds for *rows*."""
        return [row for text, values in self._calls(tx, rows) for row in fetch(tx, text, values)]

    def _calls(
        self, tx: Connection, rows: Sequence[Sequence[Any]]
    ) -> Sequence[tuple[str, Sequence[Any]]]:
        if tx.dialect.name == "sqlite":
            return [
                (self._text(tx.dialect, len(chunk)), tuple(chain.from_iterable(chunk)))
                for chunk in chunks(rows)
            ]
        objects = [dict(zip(self._columns, row, strict=True)) for row in rows]
        return [(self._text(tx.dialect, 1), (orjson.dumps(objects).decode(),))]

    def _text(self, dialect: Dialect, row_count: int) -> str:
        return _text(self._statement, dialect, len(self._columns), row_count)


def chunks(rows: Sequence[Sequence[Any]]) -> list[Sequence[Sequence[Any]]]:
    """*rows* in pieces whose lengths are powers of two, so that few statements serve them all."""
    if len(rows) == 1:
        return [rows]
    pieces, start = [], 0
    while start < len(rows):
        size = min(ROWS_MAX, 1 << ((len(rows) - start).bit_length() - 1))
        pieces.append(rows[start : start + size])
        start += size
    return pieces


def placeholders(column_count: int, row_count: int) -> str:
    """The parameters of SQLite for rows of values."""
    return ", ".join([f"({', '.join('?' * column_count)})"] * row_count)


@lru_cache(maxsize=256)
def _text(statement: CompilerElement, dialect: Dialect, column_count: int, row_count: int) -> str:
    text = str(statement.compile(dialect=dialect, compile_kwargs=FOR_DRIVER))
    return text.replace(ROWS_HERE, placeholders(column_count, row_count))
