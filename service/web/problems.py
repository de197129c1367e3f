"""Problem documents (RFC 9457): the one table from errors to HTTP statuses and titles."""

from http import HTTPStatus
from math import ceil
from typing import Any

import orjson
from aiohttp import hdrs, web

from service.errors import (
    CollectorUnavailable,
    Conflict,
    InvalidInput,
    ListenersUnavailable,
    MalformedRequest,
    MisdirectedRequest,
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

CONTENT_TYPE = "application/problem+json"
CHALLENGE = 'Bearer realm="invoices"'
"""`WWW-Authenticate` of a response to a request without a valid key (RFC 6750, section 3)."""

DOCS_PATH = "/api/docs"
"""The path of the documentation, below that of the public URL."""

PROBLEMS: dict[type[Exception], tuple[HTTPStatus, str, str]] = {
    MalformedRequest: (HTTPStatus.BAD_REQUEST, "malformed-request", "Malformed request"),
    Unauthorized: (HTTPStatus.UNAUTHORIZED, "unauthorized", "Unauthorized"),
    NotFound: (HTTPStatus.NOT_FOUND, "not-found", "Not found"),
    RequestTimedOut: (HTTPStatus.REQUEST_TIMEOUT, "request-timed-out", "Request timed out"),
    Conflict: (HTTPStatus.CONFLICT, "conflict", "Conflict"),
    RequestTooLarge: (
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "request-too-large",
        "Request too large",
    ),
    UnsupportedMedia: (
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "unsupported-media",
        "Unsupported media type",
    ),
    MisdirectedRequest: (
        HTTPStatus.MISDIRECTED_REQUEST,
        "misdirected-request",
        "Misdirected request",
    ),
    InvalidInput: (HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-input", "Invalid input"),
    TooManyRequests: (HTTPStatus.TOO_MANY_REQUESTS, "too-many-requests", "Too many requests"),
    CollectorUnavailable: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "collector-unavailable",
        "Collector unavailable",
    ),
    ListenersUnavailable: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "listeners-unavailable",
        "Listeners unavailable",
    ),
    StorageUnavailable: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "storage-unavailable",
        "Storage unavailable",
    ),
}
"""Error -> status, name of the problem type, title."""

DEFAULT_DETAILS = {
    HTTPStatus.NOT_FOUND: "Nothing is served at this path. {docs} describes the API.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "The service failed. The error has been logged.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The database does not answer. Nothing was stored; the same "
    "request may be sent again.",
}

UNAVAILABLE: dict[type[Exception], str] = {
    StorageUnavailable: DEFAULT_DETAILS[HTTPStatus.SERVICE_UNAVAILABLE],
    CollectorUnavailable: "The collector does not answer. Nothing was changed; the same request "
    "may be sent again.",
}
"""What API users are told of each."""

RETRY_SECONDS = 5
"""`Retry-After` while the database or the collector is unavailable."""


def document_of(error: RequestError | Unavailable, public_path: str = "") -> dict[str, Any]:
    """The problem document of *error*; its type is a link below *public_path*."""
    status, name, title = next(PROBLEMS[cls] for cls in type(error).__mro__ if cls in PROBLEMS)
    # The text of such an error is for the log of the operator.
    unavailable = next((UNAVAILABLE[one] for one in UNAVAILABLE if isinstance(error, one)), None)
    detail = unavailable or str(error)
    document = _document(status, f"{public_path}{DOCS_PATH}/problems#{name}", title, detail)
    if isinstance(error, InvalidInput):
        document["errors"] = [
            {"location": one.location, "pointer": one.pointer, "message": one.message}
            for one in error.field_errors
        ]
    return document


def problem_of(error: RequestError | Unavailable, public_path: str = "") -> web.Response:
    """The response for *error*, with links below *public_path*."""
    headers: dict[str, str] | None = None
    if isinstance(error, Unavailable):
        headers = {hdrs.RETRY_AFTER: str(RETRY_SECONDS)}
    elif isinstance(error, TooManyRequests):
        headers = {hdrs.RETRY_AFTER: str(ceil(error.after_seconds))}
    elif isinstance(error, Unauthorized):
        headers = {hdrs.WWW_AUTHENTICATE: CHALLENGE}
    response = _response(document_of(error, public_path), headers)
    if isinstance(error, RequestTimedOut | RequestTooLarge):
        # More of the body may still arrive, and is not read.
        response.force_close()
    return response


def problem_of_status(
    code: int,
    detail: str | None = None,
    headers: dict[str, str] | None = None,
    public_path: str = "",
) -> web.Response:
    """The response for an HTTP status without an error of ours, such as aiohttp's own 404."""
    status = HTTPStatus(code)
    if detail is None:
        detail = DEFAULT_DETAILS.get(status) or status.description or status.phrase
        detail = detail.replace("{docs}", public_path + DOCS_PATH)
    return _response(document_of_status(status, detail), headers)


def document_of_status(status: HTTPStatus, detail: str) -> dict[str, Any]:
    """The problem document for an HTTP status without an error of ours."""
    return _document(status, "about:blank", status.phrase, detail)


def _document(status: HTTPStatus, kind: str, title: str, detail: str) -> dict[str, Any]:
    return {"type": kind, "title": title, "status": int(status), "detail": detail}


def _response(document: dict[str, Any], headers: dict[str, str] | None) -> web.Response:
    # A message may quote what the caller sent, which may hold half of a surrogate pair.
    body = orjson.dumps(_encodable(document))
    return web.Response(
        status=document["status"], body=body, content_type=CONTENT_TYPE, headers=headers
    )


def _encodable(value: Any) -> Any:
    """*value* with everything replaced that UTF-8 cannot encode."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {name: _encodable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_encodable(inner) for inner in value]
    return value
