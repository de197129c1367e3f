"""
The OpenAPI 3.1 document, made from what the decorators left on the handlers.

`CallbackPlugin` is the apispec hook that turns a declared `Callback` into the `callbacks` of its
operation, and refuses one that the operation cannot keep: linters do not read callback keys, so
nobody else would notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from apispec import APISpec, BasePlugin
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema, fields

from schemas.problem import ProblemSchema
from service.callbacks.declaration import Callback, DeclaredOperation
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

WEBHOOK_HEADERS = {
    "webhook-id": (
        "Names the event: the same in every attempt, so that you recognise what you have had.",
        "msg_019c13ec9ff47f3cb0d2a64e1b9c8d57",
    ),
    "webhook-timestamp": ("When this attempt was made, in seconds since 1970.", "1769860800"),
    "webhook-signature": (
        "Standard Webhooks signatures of id, timestamp and body, separated by blanks; one that "
        "verifies is enough.",
        "v1,WOUoLfZH/WW0hk/uDspAuBCcfVmh95r85zRXc6AHCWE=",
    ),
    "invoices-collector": ("What collected; `sandbox` moves no money.", "sandbox"),
    "traceparent": (
        "W3C Trace Context: of the trace that your request was part of, where it was of one.",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
}
"""Header of a callback -> what it says, and an example."""

ONLY_WITH_A_TRACE = frozenset({"traceparent"})

RETRY_AFTER = {
    "Retry-After": (
        "Seconds, or a date. Respected up to 24 hours, and for everything that is sent to you.",
        "120",
    )
}
"""What a receiver may say when it is not ready."""

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


class CallbackPlugin(BasePlugin):
    """
    Documents the callbacks that operations declare.

    Goes before the MarshmallowPlugin, which then resolves the schemas inside the callbacks.

    Raises:
        DeclarationError: from `operation_helper`, if a callback names a parameter or a
            property that its operation does not declare.
    """

    def operation_helper(
        self,
        path: str | None = None,
        operations: dict[str, Any] | None = None,
        *,
        declared: Iterable[Callback] = (),
        **_: Any,
    ) -> None:
        """
        Add the OpenAPI objects of the *declared* callbacks to each operation.

        They come as an argument of `APISpec.path`, which copies deeply what is inside of the
        operations.
        """
        for operation in (operations or {}).values():
            for callback in declared:
                callback.check(_declared_by(operation))
                entry = {callback.expression: {callback.method: _callback_operation(callback)}}
                operation.setdefault("callbacks", {})[callback.name] = entry


def build_document(
    operations: Iterable[Operation], *, version: str, public_url: str
) -> dict[str, Any]:
    """
    The document of *operations*: (method, path, handler).

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
        plugins=[CallbackPlugin(), MarshmallowPlugin(schema_name_resolver=_schema_name)],
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
    mistakes = _possible_mistakes(_declared_by(operation))
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


def _callback_operation(callback: Callback) -> dict[str, Any]:
    """What the receiver has to build for *callback*."""
    received = _json_body(callback.request, dict(callback.request_example))
    acknowledged = {
        "application/json": {
            "schema": callback.response,
            "example": dict(callback.response_example),
        }
    }
    return {
        "tags": ["invoices"],
        "operationId": callback.name,
        "summary": callback.summary,
        "description": callback.description,
        "security": [],
        "parameters": [
            {
                "in": "header",
                "name": name,
                "required": name not in ONLY_WITH_A_TRACE,
                "description": text,
                "schema": {"type": "string"},
                "example": example,
            }
            for name, (text, example) in WEBHOOK_HEADERS.items()
        ],
        "requestBody": received,
        "responses": {
            "2XX": {
                "description": "The event is safely yours, and comes again only if you ask for it.",
                "content": acknowledged,
            },
            "3XX": {
                "description": "Not delivered, since redirects are not followed: the event comes "
                "again later, to the same URL."
            },
            "410": {"description": "Stop: this event is not sent again, unless you ask for it."},
            "4XX": {
                "description": "Not delivered: the event comes again later.",
                "headers": _response_headers(RETRY_AFTER),
            },
            "5XX": {
                "description": "Not delivered: the event comes again later.",
                "headers": _response_headers(RETRY_AFTER),
            },
        },
    }


def _json_body(schema: type[Schema] | Schema, example: dict[str, Any] | None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema, "example": example or example_of(schema)}
    return {"required": True, "content": {"application/json": content}}


def _declared_by(operation: Mapping[str, Any]) -> DeclaredOperation:
    names: dict[str, set[str]] = {"query": set(), "header": set(), "path": set()}
    for parameter in operation.get("parameters", ()):
        names[parameter["in"]].update(_names_in(parameter["schema"]))
    body = operation.get("requestBody")
    return DeclaredOperation(
        query=frozenset(names["query"]),
        headers=frozenset(name.lower() for name in names["header"]),
        path=frozenset(names["path"]),
        body=frozenset(_names_in(body["content"]["application/json"]["schema"])) if body else None,
    )


def _names_in(schema: type[Schema] | Schema) -> Iterable[str]:
    instance = schema if isinstance(schema, Schema) else schema()
    return [field.data_key or name for name, field in instance.fields.items()]


def example_of(schema: type[Schema] | Schema) -> dict[str, Any]:
    """An example of what *schema* describes, from the examples of its fields."""
    instance = schema if isinstance(schema, Schema) else schema()
    return {
        field.data_key or name: _example_of_field(field) for name, field in instance.fields.items()
    }


def _example_of_field(field: fields.Field[Any]) -> Any:
    if isinstance(field, fields.Nested):
        return example_of(field.schema)
    if isinstance(field, fields.List):
        return [_example_of_field(field.inner)]
    return field.metadata.get("example")


def _schema_name(schema: type[Schema] | Schema) -> str:
    cls = schema if isinstance(schema, type) else type(schema)
    return cls.__name__.removesuffix("Schema")
