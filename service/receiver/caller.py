"""
Sends requests to a receiver under test, exactly as a check wants them.

Each request has a connection of its own, so that one that breaks the connection disturbs no other.
What comes back is a value: the answer, or the reason why there is none.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from time import monotonic

import aiohttp
from aiohttp import BaseConnector, ClientResponse, HttpVersion10
from yarl import URL

from service.values import value

CUT_SECONDS = 0.02
"""How long after a request its connection is cut: the receiver has read it, and works on it."""


class Missing(StrEnum):
    """Why an answer is missing."""

    CONNECTION = "connection"
    TLS = "tls"
    TIME = "time"
    LOST = "lost"


@value(kw_only=True)
class Call:
    """A request to a receiver; *headers* are sent under the names given here."""

    url: str
    method: str
    headers: Mapping[str, str]
    body: bytes
    is_chunked: bool = False


@value(kw_only=True)
class Reply:
    """What a receiver answered; a *body* above the limit is cut, and *is_truncated*."""

    status_code: int
    body: bytes
    is_truncated: bool
    content_type: str | None
    content_encoding: str | None
    location: str | None
    duration_seconds: float
    is_closing: bool
    """Whether the receiver has said that it closes the connection."""
    is_first: bool
    """Whether the connection was made for this request."""


@value()
class NoReply:
    """There was no answer; *detail* is the reason, without a capital and a full stop."""

    missing: Missing
    detail: str


Send = Callable[[Call], Awaitable[Reply | NoReply]]


class Caller:
    """
    Sends calls over the connectors that *connect* makes, each within *timeout_seconds*.

    *explain* gives the reason for an exception of aiohttp, in words. At most *body_limit* bytes of
    an answer are read.
    """

    def __init__(
        self,
        connect: Callable[[], BaseConnector],
        explain: Callable[[Exception], str],
        *,
        timeout_seconds: float,
        body_limit: int,
    ) -> None:
        self._connect = connect
        self._explain = explain
        self._timeout_seconds = timeout_seconds
        self._body_limit = body_limit

    async def send(self, call: Call) -> Reply | NoReply:
        """Send *call* over a new connection."""
        async with self.kept_connection() as send:
            return await send(call)

    @asynccontextmanager
    async def kept_connection(self) -> AsyncIterator[Send]:
        """A function that sends calls over one connection, as long as the receiver keeps it."""
        connections = []

        async def connected(*_: object) -> None:
            connections.append(1)

        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(connected)
        async with self._session(trace) as session:

            async def send(call: Call) -> Reply | NoReply:
                connections.clear()
                started = monotonic()
                try:
                    async with (
                        asyncio.timeout(self._timeout_seconds),
                        await _request(session, call) as response,
                    ):
                        body = await self._read(response)
                        seconds = monotonic() - started
                        return _reply(response, body, self._body_limit, seconds, bool(connections))
                except Exception as failure:  # noqa: BLE001 -- the caller gets it as a value
                    return NoReply(_kind(failure), self._explain(failure))

            yield send

    async def cut(self, call: Call) -> None:
        """Send *call*, and close the connection before the answer is read."""
        is_sent = asyncio.Event()

        async def sent(*_: object) -> None:
            is_sent.set()

        trace = aiohttp.TraceConfig()
        trace.on_request_chunk_sent.append(sent)
        async with self._session(trace) as session:
            request = asyncio.ensure_future(_request(session, call))
            waiting = asyncio.ensure_future(is_sent.wait())
            await asyncio.wait(
                {request, waiting},
                timeout=self._timeout_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            await asyncio.sleep(CUT_SECONDS)
            waiting.cancel()
            request.cancel()
            await asyncio.gather(request, waiting, return_exceptions=True)

    async def _read(self, response: ClientResponse) -> bytes:
        """The body of *response*, and at least one byte more than the limit of a longer one."""
        body = bytearray()
        while len(body) <= self._body_limit and not response.content.at_eof():
            body += await response.content.readany()
        return bytes(body)

    def _session(self, trace: aiohttp.TraceConfig) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=self._connect(),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
            trust_env=False,
            trace_configs=[trace],
        )


async def _request(session: aiohttp.ClientSession, call: Call) -> ClientResponse:
    return await session.request(
        call.method,
        # Without this, yarl would decode parts of the path.
        URL(call.url, encoded=True),
        data=_in_chunks(call.body) if call.is_chunked else call.body,
        headers=call.headers,
        allow_redirects=False,
    )


async def _in_chunks(body: bytes) -> AsyncIterator[bytes]:
    middle = len(body) // 2
    yield body[:middle]
    yield body[middle:]


def _reply(
    response: ClientResponse, body: bytes, limit: int, seconds: float, is_first: bool
) -> Reply:
    headers, version = response.headers, response.version
    return Reply(
        status_code=response.status,
        body=body[:limit],
        is_truncated=len(body) > limit,
        content_type=headers.get("Content-Type"),
        content_encoding=headers.get("Content-Encoding"),
        location=headers.get("Location"),
        duration_seconds=seconds,
        is_closing=headers.get("Connection", "").lower() == "close" or version == HttpVersion10,
        is_first=is_first,
    )


def _kind(failure: Exception) -> Missing:
    match failure:
        case aiohttp.ClientSSLError():
            return Missing.TLS
        case TimeoutError():
            return Missing.TIME
        case aiohttp.ClientConnectorError():
            return Missing.CONNECTION
    return Missing.LOST
