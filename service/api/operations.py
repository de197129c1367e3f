"""
Operations: what a handler declares with decorators, as one value that is read once at start-up.

Routes, middlewares, the document and the evaluation of callbacks are all made from `Operation`.
This module alone knows how aiohttp-apispec stores a declaration, in the attribute `__apispec__` of
the handler, and never changes it: several applications and documents are made from one handler.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_apispec import response_schema, setup_aiohttp_apispec
from marshmallow import Schema
from webargs.aiohttpparser import parser as webargs_parser

from schemas.problem import ProblemSchema
from service.callbacks.declaration import Callback

Declared = TypeVar("Declared", bound=Callable[..., Any])

LOCATIONS = {"json": "body", "querystring": "query", "match_info": "path", "headers": "header"}
"""Names that aiohttp-apispec has for parts of a request -> names in this API."""

LISTEN_KEY = "listen_key"
"""The name of the keys that permit nothing but to listen, in `security` and in the document."""

PROBLEM_DESCRIPTIONS = {
    HTTPStatus.BAD_REQUEST: "The request is not valid HTTP, or its body is not valid JSON.",
    HTTPStatus.UNAUTHORIZED: "The request has no key, or its key is not valid.",
    HTTPStatus.NOT_FOUND: "Your account has nothing with this id.",
    HTTPStatus.REQUEST_TIMEOUT: "The body did not arrive in time.",
    HTTPStatus.CONFLICT: "The id is already used by an invoice with other content.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is not declared as JSON in UTF-8.",
    HTTPStatus.MISDIRECTED_REQUEST: "The service answers for other hosts; in development mode "
    "alone.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "The request has fields that are not valid; the first 20 are "
    "listed.",
    HTTPStatus.TOO_MANY_REQUESTS: "Your account is above a limit: its rate, its "
    "reads at a time, or its open deliveries.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The database does not answer. Nothing was stored.",
}
"""What a problem of each status means, for API users."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response of an operation: JSON of *schema*, text like *text_example*, or nothing."""

    description: str
    schema: Schema | None = None
    text_example: str | None = None
    media_type: str = "text/plain"
    """The type of the text."""
    example: Mapping[str, Any] | None = None
    """An example of the JSON; without it, one is made from the fields of *schema*."""
    headers: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Name -> description and example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """
    One operation of the API: its route, its handler, and what the handler declares.

    *path* is as documented; it works with and without the trailing slash. *schemas* are the
    request's, by location: `query`, `path`, `header`, `body`. *security* is None where the
    document's default applies.
    """

    method: str
    path: str
    handler: Handler
    operation_id: str
    tags: tuple[str, ...]
    summary: str
    description: str
    security: tuple[Mapping[str, Any], ...] | None
    schemas: Mapping[str, Schema]
    body_example: Mapping[str, Any]
    answers: Mapping[int, Answer]
    callbacks: tuple[Callback, ...]

    @property
    def takes_listen_key(self) -> bool:
        """Whether a key that permits nothing but to listen is accepted as well."""
        return any(LISTEN_KEY in one for one in self.security or ())

    @property
    def is_private(self) -> bool:
        """Whether only an account may call it: true unless it declares that it needs no key."""
        return self.security != ()


def read_operation(method: str, path: str, handler: Handler) -> Operation:
    """The operation that the decorators of *handler* declare."""
    declared: dict[str, Any] = handler.__apispec__  # type: ignore[attr-defined]
    body_example: dict[str, Any] = {}
    for one in declared["schemas"]:
        if one["location"] == "json":
            # aiohttp-apispec adds an option of its own to the example.
            body_example = {key: of for key, of in one["example"].items() if key != "add_to_refs"}
    return Operation(
        method=method,
        path=path,
        handler=handler,
        operation_id=declared.get("operationId", handler.__name__),
        tags=tuple(declared.get("tags", ())),
        summary=declared.get("summary", ""),
        description=declared.get("description", ""),
        security=tuple(declared["security"]) if "security" in declared else None,
        schemas={LOCATIONS[one["location"]]: one["schema"] for one in declared["schemas"]},
        body_example=body_example,
        answers={
            int(code): Answer(
                one["description"],
                one.get("schema"),
                one.get("text"),
                one.get("media_type", "text/plain"),
                one.get("example"),
                one.get("headers", {}),
            )
            for code, one in sorted(declared["responses"].items())
        },
        callbacks=tuple(declared.get("callbacks", ())),
    )


def is_optional(schema: Schema) -> bool:
    """Whether a body of *schema* may be left out."""
    return bool(getattr(schema, "is_optional", False))


def other_form(path: str) -> str:
    """*path* with a trailing slash if it has none, and without if it has one."""
    return path.removesuffix("/") if path.endswith("/") else path + "/"


# --- The decorators of handlers, besides those of aiohttp-apispec.


def answers(
    schema: type[Schema],
    description: str,
    code: int = 200,
    headers: Mapping[str, tuple[str, str]] | None = None,
    example: Mapping[str, Any] | None = None,
) -> Callable[[Declared], Declared]:
    """
    Declare that the operation answers *code* with *schema*.

    *headers* are those of the response: name -> description and example. *example* replaces the
    example that is made from the fields of *schema*.
    """

    def declare(handler: Declared) -> Declared:
        response_schema(schema, code, description=description)(handler)
        _responses_of(handler)[str(code)].update(headers=headers or {}, example=example)
        return handler

    return declare


def answers_text(description: str, example: str) -> Callable[[Declared], Declared]:
    """Declare that the operation answers 200 with plain text, such as *example*."""

    def declare(handler: Declared) -> Declared:
        _responses_of(handler)["200"] = {"description": description, "text": example}
        return handler

    return declare


def answers_events(description: str, example: str) -> Callable[[Declared], Declared]:
    """Declare that the operation answers 200 with server-sent events, such as *example*."""

    def declare(handler: Declared) -> Declared:
        events = {"description": description, "text": example, "media_type": "text/event-stream"}
        _responses_of(handler)["200"] = events
        return handler

    return declare


def answers_nothing(description: str) -> Callable[[Declared], Declared]:
    """Declare that the operation answers 204 without a body."""

    def declare(handler: Declared) -> Declared:
        _responses_of(handler)["204"] = {"description": description}
        return handler

    return declare


def refuses(
    *codes: int, descriptions: Mapping[int, str] | None = None
) -> Callable[[Declared], Declared]:
    """
    Declare the statuses that the operation may answer with a problem document.

    *descriptions* say what one of them means here, if that is something else than elsewhere.
    """

    def declare(handler: Declared) -> Declared:
        for code in codes:
            description = (descriptions or {}).get(code) or PROBLEM_DESCRIPTIONS[HTTPStatus(code)]
            response_schema(ProblemSchema, code, description=description)(handler)
        return handler

    return declare


def _responses_of(handler: Callable[..., Any]) -> dict[str, dict[str, Any]]:
    declared: dict[str, Any] = handler.__apispec__  # type: ignore[attr-defined]
    responses: dict[str, dict[str, Any]] = declared["responses"]
    return responses


# --- aiohttp-apispec's validation middleware.


def use_parser(app: web.Application, parser: object) -> None:
    """
    Have aiohttp-apispec's validation middleware call *parser* instead of webargs' own.

    Must be called before any route is added: aiohttp-apispec would otherwise convert the
    declarations of the handlers to OpenAPI 2, in place.
    """
    with warnings.catch_warnings():
        # aiohttp-apispec stores its settings under plain strings, of which aiohttp warns.
        warnings.simplefilter("ignore", web.NotAppKeyWarning)
        setup_aiohttp_apispec(app, url=None, in_place=True)
        (key,) = [key for key, one in app.items() if one is webargs_parser]
        app[key] = parser
