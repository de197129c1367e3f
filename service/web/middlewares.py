"""
The middlewares around every handler, and the hook that runs before every response.

Errors become problem documents, or pages where people read them; requests of accounts become spans,
and a request is authenticated and counted before its body is read.
"""

import logging
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass, field

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Handler, Middleware

from service.errors import (
    CollectorUnavailable,
    ConfigurationError,
    RequestError,
    StorageUnavailable,
    Unavailable,
)
from service.telemetry.metrics import OTHER, Metrics
from service.telemetry.tracing import Span, SpanKind, Tracing, traceparent_in
from service.web import request_ids
from service.web.bodies import BodyLimits, read_body
from service.web.large_requests import LARGE_BYTES, LargeRequests
from service.web.problems import problem_of, problem_of_status
from service.web.request_ids import REQUEST_ID, new_request_id, request_id_of
from service.web.responses import add_common_headers

log = logging.getLogger("invoices.api")

ACCOUNT_ID = web.RequestKey("account_id", str)
"""The account that sent the request."""

TRACEPARENT = web.RequestKey[str | None]("traceparent")
"""The parent of every span that follows from the request; None where there is no trace."""

PUBLIC_PATH = web.AppKey("public_path", str)
"""The path of the public URL, which a proxy in front removes: links begin with it."""

ErrorPage = Callable[[web.Request, int], web.Response]
"""Makes the page that people read in place of the problem document of a status."""

ERROR_PAGES = web.AppKey("error_pages", dict[str, ErrorPage])
"""For paths below each of these, errors are pages."""

EXPECT = web.AppKey[Callable[[web.Request], Awaitable[web.StreamResponse | None]]]("expect")
"""Answers the `Expect` header of requests for pages; see `Admission.expect`."""

NOT_SERVED = web.AppKey("not_served", str)
"""What a path that is not served is answered with, where the process serves only a part."""

HSTS_SECONDS = 365 * 86400
"""How long a browser that has used https:// does not use http://."""

Authenticate = Callable[[str | None], Awaitable[str]]
"""Returns the account id for an `Authorization` header, or raises Unauthorized."""

_NO_SPAN = Span(None)


def make_border(tracing: Tracing, private: Container[object]) -> Middleware:
    """
    Make the outermost middleware: it answers errors, and records spans of private requests.

    *private* holds the handlers that only an account may call.
    """

    @web.middleware
    async def border(request: web.Request, handler: Handler) -> web.StreamResponse:
        span = _NO_SPAN
        if request.match_info.handler in private:
            name = f"{request.method} {_route_of(request)}" if tracing.is_on else ""
            span = tracing.begin(SpanKind.SERVER, name, traceparent_in(request.headers))
        with span:
            request[TRACEPARENT], request[REQUEST_ID] = span.traceparent, new_request_id(request)
            try:
                response = await handler(request)
            except web.HTTPException as error:
                if error.status < 400:
                    raise
                response = _for_readers(request, _response_to_aiohttp(request, error))
            except Exception as error:  # noqa: BLE001 -- the border: a caller never sees a traceback
                response = _for_readers(request, _response_to(request, error))
            if span.is_recorded:
                _describe(span, request, response)
            return response

    return border


def _response_to_aiohttp(request: web.Request, error: web.HTTPException) -> web.Response:
    """The problem for an *error* of aiohttp itself; for OPTIONS, the methods of the path."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        methods = ", ".join(sorted({*error.allowed_methods, hdrs.METH_OPTIONS}))
        if request.method == hdrs.METH_OPTIONS:
            return web.Response(status=204, headers={hdrs.ALLOW: methods})
        detail = f"{error.method} is not allowed here. Allowed methods: {methods}."
        return problem_of_status(405, detail, headers={hdrs.ALLOW: methods})
    public_path = request.app[PUBLIC_PATH]
    reason = _not_found(request, public_path) if error.status == 404 else None
    return problem_of_status(error.status, reason, public_path=public_path)


def _not_found(request: web.Request, public_path: str) -> str | None:
    """What a path that is not served is answered with; None for the usual words."""
    # Where an application has the service as its part, that has found it by the prefix.
    is_whole = len(request.match_info.apps) == 1
    if public_path and is_whole and f"{request.path}/".startswith(f"{public_path}/"):
        return (
            f"The path begins with {public_path}, the path of INVOICES_PUBLIC_URL. The proxy in "
            "front of the service must remove it before it passes a request on."
        )
    return request.app.get(NOT_SERVED)


def _response_to(request: web.Request, error: Exception) -> web.Response:
    """The problem for *error*; one that is not expected is logged."""
    if isinstance(error, StorageUnavailable):
        log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
    elif isinstance(error, ConfigurationError):
        # A secret was encrypted with a key that was removed while this process ran.
        log.error("secret.unreadable", extra={"fields": {"detail": str(error)}})
        error = StorageUnavailable()
    elif isinstance(error, CollectorUnavailable):
        log.warning("collector.unavailable", extra={"fields": {"detail": str(error)}})
    if isinstance(error, RequestError | Unavailable):
        return problem_of(error, request.app[PUBLIC_PATH])
    # A pay token is a secret: the path with its name instead.
    path = _route_of(request) if "token" in request.match_info else request.path
    fields = {"request_id": request_id_of(request), "path": path}
    log.exception("request.failed", extra={"fields": fields})
    return problem_of_status(500)


def _for_readers(request: web.Request, problem: web.Response) -> web.Response:
    """*problem*, or a page with its status and headers where people read what is answered."""
    page_of = next(
        (
            page_of
            for above, page_of in request.app[ERROR_PAGES].items()
            if f"{request.path}/".startswith(f"{above}/")
        ),
        None,
    )
    if page_of is None or problem.status < 400:
        return problem
    page = page_of(request, problem.status)
    for name in (hdrs.ALLOW, hdrs.RETRY_AFTER):
        if name in problem.headers:
            page.headers[name] = problem.headers[name]
    if problem.keep_alive is False:
        page.force_close()
    return page


def _route_of(request: web.Request) -> str:
    """The path as it is documented, with the names of its parameters."""
    resource = request.match_info.route.resource
    return resource.canonical if resource else ""


def _describe(span: Span, request: web.Request, response: web.StreamResponse) -> None:
    span.set_attributes(
        {
            "http.request.method": request.method,
            "http.route": _route_of(request),
            "http.response.status_code": response.status,
            "invoices.request_id": request_id_of(request),
            "invoices.account_id": request.get(ACCOUNT_ID),
        }
    )
    if response.status >= 500:
        span.fail(str(response.status))


@dataclass(frozen=True, slots=True)
class Admission:
    """
    Authenticates and counts private requests, then reads bodies: not those of refused requests.

    *private* holds the handlers that only an account may call, each with the function that finds
    the account of an `Authorization` header; *limit* counts one request of it. Both raise a
    RequestError to refuse the request. *larger_bodies* are the limits of handlers that take more
    than *body_limits*.
    """

    private: Mapping[object, Authenticate]
    limit: Callable[[str], None]
    body_limits: BodyLimits
    larger_bodies: Mapping[object, BodyLimits]
    large_requests: LargeRequests = field(default_factory=LargeRequests)

    @web.middleware
    async def admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Call *handler* with the account of the request known and its body read."""
        await self._identify(request)
        size = len(request.raw_path)
        if request.can_read_body:
            is_late = not request.content.is_eof()
            size += await read_body(request, self._limits_of(request))
            if is_late and ACCOUNT_ID in request:
                # The account may have been disabled while the body arrived.
                authenticate = self.private[request.match_info.handler]
                await authenticate(request.headers.get(hdrs.AUTHORIZATION))
        if size > LARGE_BYTES and ACCOUNT_ID in request:
            await self.large_requests.turn(request[ACCOUNT_ID])
        return await handler(request)

    async def expect(self, request: web.Request) -> web.StreamResponse | None:
        """
        Answer an `Expect` header, which aiohttp handles before any middleware.

        A client that waits for `100 Continue` learns before it sends the body that it has no
        valid key or that the body is too large.
        """
        try:
            await self._identify(request)
            self._limits_of(request).check(request)
        except (RequestError, Unavailable) as error:
            return _for_readers(request, problem_of(error, request.app[PUBLIC_PATH]))
        if request.version >= HttpVersion11:
            if request.headers[hdrs.EXPECT].lower() != "100-continue":
                problem = problem_of_status(417, "Only the expectation 100-continue is supported.")
                return _for_readers(request, problem)
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # An interim answer is not the response: aiohttp would refuse to start that.
            request.writer.output_size = 0
        return None

    def _limits_of(self, request: web.Request) -> BodyLimits:
        return self.larger_bodies.get(request.match_info.handler, self.body_limits)

    async def _identify(self, request: web.Request) -> None:
        """Authenticate and count *request*, once: `expect` may have done it already."""
        authenticate = self.private.get(request.match_info.handler)
        if authenticate is None or (hdrs.EXPECT in request.headers and ACCOUNT_ID in request):
            return
        account_id = await authenticate(request.headers.get(hdrs.AUTHORIZATION))
        self.limit(account_id)
        request[ACCOUNT_ID] = account_id


def make_response_hook(
    metrics: Metrics, operation_ids: Mapping[Handler, str], *, is_public_over_tls: bool
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """
    Make the hook that runs before every response, including the answer to an `Expect` header.

    It adds the headers that every response has, and counts the response by the operation id of
    its handler.
    """

    async def finish(request: web.Request, response: web.StreamResponse) -> None:
        add_common_headers(response)
        response.headers[request_ids.HEADER] = request_id_of(request)
        if is_public_over_tls:
            response.headers["Strict-Transport-Security"] = f"max-age={HSTS_SECONDS}"
        operation_id = operation_ids.get(request.match_info.handler, OTHER)
        metrics.answered(operation_id, response.status)

    return finish
