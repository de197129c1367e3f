"""
The callbacks of a receiver's document, in the form in which the templates of projects read them.

Nothing here depends on a language: `languages.py` has the identifiers and types of each.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import DeclarationError

JSON = "application/json"
REPEATS = "x-path-parameter"
"""The keyword of a field that has the value of a path parameter: the signature covers the field."""


@dataclass(frozen=True, slots=True)
class BodyField:
    """A field of an event; *type* is that of JSON Schema, and empty for any value."""

    name: str
    type: str
    is_required: bool
    is_nullable: bool
    description: str
    repeats: str | None
    """The path parameter that has the same value."""

    @property
    def may_be_null(self) -> bool:
        """Whether a program has to expect no value."""
        return self.is_nullable or not self.is_required


@dataclass(frozen=True, slots=True)
class PathPart:
    """A part of a path: literal *text*, or the name of a parameter."""

    text: str
    is_parameter: bool


@dataclass(frozen=True, slots=True)
class Inbound:
    """A callback as its receiver sees it: one operation of the receiver's document."""

    name: str
    """The operationId: letters, digits and underscores."""
    event: str
    """The name of the schema of the body."""
    method: str
    path: str
    parts: tuple[PathPart, ...]
    summary: str
    fields: tuple[BodyField, ...]
    query: tuple[str, ...]
    """The names of the parameters of the query."""
    values: Mapping[str, str]
    """An example of each parameter."""
    example: Mapping[str, Any]
    """A body that belongs to *values*."""
    status: int
    answer: Mapping[str, Any]
    """The status and the body that acknowledge an event."""

    @property
    def path_parameters(self) -> list[str]:
        """The names of the path parameters, in order."""
        return [part.text for part in self.parts if part.is_parameter]

    @property
    def parameters(self) -> list[str]:
        """The names of all parameters: those of the path, then those of the query."""
        return [*self.path_parameters, *self.query]

    @property
    def repeated(self) -> list[BodyField]:
        """The fields that have to be compared with a path parameter."""
        return [
            one
            for one in self.fields
            if one.repeats in self.path_parameters and one.type == "string" and not one.may_be_null
        ]

    @property
    def stored_parameters(self) -> list[str]:
        """The parameters that no field of the body tells as well."""
        told = {one.repeats for one in self.repeated} | {one.name for one in self.fields}
        return [name for name in self.parameters if name not in told]


def inbound_callbacks(document: Mapping[str, Any]) -> list[Inbound]:
    """
    The callbacks of *document*, an OpenAPI document of a receiver.

    Raises:
        DeclarationError: two callbacks have names that are the same in a program, or one has
            neither a parameter nor a field, which would be a table without a column.
    """
    found = [
        _inbound(document, path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    names = [one.name for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DeclarationError(f"Two callbacks would be named {twice[0]} in a program.")
    if empty := [one.name for one in found if not one.parameters and not one.fields]:
        raise DeclarationError(f"Callback {empty[0]} has neither a parameter nor a field to store.")
    return found


def _inbound(
    document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]
) -> Inbound:
    content = operation["requestBody"]["content"][JSON]
    name = re.sub(r"\W+", "_", operation["operationId"], flags=re.ASCII)
    status, answer = _acknowledgement(operation["responses"])
    texts = re.split(r"\{([^}]*)\}", path)
    parts = (PathPart(text, bool(index % 2)) for index, text in enumerate(texts) if text)
    fields = tuple(_fields(document, content["schema"]))
    values = _values(operation["parameters"], "path")
    query = _values(operation["parameters"], "query")
    return Inbound(
        name=name,
        event=_schema_name(content["schema"]) or f"{name}_event",
        method=method.upper(),
        path=path,
        parts=tuple(parts),
        summary=operation["summary"].rstrip("."),
        fields=fields,
        query=tuple(name for name in query if name not in values),
        values=query | values,
        example={
            one.name: _example(one, content["example"], values)
            for one in fields
            if one.is_required or one.name in content["example"]
        },
        status=status,
        answer=answer,
    )


def _values(parameters: Iterable[Mapping[str, Any]], place: str) -> dict[str, str]:
    """An example of each of *parameters* in *place*; the first of several values."""
    examples = {one["name"]: one["example"] for one in parameters if one["in"] == place}
    return {name: one[0] if isinstance(one, list) else one for name, one in examples.items()}


EXAMPLES = {"string": "example", "boolean": True, "integer": 1, "number": 1.5, "array": []}
"""An example of each type, where the document has none."""


def _example(field: BodyField, body: Mapping[str, Any], values: Mapping[str, str]) -> Any:
    """The value of *field* in an example, which agrees with the path."""
    if field.repeats and field.repeats in values:
        return values[field.repeats]
    example = body.get(field.name)
    is_valid = example is not None or field.is_nullable
    return example if is_valid else EXAMPLES.get(field.type, {})


def _acknowledgement(responses: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]]:
    """Status and body of the first of *responses* that has a body: the one that acknowledges."""
    status, response = next(pair for pair in responses.items() if "content" in pair[1])
    example: Mapping[str, Any] = response["content"][JSON]["example"]
    return int(status), example


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[BodyField]:
    resolved = _resolved(document, schema)
    required = resolved.get("required", ())
    for name, declared in resolved.get("properties", {}).items():
        field = _resolved(document, declared)
        yield BodyField(
            name=name,
            type=field.get("type", ""),
            is_required=name in required,
            is_nullable=field.get("nullable", False),
            description=declared.get("description", ""),
            repeats=declared.get(REPEATS),
        )


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if (name := _schema_name(schema)) is None:
        return schema
    resolved: Mapping[str, Any] = document["components"]["schemas"][name]
    return resolved


def _schema_name(schema: Mapping[str, Any]) -> str | None:
    reference = schema.get("$ref")
    return reference.rpartition("/")[2] if reference else None
