"""
Listens, within bounds.

A client may be slow, silent, endless or not speak HTTP at all, and costs one idle connection.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from service.api.problems import problem_of_status
from service.api.responses import dress

log = logging.getLogger("invoices.api")

IDLE_SECONDS = 30
"""How long a connection may wait for a request, or a request for the end of its head."""

LINGER_SECONDS = 1
"""How long the rest of a refused body is read and thrown away, so that its sender sees why."""

FINISH_SECONDS = 5
"""How long requests that are being answered may take once we stop."""

BACKLOG = 1024
"""How many connections may wait to be accepted."""

NOT_HTTP = "This is not a valid HTTP request."
TOO_LONG = "A line of the request's head is too long."


class Connection(web.RequestHandler):
    """One connection; what is not HTTP is answered, but no application ever sees it."""

    __slots__ = ()

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
    """Serves an application on one address."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=FINISH_SECONDS)
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
            self._runner.server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # none is kept; the stub forgot None
            keepalive_timeout=IDLE_SECONDS,
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
