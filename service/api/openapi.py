"""The OpenAPI 3.1 document, made from what the decorators left on the handlers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema

from schemas.examples import example_of
from schemas.problem import ProblemSchema
from service.api.callback_plugin import CallbackPlugin, declared_by
from service.callbacks.declaration import DeclaredOperation
from service.errors import (
    Conflict,
    InvalidInput,
    MalformedRequest,
    Mistake,
    NotFound,
    RequestError,
    RequestTimedOut,
    RequestTooLarge,
    StorageUnavailable,
    TooManyRequests,
    Unauthorized,
    UnsupportedMedia,
)
from service.web import problems

LOCATIONS = {"querystring": "query", "match_info": "path", "headers": "header"}

DESCRIPTION = """\
Send in an invoice; it is sent to your customer, the money is collected, and **your API is called
back** with what happened. Nothing that was answered 202 is ever lost.

1. `POST /invoices/?callback_url=https://api.example.com`
2. Build one route: `POST /invoices/{id}`, as the *Callbacks* of that operation describe it.
3. Answer `{"ok": true}`. Anything else, and the event comes again.

Why did a callback not come? `GET /invoices/{id}/deliveries` lists every attempt.
"""

TAGS = (
    {"name": "invoices", "description": "Send in invoices and see how their collection goes."},
    {"name": "deliveries", "description": "See what your API was sent, and what it answered."},
    {"name": "operations", "description": "For whoever runs the service."},
)

KEY = "key"
KEY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "inv_…",
    "description": "The key of your account. In development mode none is needed.",
}

MISTAKES = (
    Mistake("body", "/total", "Must be more than zero."),
    Mistake("body", "/status", "Must be one of: dead."),
    Mistake("query", "/callback_url", "The value must be an https:// URL."),
    Mistake("query", "/limit", "Must be greater than or equal to 1 and less than or equal to 200."),
    Mistake("path", "/id", "Length must be between 1 and 200."),
)
"""Examples of what can be wrong; an operation shows those that can happen there."""

_EXAMPLES: dict[int, Callable[[list[Mistake]], RequestError | StorageUnavailable]] = {
    400: lambda _: MalformedRequest("The body is not JSON: unexpected end of data."),
    401: lambda _: Unauthorized("This key is not, or no longer, valid."),
    404: lambda _: NotFound("There is nothing of this id."),
    408: lambda _: RequestTimedOut("The body was not complete after 10 seconds."),
    409: lambda _: Conflict("The invoice '2expen51ve' was received before with other content."),
    413: lambda _: RequestTooLarge("The body is larger than 65536 bytes."),
    415: lambda _: UnsupportedMedia("The body must be sent as Content-Type: application/json."),
    422: InvalidInput,
    429: lambda _: TooManyRequests(0.4),
    503: lambda _: StorageUnavailable(),
}
"""Status -> what makes the problem that the document shows for it."""

Operation = tuple[str, str, Callable[..., Any]]


def build_document(
    operations: Iterable[Operation],
    *,
    version: str,
    public_url: str,
    callback_timeout: timedelta,
    is_strict: bool,
) -> dict[str, Any]:
    """
    The document of *operations*: (method, path, handler).

    *callback_timeout* and *is_strict* are what holds for the answers to callbacks.

    Reads what aiohttp-apispec's decorators stored and changes none of it, so that it can be
    called any number of times.

    Raises:
        DeclarationError: if a callback promises what its operation cannot keep.
    """
    spec = APISpec(
        title="invoices",
        version=version,
        openapi_version="3.1.0",
        info={
            "description": DESCRIPTION,
            "contact": {"name": "The invoices authors", "url": public_url + "/api/docs"},
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        servers=[
            {"url": public_url, "description": "How users reach this service."},
            {"url": "/", "description": "Wherever this document was read."},
        ],
        security=[{KEY: []}],
        tags=[dict(tag) for tag in TAGS],
        plugins=[
            CallbackPlugin(timeout=callback_timeout, is_strict=is_strict),
            MarshmallowPlugin(schema_name_resolver=_schema_name),
        ],
    )
    spec.components.security_scheme(KEY, KEY_SCHEME)
    for method, path, handler in operations:
        declared = handler.__apispec__  # type: ignore[attr-defined]
        spec.path(
            path=path,
            operations={method.lower(): _operation(declared)},
            declared=declared.get("callbacks", ()),
        )
    document = spec.to_dict()
    # Readers look for the version at the top.
    return {"openapi": document.pop("openapi"), **document}


def _operation(declared: Mapping[str, Any]) -> dict[str, Any]:
    """An operation as apispec wants it, from what the decorators stored."""
    copied = ("tags", "operationId", "summary", "description", "security")
    operation = {name: declared[name] for name in copied if name in declared}
    operation["parameters"] = [
        {"in": LOCATIONS[one["location"]], "schema": one["schema"]}
        for one in declared["schemas"]
        if one["location"] in LOCATIONS
    ]
    for one in declared["schemas"]:
        if one["location"] == "json":
            example = {key: value for key, value in one["example"].items() if key != "add_to_refs"}
            operation["requestBody"] = _json_body(one["schema"], example or None)
    mistakes = _possible_mistakes(declared_by(operation))
    operation["responses"] = {
        code: _response(int(code), answer, mistakes)
        for code, answer in sorted(declared["responses"].items())
    }
    return operation


def _possible_mistakes(declared: DeclaredOperation) -> list[Mistake]:
    """Those of the examples that a caller of the *declared* operation can make."""
    names = {"body": declared.body or (), "query": declared.query, "path": declared.path}
    return [one for one in MISTAKES if one.pointer[1:] in names[one.location]]


def _response(code: int, answer: Mapping[str, Any], mistakes: list[Mistake]) -> dict[str, Any]:
    if "content" in answer:
        # No schema of ours: the answer is declared as it stands in the document.
        return dict(answer)
    headers = dict(answer.get("headers", {}))
    schema = answer["schema"]
    if isinstance(schema, ProblemSchema):
        example = problems.document_of(_EXAMPLES[code](mistakes))
        content = {problems.CONTENT_TYPE: {"schema": schema, "example": example}}
    else:
        content = {"application/json": {"schema": schema, "example": example_of(schema)}}
    if code in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        headers["Retry-After"] = ("After how many seconds to come again.", "5")
    if code == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = ("How to authenticate.", problems.CHALLENGE)
    response: dict[str, Any] = {"description": answer["description"], "content": content}
    if headers:
        response["headers"] = _response_headers(headers)
    return response


def _response_headers(headers: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Header objects of *headers*: name -> what it says, and an example."""
    return {
        name: {"description": text, "schema": {"type": "string"}, "example": example}
        for name, (text, example) in headers.items()
    }


def _json_body(schema: type[Schema] | Schema, example: dict[str, Any] | None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema, "example": example or example_of(schema)}
    return {"required": True, "content": {"application/json": content}}


def _schema_name(schema: type[Schema] | Schema) -> str:
    cls = schema if isinstance(schema, type) else type(schema)
    return cls.__name__.removesuffix("Schema")
