"""The address of a receiver as OpenAPI objects: its server, and the parameters of its URL."""

from typing import Any

from service.callbacks.exchange import Exchange
from service.callbacks.expression import Expression
from service.errors import EvaluationError
from service.receiver.address import Parts, QueryParameter, ReceiverAddress, Variable

SERVER = "http://127.0.0.1:9000"
"""Where a receiver runs until it has a place of its own; generators take the port from it."""


def server_object(address: ReceiverAddress) -> dict[str, Any]:
    """The server object of *address*."""
    server: dict[str, Any] = {"url": address.server, "description": "Your server."}
    if address.server_variables:
        server["variables"] = {
            variable.name: {
                "default": SERVER if address.base else _default(variable, address.server),
                "description": f"The value of {_sources(variable.parts)} in the request that asks"
                " for the callback.",
            }
            for variable in address.server_variables
        }
    return server


def _default(variable: Variable, server: str) -> str:
    """A value of *variable* that makes a URL of *server*: a number where a port is."""
    before = server.partition(f"{{{variable.name}}}")[0].partition("://")[2]
    return "9000" if ":" in before else "example"


def url_parameters(address: ReceiverAddress, example: Exchange) -> list[dict[str, Any]]:
    """The parameter objects of the path and the query, with the values that *example* gives."""
    path = [_path_parameter(one, example) for one in address.path_variables]
    return [*path, *(_query_parameter(one, example) for one in address.query)]


def _path_parameter(variable: Variable, example: Exchange) -> dict[str, Any]:
    return {
        "in": "path",
        "name": variable.name,
        "required": True,
        "description": f"{_sources(variable.parts)} of the request that asked for the callback;"
        " percent-encoded, so a slash arrives as `%2F`.",
        "schema": {"type": "string"},
        "example": _text(variable.parts, example),
    }


def _query_parameter(parameter: QueryParameter, example: Exchange) -> dict[str, Any]:
    texts = [_text(parts, example) for parts in parameter.values]
    sources = [_sources(parts) for parts in parameter.values if not _is_literal(parts)]
    schema: dict[str, Any] = {"type": "string"}
    if len(texts) > 1:
        count = len(texts)
        schema = {"type": "array", "items": schema, "minItems": count, "maxItems": count}
    elif not sources:
        schema["enum"] = texts
    origin = f"{' and '.join(sources)} of the request that asked for the callback."
    return {
        "in": "query",
        "name": parameter.name,
        "required": True,
        "description": origin if sources else "Always the same.",
        "schema": schema,
        "example": texts if len(texts) > 1 else texts[0],
    }


def _is_literal(parts: Parts) -> bool:
    return all(isinstance(part, str) for part in parts)


def _sources(parts: Parts) -> str:
    """The expressions in *parts*, as text."""
    return " and ".join(f"`{part}`" for part in parts if not isinstance(part, str))


def _text(parts: Parts, example: Exchange) -> str:
    """What *parts* make of *example*, decoded."""
    return "".join(part if isinstance(part, str) else _value(part, example) for part in parts)


def _value(expression: Expression, example: Exchange) -> str:
    """An example of what *expression* refers to."""
    try:
        value = expression.value(example)
    except EvaluationError:
        return "example"
    return value if isinstance(value, str) and value else str(value or "example")
