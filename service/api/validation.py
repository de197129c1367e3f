"""
Reads requests through the declared schemas, and collects every field error.

aiohttp-apispec's middleware calls this parser for each declared schema. Unlike webargs' own, it
accepts only JSON as the standard defines it, refuses what would be dropped silently, and goes on
after a field error, so that the caller learns all of them at once.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from aiohttp import web
from marshmallow import Schema, ValidationError

from service.api.operations import LOCATIONS
from service.errors import FieldError, MalformedRequest, UnsupportedMedia

BODY = web.RequestKey("body", object)
"""The body of the request as parsed JSON, once it is parsed."""

FIELD_ERRORS = web.RequestKey("field_errors", list[FieldError])
"""Every field error of the request so far."""

UNKNOWN_CURSOR = FieldError("query", "/after", "This cursor names no page.")


class RequestParser:
    """Loads declared schemas; an invoice without a currency gets *currency*."""

    def __init__(self, currency: str) -> None:
        self._currency = currency

    async def parse(
        self,
        schema: Schema,
        request: web.Request,
        *,
        location: str,
        unknown: None,
    ) -> Any:
        """
        The data of *location*, loaded through *schema*; empty where there are field errors.

        Field errors are added to the FIELD_ERRORS of the request. *unknown* is always None: the
        schema itself decides about undeclared fields.

        Raises:
            UnsupportedMedia: if a body is not declared as JSON in UTF-8.
            MalformedRequest: if it is not valid JSON.
        """
        data: Any
        if location == "json":
            data = request[BODY] = await _read_json(request)
            if "currency" in schema.fields and isinstance(data, dict):
                data = {"currency": self._currency, **data}
        elif location == "querystring":
            data = request.query
            _refuse_repeated(request)
        elif location == "headers":
            names = [of.data_key or name for name, of in schema.fields.items()]
            data = {name: request.headers[name] for name in names if name in request.headers}
        else:
            data = request.match_info
        try:
            return schema.load(data)
        except ValidationError as invalid:
            _add_errors(request, LOCATIONS[location], _pointed("", invalid.messages))
            return {}


async def _read_json(request: web.Request) -> Any:
    """The body of *request*, parsed."""
    if request.content_type != "application/json":
        raise UnsupportedMedia("The body must be sent as Content-Type: application/json.")
    if (request.charset or "utf-8").lower() not in {"utf-8", "utf8"}:
        raise UnsupportedMedia("JSON must be sent in UTF-8; no other charset is supported.")
    body = await request.read()
    if not body:
        raise MalformedRequest("The body is empty; a JSON object was expected.")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"The body is not JSON: {error}.") from None


def _refuse_repeated(request: web.Request) -> None:
    """Add a field error for each query parameter that is sent more than once."""
    query = request.query
    if len(query) > 1 and len(names := set(query)) < len(query):
        repeated = [name for name in sorted(names) if len(query.getall(name)) > 1]
        errors = ((f"/{_escaped(name)}", "Must be given once.") for name in repeated)
        _add_errors(request, "query", errors)


def _add_errors(request: web.Request, location: str, messages: Iterator[tuple[str, str]]) -> None:
    field_errors = [FieldError(location, pointer, message) for pointer, message in messages]
    request[FIELD_ERRORS] = [*request.get(FIELD_ERRORS, ()), *field_errors]


def _pointed(pointer: str, messages: Any) -> Iterator[tuple[str, str]]:
    """Each message in marshmallow's nested *messages* with the JSON Pointer of its place."""
    if isinstance(messages, Mapping):
        for name, inner in messages.items():
            # Errors of the whole have no place of their own.
            here = pointer if name == "_schema" else f"{pointer}/{_escaped(str(name))}"
            yield from _pointed(here, inner)
    elif isinstance(messages, list):
        for message in messages:
            yield from _pointed(pointer, message)
    else:
        yield pointer, str(messages)


def _escaped(name: str) -> str:
    """*name* as a reference token (RFC 6901); what UTF-8 cannot encode is replaced."""
    text = name.replace("~", "~0").replace("/", "~1")
    return text.encode("utf-8", "replace").decode()
