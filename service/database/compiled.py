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
from types import NoneType
from typing import Any, Protocol

import orjson
from sqlalchemy import ClauseElement, Connection, Dialect, literal_column
from sqlalchemy.dialects import registry
from sqlalchemy.sql.visitors import replacement_traverse

ROWS_MAX = 64
"""Rows in one statement of SQLite: with twenty columns, far below the limit on parameters."""

ROWS_HERE = "/* rows */"
"""In a statement of SQLite, the place of the rows of its values."""


class GivenRows:
    """A table whose rows are parameters: see `bulk.Given`."""


Row = Mapping[str, Any]
"""A value for each column of a `bulk.Given`, as the database stores it."""


class Driver(Protocol):
    """
    Runs statements on a connection, below SQLAlchemy.

    *is_watched* says that somebody listens to the statements of SQLAlchemy, a tracer for example:
    it is to see all of them.
    """

    is_watched: bool

    def run(self, text: str, values: tuple[Any, ...], /) -> int:
        """Run the statement *text*; returns the row count."""
        ...

    def fetch(self, text: str, values: tuple[Any, ...], /) -> Sequence[Sequence[Any]]:
        """The rows of the query *text*."""
        ...


DRIVER = "driver"
"""The execution option of a connection with its `Driver`; without one, SQLAlchemy runs all."""


def is_watched(connection: Connection) -> bool:
    """Whether somebody listens to the statements of *connection*."""
    return bool(connection.dispatch.before_cursor_execute)


def run_given(tx: Connection, statement: ClauseElement, rows: Sequence[Row]) -> int:
    """Run *statement* for *rows*, its only parameters; returns how many rows it has changed."""
    return sum([run_text(tx, text, values) for text, values in _calls(tx, statement, rows)])


def fetch_given(tx: Connection, query: ClauseElement, rows: Sequence[Row]) -> list[Sequence[Any]]:
    """The rows that *query* finds for *rows*, its only parameters."""
    return [row for text, values in _calls(tx, query, rows) for row in _fetch(tx, text, values)]


def run_text(tx: Connection, text: str, values: tuple[Any, ...]) -> int:
    """Run the statement *text* with *values* as the driver takes them; returns the row count."""
    driver = _driver_of(tx)
    return driver.run(text, values) if driver else tx.exec_driver_sql(text, values).rowcount


def _fetch(tx: Connection, text: str, values: tuple[Any, ...]) -> Sequence[Sequence[Any]]:
    driver = _driver_of(tx)
    return driver.fetch(text, values) if driver else tx.exec_driver_sql(text, values).all()


def _driver_of(tx: Connection) -> Driver | None:
    """The driver of *tx*; None if SQLAlchemy runs all statements of this transaction."""
    driver: Driver | None = tx.get_execution_options().get(DRIVER)
    return None if driver is None or driver.is_watched else driver


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


def as_json(rows: Sequence[Row]) -> str:
    """The JSON text of *rows*, as a `bulk.Given` takes it; bytes as PostgreSQL writes them."""
    return orjson.dumps(rows, default=_as_hexadecimal).decode()


def _as_hexadecimal(value: bytes) -> str:
    return rf"\x{value.hex()}"


def text_for_driver(statement: ClauseElement) -> str:
    """The text of *statement*, whose parameters are given rows, for the driver of PostgreSQL."""
    return _compiled(statement, _POSTGRESQL)[0]


_POSTGRESQL: Dialect = registry.load("postgresql")()


def nulls_in(rows: Sequence[tuple[Any, ...]]) -> tuple[int, ...]:
    """
    The numbers of the columns that are null in all *rows*.

    SQLite's library takes longer to bind a null than to bind a text: they are in the statement.
    """
    count = len(rows)
    if count == 1:
        return _nulls_among(tuple(map(type, rows[0])))
    columns = enumerate(zip(*rows, strict=True))
    return tuple([n for n, one in columns if one[0] is None and one.count(None) == count])


@lru_cache(maxsize=1024)
def _nulls_among(types: tuple[type, ...]) -> tuple[int, ...]:
    return tuple([number for number, one in enumerate(types) if one is NoneType])


def with_nulls(row: str, taken: Sequence[int], nulls: Sequence[int]) -> str:
    """The text of a *row* whose values are the columns *taken*, with the *nulls* among them."""
    first, *others = row.split("?")
    marks = ("NULL" if one in nulls else "?" for one in taken)
    return first + "".join(chain.from_iterable(zip(marks, others, strict=True)))


def taking(numbers: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """What takes the values of the columns *numbers* from a row."""
    if len(numbers) > 1:
        return itemgetter(*numbers)
    return lambda row: tuple([row[number] for number in numbers])


def _calls(
    tx: Connection, statement: ClauseElement, rows: Sequence[Row]
) -> list[tuple[str, tuple[Any, ...]]]:
    """The texts to run for *rows*, each with its values."""
    if tx.dialect.name != "sqlite":
        return [(_compiled(statement, tx.dialect)[0], (as_json(rows),))]
    text, in_order = (_compiled_for_one if len(rows) == 1 else _compiled)(statement, tx.dialect)
    # A text for one row has no place of rows, and is left as it is.
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


@lru_cache(maxsize=64)
def _compiled_for_one(
    statement: ClauseElement, dialect: Dialect
) -> tuple[str, Callable[[Row], tuple[Any, ...]]]:
    """
    The same for one row, whose values stand where the columns of the row are named.

    Otherwise SQLite makes a table of the row: 25 thousand instructions for each statement. A query
    that joins the rows has to name them, and stays as it is.
    """
    names = list[str]()

    def value_of(element: Any, **_: object) -> Any:
        if not isinstance(getattr(element, "table", None), GivenRows):
            return None
        if element.name not in names:
            names.append(element.name)
        return literal_column(f"?{names.index(element.name) + 1}", element.type)

    of_one: Any = replacement_traverse(statement, {}, value_of)
    is_named = list[str]()
    options = {"literal_binds": True, "driver_columns": is_named}
    text = str(of_one.compile(dialect=dialect, compile_kwargs=options))
    return _compiled(statement, dialect) if is_named else (text, itemgetter(*names))


@lru_cache(maxsize=256)
def _for_rows(text: str, row_count: int) -> str:
    """*text* for so many rows of values, made of its one row."""
    before, mark, after = text.partition(ROWS_HERE)
    if not mark:
        return text
    row, bracket, after = after.partition(")")
    return before + ", ".join([row + bracket] * row_count) + after
