"""
What stands between the socket and a handler.

Errors become problem documents, bodies are bounded in time and size, and declared callbacks are
evaluated from the very request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from errno import ENAMETOOLONG

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from service.api.callbacks import evaluate_callbacks
from service.api.dependencies import (
    ACCOUNT_ID,
    AUTHENTICATE,
    LIMIT,
    MISTAKES,
    PRIVATE,
    TRACEPARENT,
    TRACING,
)
from service.errors import (
    InvalidInput,
    MalformedRequest,
    RequestError,
    RequestTimedOut,
    RequestTooLarge,
    StorageUnavailable,
    UnsupportedMedia,
)
from service.telemetry.tracing import Span, traceparent_in
from service.web import request_ids
from service.web.problems import problem_of, problem_of_status
from service.web.request_ids import request_id_of
from service.web.responses import dress

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger("invoices.api")


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What the body of a request may take."""

    size: int = 64 * 1024
    """The most bytes that are read: some hundred times the largest invoice anybody writes."""
    seconds: float = 10
    """How long it may take to come. One that never ends would hold a handler for good."""


BODY_LIMITS = web.AppKey("body_limits", BodyLimits)

TLS_SECONDS = 365 * 86400
"""How long a browser that has once come over https:// does not try http:// again."""


@web.middleware
async def traces(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every request of an account as a span, whose trace its callbacks continue."""
    if request.match_info.handler not in request.app[PRIVATE]:
        return await handler(request)
    resource = request.match_info.route.resource
    route = resource.canonical if resource else ""
    name, parent = f"{request.method} {route}", traceparent_in(request.headers)
    with request.app[TRACING].serving(name, parent) as span:
        request[TRACEPARENT] = span.traceparent
        response = await handler(request)
        if span.is_recorded:
            _tell(span, request, route, response)
        return response


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as a problem document; what nobody foresaw is logged, and told to nobody."""
    try:
        return await handler(request)
    except (RequestError, StorageUnavailable) as error:
        if isinstance(error, StorageUnavailable):
            log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
        return problem_of(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _answer_to(request, error)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == ENAMETOOLONG:
            # aiohttp looks for a file of the very name that it was asked for.
            return problem_of_status(404)
        # The border: what happened is for the log, and a caller never sees a traceback.
        fields = {"request_id": request_id_of(request), "path": request.path}
        log.exception("request.failed", extra={"fields": fields})
        return problem_of_status(500)


@web.middleware
async def accounts(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let nobody but an account ask what is private, and no account ask too often."""
    await _admit(request)
    return await handler(request)


@web.middleware
async def bounded_bodies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Read the body within its bounds; handlers find it read."""
    if request.can_read_body:
        await _read(request, request.app[BODY_LIMITS])
    return await handler(request)


@web.middleware
async def callbacks(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Evaluate the callbacks that the handler declares; refuse a request with mistakes."""
    mistakes = request.get(MISTAKES, [])
    mistakes += evaluate_callbacks(request, mistakes)
    if mistakes:
        raise InvalidInput(mistakes)
    return await handler(request)


async def expect(request: web.Request) -> web.StreamResponse | None:
    """
    Answer an `Expect` header, before anything else sees the request.

    A client that waits for `100 Continue` is told at once that its body is too large, or that
    nobody is going to read what a stranger sends.
    """
    try:
        await _admit(request)
    except (RequestError, StorageUnavailable) as error:
        return problem_of(error)
    limits = request.app[BODY_LIMITS]
    if (request.content_length or 0) > limits.size:
        return problem_of(_too_large(limits))
    if request.version >= HttpVersion11:
        if request.headers[hdrs.EXPECT].lower() != "100-continue":
            return problem_of_status(417, "The only expectation that is met is 100-continue.")
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # That was no answer yet: aiohttp would refuse to begin another.
        request.writer.output_size = 0
    return None


async def _admit(request: web.Request) -> None:
    """Find out whose request it is and count it, once: `expect` may have done so before."""
    if request.match_info.handler not in request.app[PRIVATE] or ACCOUNT_ID in request:
        return
    account_id = await request.app[AUTHENTICATE](request.headers.get(hdrs.AUTHORIZATION))
    request.app[LIMIT](account_id)
    request[ACCOUNT_ID] = account_id


async def dress_answer(request: web.Request, response: web.StreamResponse) -> None:
    """Give every *response* its headers, whoever made it."""
    dress(response)
    response.headers[request_ids.HEADER] = request_id_of(request)


async def insist_on_tls(_request: web.Request, response: web.StreamResponse) -> None:
    """Have browsers come back over https:// alone."""
    response.headers["Strict-Transport-Security"] = f"max-age={TLS_SECONDS}"


async def _read(request: web.Request, limits: BodyLimits) -> None:
    if (request.content_length or 0) > limits.size:
        raise _too_large(limits)
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise UnsupportedMedia("The body must be sent without a Content-Encoding.")
    try:
        if request.content.is_eof():
            # It came in one piece with the head, as most do: there is nothing to wait for.
            await request.read()
            return
        async with asyncio.timeout(limits.seconds):
            await request.read()
    except TimeoutError:
        raise RequestTimedOut(
            f"The body was not complete after {limits.seconds:g} seconds."
        ) from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(limits) from None
    except (web.RequestPayloadError, HttpProcessingError, ConnectionError) as error:
        # The connection keeps the error, whose frames keep the connection: a circle that would
        # hold the body until the garbage collector comes by.
        error.__traceback__ = None
        raise MalformedRequest("The body is not what its headers announce.") from None


def _too_large(limits: BodyLimits) -> RequestTooLarge:
    return RequestTooLarge(f"The body is larger than {limits.size} bytes.")


def _tell(span: Span, request: web.Request, route: str, response: web.StreamResponse) -> None:
    span.set_attributes(
        {
            "http.request.method": request.method,
            "http.route": route,
            "http.response.status_code": response.status,
            "invoices.request_id": request_id_of(request),
            "invoices.account_id": request.get(ACCOUNT_ID),
        }
    )
    if response.status >= 500:
        span.fail(str(response.status))


def _answer_to(request: web.Request, error: web.HTTPException) -> web.Response:
    """The problem that aiohttp's own *error* is, or what the path can do if that was asked."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        methods = ", ".join(sorted({*error.allowed_methods, hdrs.METH_OPTIONS}))
        if request.method == hdrs.METH_OPTIONS:
            return web.Response(status=204, headers={hdrs.ALLOW: methods})
        detail = f"{error.method} is not possible here; {methods} are."
        return problem_of_status(405, detail, headers={hdrs.ALLOW: methods})
    return problem_of_status(error.status)
