"""
Many rows in one statement, which is compiled and prepared once.

Otherwise SQLAlchemy would spend more time on the parameters of a row than the database on storing
it. One statement for many rows releases the interpreter lock once, and not once for each row:
under load, getting it back takes time. Databases prepare a statement once and reuse it; but a
statement with parameters for each row is another statement for each number of rows.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import orjson
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Table,
    Text,
    bindparam,
    column,
    func,
    insert,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import TableClause
from sqlalchemy.types import TypeEngine

from service.database.compiled import (
    ROWS_HERE,
    GivenRows,
    chunks,
    nulls_in,
    run_text,
    taking,
    with_nulls,
)

COMPUTED = "computed"
"""
The key in `Column.info` of a function that makes the value of the column.

It is called with the name of the dialect and with the given columns of the row.
"""

Compute = Callable[[str, Mapping[str, ColumnElement[Any]]], ColumnElement[Any]]


def insert_rows(
    tx: Connection, table: Table, rows: Sequence[tuple[Any, ...]], *, unless_known: bool = False
) -> int:
    """
    Insert *rows* into *table*; returns how many were inserted.

    Each row has a value for every column that is not `COMPUTED`, in the order of the table and as
    the database stores it: an instant in microseconds since 1970. With *unless_known*, rows that
    violate a unique key are left out; otherwise one of them fails all.
    """
    insert_all = _insert_arrays if tx.dialect.name == "postgresql" else _insert_values
    return (
        insert_all(tx, table, rows, " ON CONFLICT DO NOTHING" if unless_known else "")
        if rows
        else 0
    )


def insert_of(dialect_name: str) -> Any:
    """The INSERT of that database, which may have an ON CONFLICT."""
    return sqlite.insert if dialect_name == "sqlite" else postgresql.insert


class Given(GivenRows, TableClause):
    """A table named `given`, with *columns*, whose rows are one parameter, a JSON text."""

    inherit_cache = True

    def __init__(self, **columns: TypeEngine[Any]) -> None:
        super().__init__("given", *(column(name, type_) for name, type_ in columns.items()))


def given(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The parameter that holds *rows*, their values as the database stores them."""
    return {"given": orjson.dumps(rows).decode()}


def _insert_arrays(
    tx: Connection, table: Table, rows: Sequence[tuple[Any, ...]], ending: str
) -> int:
    """One array for each column: one statement, prepared once, for any number of rows."""
    statement = _array_statement(table, tx.dialect, ending)
    columns = tuple(map(list, zip(*rows, strict=True)))
    return run_text(tx, statement, columns)


def _insert_values(
    tx: Connection, table: Table, rows: Sequence[tuple[Any, ...]], ending: str
) -> int:
    inserted = 0
    for chunk in chunks(rows):
        statement, select_values = _value_statement(
            table, tx.dialect, ending, len(chunk), nulls_in(chunk)
        )
        inserted += run_text(tx, statement, tuple(chain.from_iterable(map(select_values, chunk))))
    return inserted


@lru_cache(maxsize=32)
def _array_statement(table: Table, dialect: Dialect, ending: str) -> str:
    columns = _given_columns(table)
    names = [column.name for column in columns]
    arrays = [
        bindparam(f"column_{number}", type_=postgresql.ARRAY(column.type))
        for number, column in enumerate(columns)
    ]
    rows = func.unnest(*arrays).table_valued(*names).render_derived("given")
    values = _values(table, dialect, dict(rows.c.items()))
    compiled = (
        insert(table).from_select(list(values), select(*values.values())).compile(dialect=dialect)
    )
    if compiled.positiontup != [array.key for array in arrays]:
        # The driver takes values by position; they would end up in wrong columns.
        raise AssertionError(f"{dialect.name} does not take the columns in their order")
    return str(compiled) + ending


@lru_cache(maxsize=1024)
def _value_statement(
    table: Table, dialect: Dialect, ending: str, row_count: int, nulls: tuple[int, ...]
) -> tuple[str, Callable[[tuple[Any, ...]], tuple[Any, ...]]]:
    """The statement for rows in which the columns *nulls* are null; takes the others from a row."""
    head, row, taken = _row_of_values(table, dialect)
    # Repeated here: to compile sixty rows takes longer than to insert a thousand.
    values = ", ".join([with_nulls(row, taken, nulls)] * row_count)
    return f"{head} VALUES {values}{ending}", taking([one for one in taken if one not in nulls])


@lru_cache(maxsize=64)
def _row_of_values(table: Table, dialect: Dialect) -> tuple[str, str, Sequence[int]]:
    """The statement up to its values, the values of one row, and the numbers of their columns."""
    columns = {
        column.name: bindparam(column.name, type_=column.type) for column in _given_columns(table)
    }
    compiled = insert(table).values(_values(table, dialect, columns)).compile(dialect=dialect)
    names, taken = list(columns), compiled.positiontup or []
    if taken[: len(names)] != names:
        # The driver takes values by position; they would end up in wrong columns.
        raise AssertionError(f"{dialect.name} does not take the columns in their order")
    head, _, row = str(compiled).partition(" VALUES ")
    return head, row, [names.index(one) for one in taken]


def _given_columns(table: Table) -> list[Column[Any]]:
    return [column for column in table.columns if COMPUTED not in column.info]


def _values(
    table: Table, dialect: Dialect, given_columns: Mapping[str, ColumnElement[Any]]
) -> dict[str, ColumnElement[Any]]:
    """The value of each column: as it is given, or computed."""
    computed = {
        column.name: column.info[COMPUTED](dialect.name, given_columns)
        for column in table.columns
        if COMPUTED in column.info
    }
    return {column.name: {**given_columns, **computed}[column.name] for column in table.columns}


@compiles(Given, "sqlite")
def _in_sqlite(
    table: Given,
    compiler: SQLCompiler,
    asfrom: bool = False,
    driver_columns: list[str] | None = None,
    **options: Any,
) -> str:
    if driver_columns is not None:
        # Objects of JSON would be parsed again for each column.
        driver_columns += table.c.keys()
        columns = ", ".join(f"column{n} AS {one.name}" for n, one in enumerate(table.c, start=1))
        return f"(SELECT {columns} FROM (VALUES {ROWS_HERE}) AS given) AS given"  # noqa: S608 -- ours
    columns = ", ".join(f"json_extract(value, '$.{one.name}') AS {one.name}" for one in table.c)
    rows = f"json_each({_parameter(compiler, options)})"
    return f"(SELECT {columns} FROM {rows}) AS given"  # noqa: S608 -- names of our own columns


@compiles(Given, "postgresql")
def _in_postgresql(
    table: Given,
    compiler: SQLCompiler,
    asfrom: bool = False,
    driver_columns: list[str] | None = None,
    **options: Any,
) -> str:
    types = compiler.dialect.type_compiler_instance
    columns = ", ".join(f"{one.name} {types.process(one.type)}" for one in table.c)
    if driver_columns is not None:
        driver_columns += table.c.keys()
    rows = _parameter(compiler, options) if driver_columns is None else "$1"
    return f"json_to_recordset(CAST({rows} AS JSON)) AS given({columns})"


def _parameter(compiler: SQLCompiler, options: Mapping[str, Any]) -> str:
    return compiler.process(bindparam("given", type_=Text()), **options)
