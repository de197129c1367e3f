"""Problem documents (RFC 9457): the one table from errors to HTTP numbers and titles."""

from __future__ import annotations

from http import HTTPStatus
from math import ceil
from typing import Any

import orjson
from aiohttp import hdrs, web

from service.errors import (
    Conflict,
    InvalidInput,
    MalformedRequest,
    NotFound,
    RequestError,
    RequestTimedOut,
    RequestTooLarge,
    StorageUnavailable,
    TooManyRequests,
    Unauthorized,
    UnsupportedMedia,
)

CONTENT_TYPE = "application/problem+json"
CHALLENGE = 'Bearer realm="invoices"'
"""What a request without a valid key is told (RFC 6750, section 3)."""

TYPE_PREFIX = "/api/docs/problems#"

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
    InvalidInput: (HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-input", "Invalid input"),
    TooManyRequests: (HTTPStatus.TOO_MANY_REQUESTS, "too-many-requests", "Too many requests"),
    StorageUnavailable: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "storage-unavailable",
        "Storage unavailable",
    ),
}
"""Error -> status, the name of the problem's type, its title."""

DEFAULT_DETAILS = {
    HTTPStatus.NOT_FOUND: "There is nothing here. The API is described at /api/docs.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Something is wrong on our side; it has been logged.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The database does not answer now. Nothing was stored; the "
    "same request may be sent again.",
}

RETRY_SECONDS = 5
"""What `Retry-After` says while the database is away."""


def document_of(error: RequestError | StorageUnavailable) -> dict[str, Any]:
    """The problem document that tells *error*."""
    status, name, title = _kind_of(error)
    # What the database said is for the operator's log.
    is_ours = isinstance(error, StorageUnavailable)
    detail = DEFAULT_DETAILS[status] if is_ours else str(error)
    document = _document(status, TYPE_PREFIX + name, title, detail)
    if isinstance(error, InvalidInput):
        document["errors"] = [
            {"location": one.location, "pointer": one.pointer, "message": one.message}
            for one in error.mistakes
        ]
    return document


def problem_of(error: RequestError | StorageUnavailable) -> web.Response:
    """The response that tells *error*."""
    response = _response(document_of(error), _headers_of(error))
    if isinstance(error, RequestTimedOut | RequestTooLarge):
        # The rest of the body is still on its way, and nobody will read it.
        response.force_close()
    return response


def _kind_of(error: Exception) -> tuple[HTTPStatus, str, str]:
    return next(PROBLEMS[cls] for cls in type(error).__mro__ if cls in PROBLEMS)


def _headers_of(error: RequestError | StorageUnavailable) -> dict[str, str] | None:
    if isinstance(error, StorageUnavailable):
        return {hdrs.RETRY_AFTER: str(RETRY_SECONDS)}
    if isinstance(error, TooManyRequests):
        return {hdrs.RETRY_AFTER: str(ceil(error.after_seconds))}
    if isinstance(error, Unauthorized):
        return {hdrs.WWW_AUTHENTICATE: CHALLENGE}
    return None


def problem_of_status(
    code: int, detail: str | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    """The response for a bare HTTP status, such as aiohttp's own 404 and 405."""
    status = HTTPStatus(code)
    detail = detail or DEFAULT_DETAILS.get(status) or status.description or status.phrase
    return _response(_document(status, "about:blank", status.phrase, detail), headers)


def _document(status: HTTPStatus, kind: str, title: str, detail: str) -> dict[str, Any]:
    return {"type": kind, "title": title, "status": int(status), "detail": detail}


def _response(document: dict[str, Any], headers: dict[str, str] | None) -> web.Response:
    # What a caller sent may stand in a message, halves of surrogate pairs included.
    body = orjson.dumps(_printable(document))
    return web.Response(
        status=document["status"], body=body, content_type=CONTENT_TYPE, headers=headers
    )


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {name: _printable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_printable(inner) for inner in value]
    return value
