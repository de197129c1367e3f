"""
Inserts of many rows: SQLAlchemy compiles the statement once, and the driver runs it.

SQLAlchemy would otherwise spend more time on the parameters of a row than the database on storing
it. One statement for many rows releases the interpreter lock once instead of once for each row:
under load, getting it back takes time.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Dialect, Table, bindparam, func, insert, select
from sqlalchemy.dialects import postgresql

ROWS_MAX = 64
"""Rows in one statement: with twenty columns, far below the limit of parameters."""


def insert_rows(
    tx: Connection, table: Table, rows: Sequence[tuple[Any, ...]], *, unless_known: bool = False
) -> int:
    """
    Insert *rows* into *table*; returns how many were inserted.

    Each row has a value for every column, in the order of the table and as the database stores
    it: an instant in microseconds since 1970. With *unless_known*, rows that violate a unique key
    are left out; otherwise one of them fails all.
    """
    insert_all = _insert_arrays if tx.dialect.name == "postgresql" else _insert_values
    return insert_all(tx, table, rows, ON_CONFLICT if unless_known else "") if rows else 0


ON_CONFLICT = " ON CONFLICT DO NOTHING"


def _insert_arrays(
    tx: Connection, table: Table, rows: Sequence[tuple[Any, ...]], ending: str
) -> int:
    """One array for each column: one statement, prepared once, for any number of rows."""
    statement = _array_statement(table, tx.dialect) + ending
    return tx.exec_driver_sql(statement, tuple(map(list, zip(*rows, strict=True)))).rowcount


def _insert_values(
    tx: Connection, table: Table, rows: Sequence[tuple[Any, ...]], ending: str
) -> int:
    inserted = 0
    for chunk in _chunks(rows):
        statement = _value_statement(table, tx.dialect, len(chunk)) + ending
        inserted += tx.exec_driver_sql(statement, tuple(chain.from_iterable(chunk))).rowcount
    return inserted


def _chunks(rows: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    """*rows* in pieces whose lengths are powers of two, so that few statements serve them all."""
    start = 0
    while start < len(rows):
        size = min(ROWS_MAX, 1 << ((len(rows) - start).bit_length() - 1))
        yield rows[start : start + size]
        start += size


@lru_cache(maxsize=16)
def _array_statement(table: Table, dialect: Dialect) -> str:
    names = [column.name for column in table.columns]
    arrays = [
        bindparam(f"column_{number}", type_=postgresql.ARRAY(column.type))
        for number, column in enumerate(table.columns)
    ]
    rows = func.unnest(*arrays).table_valued(*names).render_derived("given")
    compiled = insert(table).from_select(names, select(*rows.c)).compile(dialect=dialect)
    if compiled.positiontup != [array.key for array in arrays]:
        # The driver takes values by position; they would end up in wrong columns.
        raise AssertionError(f"{dialect.name} does not take the columns in their order")
    return str(compiled)


@lru_cache(maxsize=64)
def _value_statement(table: Table, dialect: Dialect, row_count: int) -> str:
    values = {column.name: bindparam(column.name, type_=column.type) for column in table.columns}
    compiled = insert(table).values(values).compile(dialect=dialect)
    if compiled.positiontup != list(values):
        # The driver takes values by position; they would end up in wrong columns.
        raise AssertionError(f"{dialect.name} does not take the columns in their order")
    # Repeated here: to compile sixty rows takes longer than to insert a thousand.
    head, keyword, row = str(compiled).partition(" VALUES ")
    return head + keyword + ", ".join([row] * row_count)
