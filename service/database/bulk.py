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

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Dialect,
    Select,
    Table,
    Text,
    bindparam,
    column,
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
    as_json,
    chunks,
    nulls_in,
    run_text,
    taking,
    text_for_driver,
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
    insert_all = _insert_given if tx.dialect.name == "postgresql" else _insert_values
    return (
        insert_all(tx, table, rows, " ON CONFLICT DO NOTHING" if unless_known else "")
        if rows
        else 0
    )


def insert_of(dialect_name: str) -> Any:
    """The INSERT of that database, which may have an ON CONFLICT."""
    return sqlite.insert if dialect_name == "sqlite" else postgresql.insert


class Given(GivenRows, TableClause):
    """
    A table named `given`, with *columns*, whose rows are one parameter, a JSON text.

    *number* is that of the parameter, where the driver of PostgreSQL runs the statement.
    """

    inherit_cache = True

    def __init__(self, number: int = 1, /, **columns: TypeEngine[Any]) -> None:
        name = "given" if number == 1 else f"given{number}"
        super().__init__(name, *(column(name, type_) for name, type_ in columns.items()))
        self.number = number


def given(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The parameter that holds *rows*, their values as the database stores them."""
    return {"given": as_json(rows)}


def given_rows(table: Table, number: int = 1, **more: TypeEngine[Any]) -> Given:
    """Rows of *table*, as `insert_rows` gets them, with the columns *more*."""
    columns = {one.name: one.type for one in _given_columns(table)}
    return Given(number, **columns, **more)


@lru_cache(maxsize=64)
def row_names(table: Table) -> tuple[str, ...]:
    """The names of the values in a row that `insert_rows` gets."""
    return tuple([str(one.name) for one in _given_columns(table)])


def inserted_from(
    table: Table, dialect_name: str, columns: Mapping[str, ColumnElement[Any]]
) -> tuple[list[str], Select[Any]]:
    """The columns of *table*, and what selects their values from *columns*, computed ones too."""
    values = _values(table, dialect_name, columns)
    return list(values), select(*values.values())


def _insert_given(
    tx: Connection, table: Table, rows: Sequence[tuple[Any, ...]], ending: str
) -> int:
    """
    All rows as one JSON text: one statement, prepared once, for any number of rows.

    The driver takes some two thousand instructions for each value of an array: for the rows of an
    invoice, a tenth of its whole way.
    """
    text, names = given_statement(table, tx.dialect.name, ending)
    return run_text(tx, text, (as_json([dict(zip(names, row, strict=True)) for row in rows]),))


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
def given_statement(table: Table, dialect_name: str, ending: str) -> tuple[str, tuple[str, ...]]:
    """The statement of PostgreSQL that inserts given rows, and the names of their values."""
    rows = given_rows(table)
    names, values = inserted_from(table, dialect_name, dict(rows.c.items()))
    return text_for_driver(insert(table).from_select(names, values)) + ending, row_names(table)


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
    compiled = insert(table).values(_values(table, dialect.name, columns)).compile(dialect=dialect)
    names, taken = list(columns), compiled.positiontup or []
    if taken[: len(names)] != names:
        # The driver takes values by position; they would end up in wrong columns.
        raise AssertionError(f"{dialect.name} does not take the columns in their order")
    head, _, row = str(compiled).partition(" VALUES ")
    return head, row, [names.index(one) for one in taken]


def _given_columns(table: Table) -> list[Column[Any]]:
    return [column for column in table.columns if COMPUTED not in column.info]


def _values(
    table: Table, dialect_name: str, given_columns: Mapping[str, ColumnElement[Any]]
) -> dict[str, ColumnElement[Any]]:
    """The value of each column: as it is given, or computed."""
    computed = {
        column.name: column.info[COMPUTED](dialect_name, given_columns)
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
    rows = _parameter(compiler, options) if driver_columns is None else f"${table.number}"
    function = f"jsonb_to_recordset(CAST({rows} AS JSONB)) AS {table.name}({columns})"
    first = next(iter(table.c)).name
    # Always true, for the planner: it takes a function for a hundred rows, and with an equation of
    # which it knows nothing for one. For a hundred rows it would rather walk along the whole index
    # of a table that is small yet, and keep that plan while the table grows.
    return f"(SELECT * FROM {function} WHERE {first} = {first} || '') AS {table.name}"  # noqa: S608 -- names of our own columns


def _parameter(compiler: SQLCompiler, options: Mapping[str, Any]) -> str:
    return compiler.process(bindparam("given", type_=Text()), **options)
