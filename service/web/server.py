"""
The HTTP server: aiohttp's, with limits.

A client that is slow, sends nothing, sends without end or does not send HTTP occupies one
connection, and the number of connections is limited. In `service.web`, only this module uses
private names of aiohttp.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from aiohttp import HttpVersion11, StreamReader, hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import _ErrInfo

from service.heads import encoded_head
from service.web.addresses import BACKLOG, OPTIONS, Names, listening_sockets
from service.web.connections import ConnectionLimits, OpenConnections, Refusal
from service.web.problems import problem_of_status
from service.web.responses import PlainResponse, add_common_headers

log = logging.getLogger("invoices.api")

LINGER_SECONDS = 1
"""How long a refused request is still read and discarded, so that its client reads the answer."""

FINISH_SECONDS = 5
"""How long requests in progress may take while the server stops."""

DEFAULT_LIMITS = ConnectionLimits()

RETRY_SECONDS = 1
"""`Retry-After` while every connection is in the middle of a request."""

END_OF_HEAD = b"\r\n\r\n"

ALL_IN_USE = "Every connection of the service is in use. Send the request again later."
NOT_HTTP = "This is not a valid HTTP request."
TOO_LONG = "The request has a header or a first line that is too long."


class Connection(web.RequestHandler):
    """One connection; what is not HTTP is answered here and does not reach the application."""

    __slots__ = (
        *("_has_last", "_is_unreadable", "_offer", "_offer_left", "_open", "_payload"),
        *("has_ended", "when_lost"),
    )

    def __init__(self, open_: OpenConnections, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._open = open_
        self._has_last = self._is_unreadable = False
        self._payload: StreamReader | None = None
        self._offer: RawRequestMessage | None = None
        self._offer_left = 0
        self.has_ended = False
        self.when_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for requests, unless the limit is reached."""
        if self._open.admit(self, cast("asyncio.Transport", transport)):
            super().connection_made(transport)
        else:
            # What arrives from now on is discarded.
            self.close()

    def data_received(self, data: bytes) -> None:
        """Read up to the first data that is not HTTP: what follows that cannot be parsed."""
        if self._is_unreadable or (self._has_last and self._payload and self._payload.is_eof()):
            return
        super().data_received(data)
        if self._offer_left:
            self._offer_left -= len(data)
            self._has_last = self._offer_left < 0
        if self._messages:
            self._look_at_newest(data)

    def _look_at_newest(self, data: bytes) -> None:
        """Find out whether the newest request is the last one; it was completed by *data*."""
        last, self._payload = self._messages[-1]
        if isinstance(last, _ErrInfo):
            # aiohttp would make an error of all further data as well. Each error would keep its
            # data and the connection in a reference cycle until the garbage collector runs.
            self._is_unreadable = True
            if last.exc is not None:
                last.exc.__traceback__ = None
        elif last.upgrade and last is not self._offer:
            left = _left_of_offer(last, data)
            self._offer, self._offer_left, self._has_last = last, left or 0, left is None

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read again, if reading was paused; aiohttp calls this after each read of a body."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """
        Answer the requests that are complete, and then close, because the client sends no more.

        It may still read (a half-closed connection), or have closed without a word: nobody tells
        the difference before something is written. So what waits for news is answered at once.

        Returns:
            True while there is something to answer; else the connection is closed.
        """
        self.has_ended = True
        if self._has_nothing_to_answer():
            return False
        if self.when_lost:
            self.when_lost()
        return True

    def _has_nothing_to_answer(self) -> bool:
        """Whether there is no request, or one that is incomplete or has its answer begun."""
        if self._payload is None or self.is_waiting() or not self._payload.is_eof():
            return True
        request = self._current_request
        # What streams without an end would keep its place for a client that is gone.
        return request is not None and request.writer.output_size > 0

    def connection_lost(self, exc: BaseException | None) -> None:
        """Remove the connection from the open ones."""
        self._open.leave(self)
        self._payload = None
        super().connection_lost(exc)
        if self.when_lost:
            self.when_lost()

    def is_waiting(self) -> bool:
        """Whether it waits for a request, or for the end of a request's head."""
        # aiohttp uses this condition for idle connections, and has no public name for it.
        return self._waiter is not None and not self._waiter.done()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer; from now on the connection waits for the next request."""
        self._open.has_answered(self)
        self.when_lost = None
        if self.has_ended and not self._messages:
            self.close()
        if self._has_last and not self._messages:
            resp.force_close()
        if self._upgraded or not _is_plain(request, resp):
            return await self._finish_by_aiohttp(request, resp, start_time)
        request._finish()
        await request._prepare_hook(resp)
        answer = _written(resp)
        resp._keep_alive = True
        if self.transport is None or self.transport.is_closing():
            return resp, True
        self.transport.write(answer)
        if self._paused:
            await request.writer.drain()
        return resp, False

    async def _finish_by_aiohttp(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        behind, was_upgraded = self._message_tail, self._upgraded
        finished = await super().finish_response(request, resp, start_time)
        if was_upgraded and self._messages:
            # aiohttp has now read what the client sent behind the request for an upgrade.
            self._look_at_newest(behind)
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer with a problem document and close: what follows cannot be parsed."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        log.debug("request.unreadable", extra={"fields": {"detail": str(exc.message)}})
        is_long = isinstance(exc, LineTooLong)
        response = problem_of_status(400, TOO_LONG if is_long else NOT_HTTP)
        response.force_close()
        # The response does not pass the hook of an application.
        add_common_headers(response)
        return response


def _left_of_offer(message: RawRequestMessage, data: bytes) -> int | None:
    """
    How much of *message*, which offers an upgrade, comes after *data*; None if that is not known.

    curl and the client of Java offer HTTP/2 (h2c). After an offer that aiohttp does not know, it
    drops the rest of what it read. The request that begins there could not be answered, and if only
    its beginning is lost, its body would be read as a request. So the connection must end, unless
    the data visibly ends with the message. WebSockets and CONNECT are known to aiohttp.
    """
    protocol = message.headers.get(hdrs.UPGRADE, "").lower()
    if protocol == "websocket" or message.method == hdrs.METH_CONNECT:
        return 0
    head, end, rest = data.partition(END_OF_HEAD)
    # If the first bytes were part of the end of the head, what is found is another end.
    if not end or message.chunked or head[:1] in (b"", b"\r", b"\n"):
        return None
    left = int(message.headers.get(hdrs.CONTENT_LENGTH, "0")) - len(rest)
    return left if left >= 0 else None


def _is_plain(request: web.BaseRequest, response: web.StreamResponse) -> bool:
    """Whether nothing of HTTP before 1.1 and nothing of this request changes what is written."""
    return (
        type(response) is PlainResponse
        and response.keep_alive is None
        and request.keep_alive
        and request.version == HttpVersion11
        and request.method != hdrs.METH_HEAD
    )


def _written(response: web.StreamResponse) -> bytes:
    """
    The bytes of a plain *response*: aiohttp makes them in ten calls, for whatever it may need.

    That takes 3 % of all instructions for a delivered invoice.

    Raises:
        ValueError: if a header has a line break.
    """
    body = cast("bytes", cast("PlainResponse", response).body)
    lines = [
        f"HTTP/1.1 {response.status} {response.reason}",
        *map(": ".join, response.headers.items()),
        f"Content-Length: {len(body)}",
        f"Date: {rfc822_formatted_time()}",
    ]
    return encoded_head(lines) + body


class Server:
    """
    Serves an application on one or several addresses, within *limits*.

    *report_connections* is called with the number of open connections whenever it changes.
    """

    def __init__(
        self,
        app: web.Application,
        limits: ConnectionLimits = DEFAULT_LIMITS,
        report_connections: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=FINISH_SECONDS)
        self._limits = limits
        refusal = Refusal(_answer_above_limit(), LINGER_SECONDS)
        self._open = OpenConnections(limits, refusal, report_connections)
        self._listening: list[asyncio.Server] = []

    async def start(
        self,
        host: str | Sequence[str],
        port: int,
        *,
        is_shared: bool = False,
        names: Names = OPTIONS,
    ) -> int:
        """
        Listen on *port* of one host or of several; 0 takes any free port.

        If the port *is_shared*, several processes may listen on it, and the kernel distributes
        the connections among them.

        Returns:
            The port.

        Raises:
            AddressError: if it cannot be listened on; the text uses *names* for what to change.
        """
        await self._runner.setup()
        assert self._runner.server  # noqa: S101 -- setup() made it
        loop = asyncio.get_running_loop()
        connection = partial(
            Connection,
            self._open,
            self._runner.server,
            loop=loop,
            access_log=None,
            keepalive_timeout=self._limits.idle_seconds,
            lingering_time=LINGER_SECONDS,
            # Encoded bodies are refused: a small one could decompress to a large one.
            auto_decompress=False,
        )
        hosts = [host] if isinstance(host, str) else host
        sockets = listening_sockets(hosts, port, names, is_shared=is_shared)
        bound_port: int = sockets[0].getsockname()[1]
        for one in sockets:
            server = await loop.create_server(connection, sock=one, backlog=BACKLOG)
            self._listening.append(server)
        return bound_port

    async def stop(self) -> None:
        """Stop accepting, finish the requests in progress, close every connection."""
        for server in self._listening:
            server.close()
        await self._runner.cleanup()
        self._open.close()


def is_lost(request: web.Request) -> bool:
    """Whether the client of *request* has closed its connection, or its side of it."""
    protocol = request.protocol
    if isinstance(protocol, Connection) and protocol.has_ended:
        return True
    return request.transport is None or request.transport.is_closing()


def when_lost(request: web.Request, wake: Callable[[], None]) -> None:
    """Call *wake* when the client closes its connection before *request* is answered."""
    if isinstance(request.protocol, Connection):
        request.protocol.when_lost = wake


def _answer_above_limit() -> bytes:
    """The bytes of the answer to a connection above the limit, made once."""
    response = problem_of_status(503, ALL_IN_USE, {hdrs.RETRY_AFTER: str(RETRY_SECONDS)})
    add_common_headers(response)
    body = response.body
    assert isinstance(body, bytes)  # noqa: S101 -- the body of a problem is bytes
    response.headers[hdrs.CONTENT_LENGTH] = str(len(body))
    response.headers[hdrs.CONNECTION] = "close"
    lines = [f"{name}: {value}\r\n" for name, value in response.headers.items()]
    return f"HTTP/1.1 503 Service Unavailable\r\n{''.join(lines)}\r\n".encode() + body
