"""
Listens, within bounds.

A client may be slow, silent, endless or not speak HTTP at all, and costs one idle connection, of
which there are only so many.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_protocol import _ErrInfo

from service.web.connections import ConnectionLimits, OpenConnections, Refusal
from service.web.problems import problem_of_status
from service.web.responses import dress

log = logging.getLogger("invoices.api")

LINGER_SECONDS = 1
"""How long the rest of a refused request is read and thrown away, so that its sender sees why."""

FINISH_SECONDS = 5
"""How long requests that are being answered may take once we stop."""

BACKLOG = 1024
"""How many connections may wait to be accepted."""

DEFAULT_LIMITS = ConnectionLimits()

RETRY_SECONDS = 1
"""What `Retry-After` says while every connection is in the middle of a request."""

NO_ROOM = "Every connection that the service may have is in use; come again a bit later."
NOT_HTTP = "This is not a valid HTTP request."
TOO_LONG = "A line of the request's head is too long."


class Connection(web.RequestHandler):
    """One connection; what is not HTTP is answered, but no application ever sees it."""

    __slots__ = ("_is_unreadable", "_open")

    def __init__(self, open_: OpenConnections, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._open = open_
        self._is_unreadable = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for requests, if there is room."""
        if self._open.admit(self, cast("asyncio.Transport", transport)):
            super().connection_made(transport)
        else:
            # What comes in from now on is thrown away.
            self.close()

    def data_received(self, data: bytes) -> None:
        """Read on, up to the first piece that is no HTTP: nobody knows what follows it."""
        if self._is_unreadable:
            return
        super().data_received(data)
        last = self._messages[-1][0] if self._messages else None
        if isinstance(last, _ErrInfo):
            # aiohttp would go on and make an error of every piece. Each would hold its piece, and
            # the connection, in a circle that is there until the garbage collector comes by.
            self._is_unreadable = True
            if last.exc is not None:
                last.exc.__traceback__ = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Leave the room to others."""
        self._open.leave(self)
        super().connection_lost(exc)

    def is_waiting(self) -> bool:
        """Whether it waits for a request, or for the rest of a request's head."""
        # As aiohttp decides for itself what is idle; it has no public word for it.
        return self._waiter is not None and not self._waiter.done()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer; whoever was answered has been of use."""
        self._open.has_answered(self)
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A problem document; it ends the connection, since nobody knows what follows."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        log.debug("request.unreadable", extra={"fields": {"detail": str(exc.message)}})
        is_long = isinstance(exc, LineTooLong)
        response = problem_of_status(400, TOO_LONG if is_long else NOT_HTTP)
        response.force_close()
        # No application is near that would do it.
        dress(response)
        return response


class Server:
    """
    Serves an application on one address, within *limits*.

    *tell_connections* learns how many connections are open, whenever that changes.
    """

    def __init__(
        self,
        app: web.Application,
        limits: ConnectionLimits = DEFAULT_LIMITS,
        tell_connections: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=FINISH_SECONDS)
        self._limits = limits
        self._open = OpenConnections(limits, Refusal(_no_room(), LINGER_SECONDS), tell_connections)
        self._listening: asyncio.Server | None = None

    async def start(self, host: str, port: int, *, is_shared: bool = False) -> int:
        """
        Listen on *host* and *port*; 0 takes any free one.

        A port that *is_shared* may have several processes listening, among which the kernel
        divides the connections.

        Returns:
            The port.

        Raises:
            OSError: if the address cannot be listened on.
        """
        await self._runner.setup()
        assert self._runner.server  # noqa: S101 -- setup() made it
        loop = asyncio.get_running_loop()
        connection = partial(
            Connection,
            self._open,
            self._runner.server,
            loop=loop,
            access_log=None,  # none is kept
            keepalive_timeout=self._limits.idle_seconds,
            lingering_time=LINGER_SECONDS,
            # Nothing encoded is read, so that nothing small can grow large.
            auto_decompress=False,
        )
        self._listening = await loop.create_server(
            connection, host, port, backlog=BACKLOG, reuse_port=is_shared or None
        )
        bound_port: int = self._listening.sockets[0].getsockname()[1]
        return bound_port

    async def stop(self) -> None:
        """Accept nothing more, finish what is being answered, close every connection."""
        if self._listening:
            self._listening.close()
        await self._runner.cleanup()
        self._open.close()


def _no_room() -> bytes:
    """The whole answer to a connection for which there is no room, made before it is needed."""
    response = problem_of_status(503, NO_ROOM, {hdrs.RETRY_AFTER: str(RETRY_SECONDS)})
    dress(response)
    body = response.body
    assert isinstance(body, bytes)  # noqa: S101 -- a problem is given as bytes
    response.headers[hdrs.CONTENT_LENGTH] = str(len(body))
    response.headers[hdrs.CONNECTION] = "close"
    lines = [f"{name}: {value}\r\n" for name, value in response.headers.items()]
    return f"HTTP/1.1 503 Service Unavailable\r\n{''.join(lines)}\r\n".encode() + body
