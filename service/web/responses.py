"""What handlers answer with, and what the document says about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

import orjson
from aiohttp import hdrs, web
from aiohttp_apispec import response_schema
from marshmallow import Schema

from schemas.problem import ProblemSchema

Handler = TypeVar("Handler", bound=Callable[..., Any])

_PROBLEM_DESCRIPTIONS = {
    HTTPStatus.BAD_REQUEST: "The request cannot be read: it is not valid HTTP, or its "
    "body is not JSON.",
    HTTPStatus.UNAUTHORIZED: "No key was sent, or none that is valid.",
    HTTPStatus.NOT_FOUND: "Your account has no such thing.",
    HTTPStatus.REQUEST_TIMEOUT: "The body did not arrive in time.",
    HTTPStatus.CONFLICT: "The id is taken, by an invoice of other content.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is too large.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is not declared as JSON in UTF-8.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "The request was understood, but what it says cannot be "
    "accepted; everything that is wrong is listed.",
    HTTPStatus.TOO_MANY_REQUESTS: "Your account makes more requests than it may.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The database does not answer now. Nothing was stored.",
}


def json_response(
    document: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """*document* as JSON in UTF-8."""
    return json_answer(orjson.dumps(document), status=status, headers=headers)


def json_answer(
    body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """*body*, which is JSON in UTF-8 already."""
    return web.Response(
        body=body, status=status, headers=headers, content_type="application/json", charset="utf-8"
    )


_EVERYWHERE = {
    hdrs.SERVER: "invoices",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
"""The Content-Security-Policy of what is no page, should a browser show it as one all the same."""


def dress(response: web.StreamResponse) -> None:
    """Give *response* the headers that all of them have."""
    headers = response.headers
    headers.update(_EVERYWHERE)
    # The pages of the documentation come with a policy of their own.
    headers.setdefault("Content-Security-Policy", _NO_PAGE)
    # Files have an ETag, and a browser may keep them; what the API says is true only now.
    is_file = isinstance(response, web.FileResponse)
    headers[hdrs.CACHE_CONTROL] = "no-cache" if is_file else "no-store"


def answers(
    schema: type[Schema],
    description: str,
    code: int = 200,
    headers: Mapping[str, tuple[str, str]] | None = None,
) -> Callable[[Handler], Handler]:
    """
    Declare that the operation answers *code* with *schema*.

    *headers* are those of the answer, each with what it says and an example.
    """

    def declare(handler: Handler) -> Handler:
        handler = response_schema(schema, code, description=description)(handler)
        if headers:
            handler.__apispec__["responses"][str(code)]["headers"] = headers  # type: ignore[attr-defined]
        return handler

    return declare


def answers_text(description: str, example: str) -> Callable[[Handler], Handler]:
    """Declare that the operation answers 200 with text, such as *example*."""

    def declare(handler: Handler) -> Handler:
        content = {"text/plain": {"schema": {"type": "string"}, "example": example}}
        answer = {"description": description, "content": content}
        handler.__apispec__["responses"]["200"] = answer  # type: ignore[attr-defined]
        return handler

    return declare


def refuses(*codes: int) -> Callable[[Handler], Handler]:
    """Declare the problems that the operation may answer with."""

    def declare(handler: Handler) -> Handler:
        for code in codes:
            description = _PROBLEM_DESCRIPTIONS[HTTPStatus(code)]
            handler = response_schema(ProblemSchema, code, description=description)(handler)
        return handler

    return declare
