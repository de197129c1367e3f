"""
Rows as one parameter of a statement, so that one statement serves any number of them.

Databases prepare a statement once and reuse it. A statement with parameters for each row is a
different one for each number of rows; here all rows are one JSON text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Text, bindparam, column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import TableClause
from sqlalchemy.types import TypeEngine


class Given(TableClause):
    """A table named `given`, with *columns*, whose rows are the parameter `given`."""

    inherit_cache = True

    def __init__(self, **columns: TypeEngine[Any]) -> None:
        super().__init__("given", *(column(name, type_) for name, type_ in columns.items()))


def given(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The parameter that holds *rows*, their values as the database stores them."""
    return {"given": orjson.dumps(rows).decode()}


@compiles(Given, "sqlite")
def _in_sqlite(table: Given, compiler: SQLCompiler, asfrom: bool = False, **options: Any) -> str:
    columns = ", ".join(f"json_extract(value, '$.{one.name}') AS {one.name}" for one in table.c)
    rows = f"json_each({_parameter(compiler, options)})"
    return f"(SELECT {columns} FROM {rows}) AS given"  # noqa: S608 -- names of our own columns


@compiles(Given, "postgresql")
def _in_postgresql(
    table: Given, compiler: SQLCompiler, asfrom: bool = False, **options: Any
) -> str:
    types = compiler.dialect.type_compiler_instance
    columns = ", ".join(f"{one.name} {types.process(one.type)}" for one in table.c)
    return f"json_to_recordset(CAST({_parameter(compiler, options)} AS JSON)) AS given({columns})"


def _parameter(compiler: SQLCompiler, options: Mapping[str, Any]) -> str:
    return compiler.process(bindparam("given", type_=Text()), **options)
