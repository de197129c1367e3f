"""
Reads requests through the declared schemas, and collects every field error.

aiohttp-apispec's middleware calls this parser for each declared schema. Unlike webargs' own, it
accepts only JSON as the standard defines it, refuses undeclared and repeated values instead of
dropping them, and continues after a field error, so that one response lists all of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import chain, islice, starmap
from typing import Any

from aiohttp import web
from marshmallow import Schema, ValidationError
from marshmallow.exceptions import SCHEMA

from schemas.fields import is_blank
from service.api.callback_plugin import names_in
from service.api.operations import LOCATIONS, Operation, is_optional
from service.errors import FIELD_ERRORS_MAX, FieldError, MalformedRequest
from service.web.json_bodies import KINDS, read_json

BODY = web.RequestKey("body", object)
"""The body of the request as parsed JSON, once it is parsed."""

FIELD_ERRORS = web.RequestKey("field_errors", list[FieldError])
"""The field errors of the request so far: `FIELD_ERRORS_MAX` at most, and one more if there is."""

UNDECLARED_MAX = FIELD_ERRORS_MAX
"""An object with more undeclared fields than this is refused before it is loaded."""

KNOWN_QUERIES = 1000
KNOWN_QUERY_CHARACTERS = 500
"""Queries without a field error whose values are kept, and how long one may be."""

POINTERS_MAX = 200_000
"""
Characters of all pointers in one answer; what is beyond them is cut off.

A name is repeated in its pointer, and a body may be as large as the operator allows.
"""


class RequestParser:
    """
    Loads declared schemas; an invoice without a currency gets *currency*.

    *operations* are those that are served. A message about an undeclared field uses their schemas,
    to say where the field belongs.
    """

    def __init__(self, currency: str, operations: Iterable[Operation] = ()) -> None:
        self._currency = currency
        operations = tuple(operations)
        self._schemas = {one.handler: one.schemas for one in operations}
        bodies = (one.schemas["body"] for one in operations if "body" in one.schemas)
        self._optional = frozenset(filter(is_optional, bodies))
        self._known_queries: dict[tuple[Schema, str], dict[str, Any]] = {}

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
            MalformedRequest: if it is not valid JSON, or a header is missing or repeated.
        """
        data: Any
        if location == "json":
            data = request[BODY] = await read_json(request, is_optional=schema in self._optional)
            if not isinstance(data, dict):
                message = f"The body is {KINDS[type(data)]}; a JSON object was expected."
                _add_errors(request, "body", [("", message)])
                return {}
            if "currency" in schema.fields:
                if any(map(is_blank, data.values())):
                    data = {name: one for name, one in data.items() if not is_blank(one)}
                data = {"currency": self._currency, **data}
        elif location == "querystring":
            return self._query(schema, request)
        elif location == "headers":
            data = _headers_for(schema, request)
        else:
            data = request.match_info
        return self._loaded(schema, data, request, LOCATIONS[location])

    def _query(self, schema: Schema, request: web.Request) -> dict[str, Any]:
        """The query of *request*: nearly all invoices of a receiver have the same one."""
        key = schema, request.rel_url.raw_query_string
        known = self._known_queries.get(key)
        if known is not None:
            return known.copy()
        _refuse_repeated(request)
        loaded = self._loaded(schema, request.query, request, "query")
        if len(key[1]) <= KNOWN_QUERY_CHARACTERS and FIELD_ERRORS not in request:
            if len(self._known_queries) >= KNOWN_QUERIES:
                # The oldest goes: whoever sends many different ones must not keep others out.
                del self._known_queries[next(iter(self._known_queries))]
            self._known_queries[key] = loaded.copy()
        return loaded

    def _loaded(
        self, schema: Schema, data: Mapping[str, Any], request: web.Request, here: str
    ) -> dict[str, Any]:
        try:
            return _load(schema, data)
        except ValidationError as invalid:
            schemas = {**self._schemas.get(request.match_info.handler, {}), here: schema}
            declared = {*names_in(schema), SCHEMA}
            messages = (
                (name, inner if name in declared else _unknown(str(name), here, schemas, data))
                for name, inner in invalid.messages_dict.items()
            )
            _add_errors(request, here, chain.from_iterable(starmap(_pointed, messages)))
            return {}


def _load(schema: Schema, data: Mapping[str, Any]) -> dict[str, Any]:
    """
    *data*, loaded through *schema*.

    Raises:
        ValidationError: if it is not valid. If it has far more fields than *schema* declares, it
            is not loaded, and the error names as many of the others as an answer can.
    """
    if len(data) > len(schema.fields) + UNDECLARED_MAX:
        undeclared = (name for name in data if name not in schema.fields)
        first = islice(undeclared, FIELD_ERRORS_MAX + 1)
        raise ValidationError({name: ["Unknown field."] for name in first})
    loaded: dict[str, Any] = schema.load(data)
    return loaded


def _headers_for(schema: Schema, request: web.Request) -> dict[str, str]:
    """The headers that *schema* declares, under its names; the others are nobody's mistake."""
    declared = {of.data_key or name: of for name, of in schema.fields.items()}
    missing = [name for name, of in declared.items() if of.required and name not in request.headers]
    if missing:
        raise MalformedRequest(f"The header {missing[0]} is missing.")
    repeated = [name for name in declared if len(request.headers.getall(name, ())) > 1]
    if repeated:
        raise MalformedRequest(f"The header {repeated[0]} is sent more than once.")
    return {name: request.headers[name] for name in declared if name in request.headers}


def _refuse_repeated(request: web.Request) -> None:
    """Add a field error for each query parameter that is sent more than once."""
    query = request.query
    if len(query) > 1 and len(names := set(query)) < len(query):
        repeated = [name for name in sorted(names) if len(query.getall(name)) > 1]
        errors = ((f"/{_escaped(name)}", "Must be given once.") for name in repeated)
        _add_errors(request, "query", errors)


def _add_errors(request: web.Request, location: str, messages: Iterable[tuple[str, str]]) -> None:
    known = request.get(FIELD_ERRORS, [])
    left = POINTERS_MAX - sum(len(one.pointer) for one in known)
    new = list[FieldError]()
    for pointer, message in islice(messages, FIELD_ERRORS_MAX + 1 - len(known)):
        new.append(FieldError(location, pointer[:left], message))
        left = max(0, left - len(pointer))
    request[FIELD_ERRORS] = known + new


def _unknown(name: str, here: str, schemas: Mapping[str, Schema], data: Mapping[str, Any]) -> str:
    """
    The message about *name* in *data*, which is not declared *here*, with the likely mistake.

    *schemas* are those of the operation, by location.
    """
    places = {one: place for place, schema in schemas.items() for one in names_in(schema)}
    near = get_close_matches(name[:100].lower(), places, n=1, cutoff=0.75)
    reasons = ["Unknown field."]
    if name in places:
        reasons.append(f"It belongs in the {places[name]}.")
    elif near:
        place = "" if places[near[0]] == here else f" in the {places[near[0]]}"
        reasons.append(f"Did you mean {near[0]}{place}?")
    if here == "query":
        urls = [one for one in names_in(schemas[here]) if "://" in data.get(one, "")]
        reasons += [f"If it is part of {one}, percent-encode that: & is %26." for one in urls]
    return " ".join(reasons)


def _pointed(name: object, messages: Any, parent: str = "") -> Iterator[tuple[str, str]]:
    """Each message in marshmallow's nested *messages* about *name* with the JSON Pointer to it."""
    # An error of the whole object has the pointer of the object.
    pointer = parent if name == SCHEMA else f"{parent}/{_escaped(str(name))}"
    if isinstance(messages, Mapping):
        for inner_name, inner in messages.items():
            yield from _pointed(inner_name, inner, pointer)
    else:
        for message in messages if isinstance(messages, list) else [messages]:
            yield pointer, str(message)


def _escaped(name: str) -> str:
    """*name* as a reference token (RFC 6901); what UTF-8 cannot encode is replaced."""
    text = name.replace("~", "~0").replace("/", "~1")
    return text.encode("utf-8", "replace").decode()
