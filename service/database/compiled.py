"""
Statements that SQLAlchemy compiles once, and the driver of the database runs.

They are the few that every invoice needs. For one of them SQLAlchemy spends more than the driver
and SQLite together, on parameters, events and the object of the result: a lone invoice took 5,030
thousand instructions when SQLAlchemy ran them. All other statements stay with SQLAlchemy.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any

import orjson
from sqlalchemy import ClauseElement, Connection, Dialect
from sqlalchemy.util import await_only

ROWS_MAX = 64
"""Rows in one statement of SQLite: with twenty columns, far below the limit on parameters."""

ROWS_HERE = "/* rows */"
"""In a statement of SQLite, the place of the rows of its values."""

Row = Mapping[str, Any]
"""A value for each column of a `bulk.Given`, as the database stores it."""


def run_given(tx: Connection, statement: ClauseElement, rows: Sequence[Row]) -> int:
    """Run *statement* for *rows*, its only parameters; returns how many rows it has changed."""
    return sum([run_text(tx, text, values) for text, values in _calls(tx, statement, rows)])


def fetch_given(tx: Connection, query: ClauseElement, rows: Sequence[Row]) -> list[Sequence[Any]]:
    """The rows that *query* finds for *rows*, its only parameters."""
    return [row for text, values in _calls(tx, query, rows) for row in _fetch(tx, text, values)]


def run_text(tx: Connection, text: str, values: Sequence[Any]) -> int:
    """Run the statement *text* with *values* as the driver takes them; returns the row count."""
    if tx.dispatch.before_cursor_execute:
        # Who listens to statements, such as a tracer, is to see all of them.
        return tx.exec_driver_sql(text, tuple(values)).rowcount
    driver: Any = tx.connection.driver_connection
    if tx.dialect.name == "sqlite":
        count: int = driver.execute(text, values).rowcount
        return count
    status: str = await_only(driver.execute(text, *values))
    return int(status.rpartition(" ")[2])


def _fetch(tx: Connection, text: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
    if tx.dispatch.before_cursor_execute:
        return tx.exec_driver_sql(text, tuple(values)).all()
    driver: Any = tx.connection.driver_connection
    rows: Sequence[Sequence[Any]] = (
        driver.execute(text, values).fetchall()
        if tx.dialect.name == "sqlite"
        else await_only(driver.fetch(text, *values))
    )
    return rows


def chunks(rows: Sequence[Any]) -> list[Sequence[Any]]:
    """*rows* in pieces whose lengths are powers of two, so that few statements serve them all."""
    if len(rows) == 1:
        return [rows]
    pieces, start = [], 0
    while start < len(rows):
        size = min(ROWS_MAX, 1 << ((len(rows) - start).bit_length() - 1))
        pieces.append(rows[start : start + size])
        start += size
    return pieces


def _calls(
    tx: Connection, statement: ClauseElement, rows: Sequence[Row]
) -> list[tuple[str, Sequence[Any]]]:
    """The texts to run for *rows*, each with its values."""
    text, in_order = _compiled(statement, tx.dialect)
    if tx.dialect.name != "sqlite":
        return [(text, (orjson.dumps(rows).decode(),))]
    return [
        (_for_rows(text, len(chunk)), tuple(chain.from_iterable(map(in_order, chunk))))
        for chunk in chunks(rows)
    ]


@lru_cache(maxsize=64)
def _compiled(
    statement: ClauseElement, dialect: Dialect
) -> tuple[str, Callable[[Row], tuple[Any, ...]]]:
    """The text of *statement*, and what takes the values of a row in the order of its columns."""
    columns: list[str] = []
    options = {"literal_binds": True, "driver_columns": columns}
    text = str(statement.compile(dialect=dialect, compile_kwargs=options))
    row = f"({', '.join('?' * len(columns))})"
    return text.replace(ROWS_HERE, ROWS_HERE + row), itemgetter(*columns)


@lru_cache(maxsize=256)
def _for_rows(text: str, row_count: int) -> str:
    """*text* for so many rows of values, made of its one row."""
    before, _, after = text.partition(ROWS_HERE)
    row, bracket, after = after.partition(")")
    return before + ", ".join([row + bracket] * row_count) + after
