"""The OpenAPI 3.1 document, built from the declared operations."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from datetime import timedelta
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema

from schemas.documented import example_of
from schemas.problem import ProblemSchema
from service.api.callback_plugin import CallbackPlugin, names_in
from service.api.operations import (
    LISTEN_KEY,
    PROBLEM_DESCRIPTIONS,
    Answer,
    Operation,
    is_optional,
)
from service.errors import (
    Conflict,
    FieldError,
    InvalidInput,
    MalformedRequest,
    NotFound,
    RequestError,
    RequestTimedOut,
    RequestTooLarge,
    StorageUnavailable,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnsupportedMedia,
)
from service.web import problems
from service.web.server import NOT_HTTP

DESCRIPTION = """\
Create an invoice: the service sends it to your customer, collects the money, and **calls your API
back** with every event. An invoice that was answered 202 is never lost.

1. `POST /invoices/?callback_url=https://api.example.com`
2. Implement one route: `POST /invoices/{id}`, as the *Callbacks* of that operation describe it.
3. Answer `{"ok": true}`. After any other answer the event is sent again.

If a callback does not arrive, `GET /invoices/{id}/deliveries` shows the attempts and what was
answered: of each delivery the newest 100. `GET /events` tells what happened without calling you.
"""

TAGS = (
    {"name": "invoices", "description": "Create invoices and follow their collection."},
    {"name": "deliveries", "description": "See what was sent to your API and what it answered."},
    {"name": "events", "description": "Follow what happened, without being called."},
    {"name": "receivers", "description": "See, pause, resume and test your callback URLs."},
    {"name": "listening", "description": "Take callbacks on your machine, without a tunnel."},
    {"name": "operations", "description": "For operators of the service."},
    {"name": "pages", "description": "What customers look at, in HTML; see `payment_url`."},
)

KEY = "key"
KEY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "inv_…",
    "description": "The key of your account. In development mode it is optional.",
}

LISTEN_KEY_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "inl_…",
    "description": "A key that permits nothing but to listen, from `POST /listen-keys`: to "
    "take callbacks for listeners, to answer them, and to redeliver them.",
}

FIELD_ERRORS = (
    FieldError("body", "/total", "Must be more than zero."),
    FieldError("body", "/status", "Must be one of: dead."),
    FieldError("query", "/callback_url", "The value must be an https:// URL."),
    FieldError(
        "query", "/limit", "Must be greater than or equal to 1 and less than or equal to 200."
    ),
    FieldError("path", "/id", "Length must be between 1 and 200."),
    FieldError(
        "path",
        "/name",
        "Must be 1 to 64 lower-case letters, digits and hyphens, no hyphen first.",
    ),
    FieldError("body", "/body_base64", "Must be Base64."),
)
"""Examples of field errors; an operation shows those that it can answer."""

_EXAMPLES: dict[int, Callable[[list[FieldError]], RequestError | Unavailable]] = {
    400: lambda _: MalformedRequest("The body is not JSON: unexpected end of data."),
    401: lambda _: Unauthorized("The key is not valid."),
    404: lambda _: NotFound("There is nothing with this id."),
    408: lambda _: RequestTimedOut("The body was not complete after 10 seconds."),
    409: lambda _: Conflict(
        "The invoice '2expen51ve' was received before with other content: total."
    ),
    413: lambda _: RequestTooLarge("The body is larger than 65536 bytes."),
    415: lambda _: UnsupportedMedia("The body must be sent as Content-Type: application/json."),
    422: InvalidInput,
    429: lambda _: TooManyRequests(0.4),
    503: lambda _: StorageUnavailable(),
}
"""Status -> the error whose problem document is the example."""


def build_document(
    operations: Iterable[Operation],
    *,
    version: str,
    public_url: str,
    callback_timeout: timedelta,
    is_strict: bool,
    is_development: bool = False,
    pages: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """
    The document of *operations*, in their order, and of *pages* that are served beside them.

    *callback_timeout* and *is_strict* apply to the answers of receivers. In development a key is
    optional.

    Raises:
        DeclarationError: if a callback uses a value that its operation does not declare.
    """
    operations, public_path = tuple(operations), urlsplit(public_url).path
    spec = APISpec(
        title="invoices",
        version=version,
        openapi_version="3.1.0",
        info={
            "description": DESCRIPTION,
            "contact": {"name": "The invoices authors"},
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        servers=[
            # Relative to where the document was read: a browser calls no other origin.
            {"url": public_path or "/", "description": "The server of this document."},
            {"url": public_url, "description": "How users reach this service."},
        ],
        security=[{}, {KEY: []}] if is_development else [{KEY: []}],
        tags=[dict(tag) for tag in TAGS],
        plugins=[
            CallbackPlugin(timeout=callback_timeout, is_strict=is_strict),
            MarshmallowPlugin(schema_name_resolver=_schema_name),
        ],
    )
    spec.components.security_scheme(KEY, KEY_SCHEME)
    if any(one.takes_listen_key for one in operations):
        spec.components.security_scheme(LISTEN_KEY, LISTEN_KEY_SCHEME)
    for one in operations:
        spec.path(
            path=one.path,
            operations={
                one.method.lower(): _Parts(
                    _operation(one, public_path, is_development=is_development)
                )
            },
            declared=one.callbacks,
        )
    for path, methods in (pages or {}).items():
        spec.path(path=path, operations=deepcopy(dict(methods)))
    document = spec.to_dict()
    # Readers expect the version at the top.
    return {"openapi": document.pop("openapi"), **document}


class _Parts(dict[str, Any]):
    """
    An operation that is copied without its schemas, which do not change.

    apispec copies what it is given. Copies of the schemas would be half of the time that a document
    takes, and each start of the service waits for its document.
    """

    def __deepcopy__(self, _: object) -> dict[str, Any]:
        return {name: _copied(part) for name, part in self.items()}


def _copied(part: Any) -> Any:
    """A copy of *part* that shares nothing with it but values that do not change."""
    if isinstance(part, dict):
        return {name: _copied(one) for name, one in part.items()}
    return [_copied(one) for one in part] if isinstance(part, list) else part


def _operation(declared: Operation, public_path: str, *, is_development: bool) -> dict[str, Any]:
    """An operation in the form that apispec takes, with example links below *public_path*."""
    texts = {"summary": declared.summary, "description": declared.description}
    operation: dict[str, Any] = {
        "tags": list(declared.tags),
        "operationId": declared.operation_id,
        **{name: text for name, text in texts.items() if text},
    }
    if declared.security is not None:
        # In development no key is needed.
        is_optional_ = is_development and declared.is_private
        operation["security"] = [*([{}] if is_optional_ else []), *declared.security]
    operation["parameters"] = [
        {"in": location, "schema": schema}
        for location, schema in declared.schemas.items()
        if location != "body"
    ]
    if "body" in declared.schemas:
        operation["requestBody"] = _json_body(declared.schemas["body"], declared.body_example)
    field_errors = [
        one
        for one in FIELD_ERRORS
        if one.location in declared.schemas
        and one.pointer[1:] in names_in(declared.schemas[one.location])
    ]
    operation["responses"] = {
        str(code): _response(
            code, answer, field_errors, public_path, has_body="body" in declared.schemas
        )
        for code, answer in declared.answers.items()
    }
    return operation


def _response(
    code: int,
    answer: Answer,
    field_errors: list[FieldError],
    public_path: str,
    *,
    has_body: bool,
) -> dict[str, Any]:
    content: dict[str, Any]
    description = answer.description
    if answer.schema is None:
        content = _text_content(answer)
    elif isinstance(answer.schema, ProblemSchema):
        example = problems.document_of(_example(code, answer, field_errors), public_path)
        if code == HTTPStatus.BAD_REQUEST and not has_body:
            description = "The request is not valid HTTP."
            example = problems.document_of_status(HTTPStatus.BAD_REQUEST, NOT_HTTP)
        content = {problems.CONTENT_TYPE: {"schema": answer.schema, "example": example}}
    else:
        example = dict(answer.example or example_of(answer.schema))
        content = {"application/json": {"schema": answer.schema, "example": example}}
    response: dict[str, Any] = {"description": description, "content": content}
    if headers := _headers_of(code, answer, public_path):
        response["headers"] = _response_headers(headers)
    return {name: part for name, part in response.items() if part}


def _headers_of(code: int, answer: Answer, public_path: str) -> dict[str, tuple[str, str]]:
    """The headers of an answer: name -> description and example."""
    headers = dict(answer.headers)
    if "Location" in headers:
        text, path = headers["Location"]
        headers["Location"] = (text, public_path + path)
    if code in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        headers["Retry-After"] = ("After how many seconds to send the request again.", "5")
    if code == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = ("How to authenticate.", problems.CHALLENGE)
    return headers


def _text_content(answer: Answer) -> dict[str, Any]:
    """The content of an answer that is text; empty for one without a body."""
    if answer.text_example is None:
        return {}
    return {answer.media_type: {"schema": {"type": "string"}, "example": answer.text_example}}


def _example(
    code: int, answer: Answer, field_errors: list[FieldError]
) -> RequestError | Unavailable:
    """The error that is the example; the conflict of one operation is not that of another."""
    if (
        code == HTTPStatus.CONFLICT
        and answer.description != PROBLEM_DESCRIPTIONS[HTTPStatus.CONFLICT]
    ):
        return Conflict(answer.description)
    return _EXAMPLES[code](field_errors)


def _response_headers(headers: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Header objects of *headers*: name -> description and example."""
    return {
        name: {"description": text, "schema": {"type": "string"}, "example": example}
        for name, (text, example) in headers.items()
    }


def _json_body(schema: Schema, example: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema, "example": dict(example) or example_of(schema)}
    return {"required": not is_optional(schema), "content": {"application/json": content}}


def _schema_name(schema: type[Schema] | Schema) -> str:
    cls = schema if isinstance(schema, type) else type(schema)
    return cls.__name__.removesuffix("Schema")
