"""
What is read of a request, and every way in which it can be unreadable.

aiohttp-apispec's middleware asks this parser for each declared schema. Unlike webargs' own, it
reads JSON as strictly as the standard has it, refuses what would be silently dropped, and goes
on after a mistake, so that the caller learns all of them at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import orjson
from aiohttp import web
from marshmallow import Schema, ValidationError

from service.api.dependencies import BODY, CURRENCY, MISTAKES
from service.errors import MalformedRequest, Mistake, UnsupportedMedia

LOCATIONS = {"json": "body", "querystring": "query", "match_info": "path"}
"""What aiohttp-apispec calls a location, and what we do."""


class RequestParser:
    """Loads the declared schemas; what is wrong is gathered in the request's MISTAKES."""

    async def parse(
        self,
        schema: Schema,
        request: web.Request,
        *,
        location: str,
        unknown: None,
    ) -> Any:
        """
        The data of *location*, loaded through *schema*; nothing where there are mistakes.

        *unknown* is always None: what happens to undeclared fields is the schema's decision.

        Raises:
            UnsupportedMedia: if a body is declared as anything but JSON in UTF-8.
            MalformedRequest: if it is not JSON.
        """
        data = await _READERS[location](request, schema)
        try:
            return schema.load(data)
        except ValidationError as invalid:
            _remember(request, LOCATIONS[location], _pointed("", invalid.messages))
            return {}


async def read_json(request: web.Request) -> Any:
    """The body of *request*, parsed; see `RequestParser.parse` for what it raises."""
    if request.content_type != "application/json":
        raise UnsupportedMedia("The body must be sent as Content-Type: application/json.")
    if (request.charset or "utf-8").lower() not in {"utf-8", "utf8"}:
        raise UnsupportedMedia("JSON is UTF-8; no other charset can be declared.")
    body = await request.read()
    if not body:
        raise MalformedRequest("The body is empty; a JSON object was expected.")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"The body is not JSON: {error}.") from None


async def _read_body(request: web.Request, schema: Schema) -> Any:
    """The body, with the service's currency where the invoice names none."""
    data = request[BODY] = await read_json(request)
    if "currency" in schema.fields and isinstance(data, dict):
        return {"currency": request.app[CURRENCY], **data}
    return data


async def _read_query(request: web.Request, _schema: Schema) -> Mapping[str, str]:
    """The query parameters; one that is given twice has no meaning here."""
    query = request.query
    if len(query) > 1:
        names = set(query)
        repeated = sorted(names) if len(query) > len(names) else ()
        mistakes = (
            (f"/{_escaped(name)}", "Must be given once.")
            for name in repeated
            if len(query.getall(name)) > 1
        )
        _remember(request, "query", mistakes)
    return query


async def _read_path(request: web.Request, _schema: Schema) -> Mapping[str, str]:
    return request.match_info


_READERS: dict[str, Callable[[web.Request, Schema], Awaitable[Any]]] = {
    "json": _read_body,
    "querystring": _read_query,
    "match_info": _read_path,
}


def _remember(request: web.Request, location: str, messages: Iterator[tuple[str, str]]) -> None:
    mistakes = [Mistake(location, pointer, message) for pointer, message in messages]
    request[MISTAKES] = [*request.get(MISTAKES, ()), *mistakes]


def _pointed(pointer: str, messages: Any) -> Iterator[tuple[str, str]]:
    """Each message in marshmallow's nested *messages* with the JSON Pointer of its place."""
    if isinstance(messages, Mapping):
        for name, inner in messages.items():
            # Mistakes of the whole have no place of their own.
            here = pointer if name == "_schema" else f"{pointer}/{_escaped(str(name))}"
            yield from _pointed(here, inner)
    elif isinstance(messages, list):
        for message in messages:
            yield from _pointed(pointer, message)
    else:
        yield pointer, str(messages)


def _escaped(name: str) -> str:
    """*name* as a reference token (RFC 6901), with what no JSON can carry replaced."""
    text = name.replace("~", "~0").replace("/", "~1")
    return text.encode("utf-8", "replace").decode()
