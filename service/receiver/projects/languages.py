"""
What differs between the languages of projects: a row of `LANGUAGES` for each.

The functions are filters of the templates.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from service.receiver.projects import routes
from service.receiver.projects.identifiers import camel, pascal, snake
from service.receiver.projects.inbound import BodyField, Inbound
from service.receiver.projects.literals import go_literal, go_value, java_literal, literal

# --- Types and columns.

PYTHON_TYPES = {
    "string": "str",
    "boolean": "bool",
    "integer": "int",
    "number": "float",
    "array": "list[Any]",
    "object": "dict[str, Any]",
}
GO_TYPES = {
    "string": "string",
    "boolean": "bool",
    "integer": "int64",
    "number": "float64",
}
JAVA_TYPES = {
    "string": "String",
    "boolean": "Boolean",
    "integer": "Long",
    "number": "Double",
}
SQL_TYPES = {"boolean": "INTEGER", "integer": "INTEGER", "number": "REAL"}
"""The type of a column; any other value is stored as text, arrays and objects as JSON."""

SCALARS = frozenset({"string", "boolean", "integer", "number"})


def python_type(field: BodyField) -> str:
    """The annotation of *field*."""
    return PYTHON_TYPES.get(field.type, "Any")


def go_type(field: BodyField) -> str:
    """The type of *field* in a struct; a pointer where it may be null."""
    if field.type not in SCALARS:
        return "json.RawMessage"
    return ("*" if field.may_be_null else "") + GO_TYPES[field.type]


def java_type(field: BodyField) -> str:
    """The type of *field* in a record."""
    return JAVA_TYPES.get(field.type, "JsonNode")


def has_alias(field: BodyField) -> bool:
    """Whether *field* has another name in Python than in JSON."""
    return snake(field.name) != field.name


def is_json(field: BodyField) -> bool:
    """Whether *field* is stored as JSON."""
    return field.type not in SCALARS


def stored_in_python(field: BodyField) -> str:
    """The value of the column of *field*, as an expression of Python."""
    value = f"event.{snake(field.name)}"
    return f"json.dumps({value})" if is_json(field) else value


def stored_in_javascript(field: BodyField) -> str:
    """The value of the column of *field*; node:sqlite takes neither undefined nor booleans."""
    value = f"event.{field.name}" if field.name.isidentifier() else f"event[{literal(field.name)}]"
    if is_json(field):
        return f"JSON.stringify({value} ?? null)"
    if field.type == "boolean":
        is_missing = f"{value} == null ? null : " if field.may_be_null else ""
        return f"{is_missing}Number({value})"
    return f"{value} ?? null" if field.may_be_null else value


def stored_in_go(field: BodyField) -> str:
    """The value of the column of *field*, as an expression of Go."""
    value = f"event.{pascal(field.name)}"
    return f"string({value})" if is_json(field) else value


def stored_in_java(field: BodyField) -> str:
    """The value of the column of *field*, as an expression of Java."""
    value = f"event.{camel(field.name)}()"
    return f"String.valueOf({value})" if is_json(field) else value


def placeholders(callback: Inbound) -> str:
    """A question mark for each column of the table of *callback*."""
    return ", ".join("?" for _ in (*callback.stored_parameters, *callback.fields))


def sql_type(field: BodyField) -> str:
    """The type of the column of *field*."""
    return SQL_TYPES.get(field.type, "TEXT")


# --- The table.

Filters = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Language:
    """
    A kind of project.

    *folders* hold its templates; a file of a later folder replaces that of an earlier one.
    """

    folders: tuple[str, ...]
    filters: Filters


PYTHON: Filters = {
    "has_alias": has_alias,
    "identifier": snake,
    "stored": stored_in_python,
    "type": python_type,
}

LANGUAGES: Mapping[str, Language] = {
    "python-aiohttp": Language(
        ("every", "python", "python-aiohttp"), {**PYTHON, "route": routes.aiohttp_route}
    ),
    "python-fastapi": Language(
        ("every", "python", "python-fastapi"), {**PYTHON, "route": routes.fastapi_route}
    ),
    "python-flask": Language(
        ("every", "python", "python-flask"), {**PYTHON, "route": routes.flask_route}
    ),
    "node-express": Language(
        ("every", "node-express"),
        {"identifier": camel, "route": routes.express_route, "stored": stored_in_javascript},
    ),
    "go": Language(
        ("every", "go"),
        {
            "go_literal": go_literal,
            "go_value": go_value,
            "identifier": camel,
            "route": routes.go_route,
            "stored": stored_in_go,
            "type": go_type,
        },
    ),
    "java-spring": Language(
        ("every", "java-spring"),
        {
            "identifier": camel,
            "java_literal": java_literal,
            "route": routes.spring_route,
            "stored": stored_in_java,
            "type": java_type,
        },
    ),
}
