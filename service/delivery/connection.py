"""
Connections to receivers, with limits on the number of bytes that a receiver can send.

aiohttp limits what its caller reads, not what arrives. This module adds the missing limits, with
parts of aiohttp that are not public (docs/architecture.md, "Private parts of libraries").
"""

import asyncio
import re
import ssl
import time
from collections import OrderedDict
from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp import AddrInfoType
from aiohttp import client_exceptions as lower
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from service.delivery.egress import EgressPolicy, socket_factory
from service.delivery.proxy import Proxy
from service.delivery.resolver import Resolver
from service.domain.delivery import Phases
from service.values import value

# Bytes of a body that are read: more than any acknowledgement has, few enough to hold 256 of them.
ANSWER_LIMIT = 64 * 1024

# All bytes that are read for one request: interim answers, headers, chunk framing, the body, and
# what follows it. Enough for every correct way to send a body of ANSWER_LIMIT.
WIRE_LIMIT = 4 * ANSWER_LIMIT

# Status line and headers, with interim answers and blank lines before them. Some receivers send
# twenty cookies and a long policy with every answer, which browsers accept.
HEAD_LIMIT = 64 * 1024
HEAD_LINE_LIMIT = 16 * 1024
HEAD_COUNT_LIMIT = 256

READ_BUFFER_BYTES = 16 * 1024

# Heads that have arrived and are not read yet. Correct receivers send a few interim answers at most
# (RFC 9110, section 15.2).
UNREAD_LIMIT = 16

# How long an idle connection is kept, because a TLS handshake costs far more than a request. After
# a longer time, most receivers have closed it themselves.
KEEP_ALIVE_SECONDS = 30
DNS_CACHE_SECONDS = 30

# Idle connections of one process: each costs a descriptor here and at its receiver.
KEPT_MAX = 256


_HEAD_END = re.compile(rb"\n\r?\n")


class AnswerTooLong(lower.ClientPayloadError):
    """The receiver sent more than `WIRE_LIMIT` bytes for one request."""


class HeadTooLong(AnswerTooLong):
    """The head of an answer takes more than `HEAD_LIMIT`, or `UNREAD_LIMIT` interim answers."""


class _BoundedConnection(ResponseHandler):
    """
    A connection that reads at most `WIRE_LIMIT` bytes for a request and the idle time after it.

    aiohttp limits headers and bodies, but not interim answers, blank lines and chunk extensions:
    a receiver that sends them without end would occupy one core until the deadline. aiohttp limits
    nothing while a connection is idle: hundreds of megabytes were measured in that buffer.

    A complete answer is valid even if more bytes follow it, such as a body after a 204. aiohttp
    alone would discard the answer too, because the bytes after it are not HTTP. Here only those
    bytes are discarded. The connection is then closed, because more of them could arrive and be
    taken for the next answer.
    """

    # Limits before the first request: an overloaded receiver may answer before it is sent.
    _left_bytes = WIRE_LIMIT
    _left_head_bytes = HEAD_LIMIT
    _head_tail = b""
    """The last two bytes of a head that is not complete."""
    _has_head = False
    """Whether the head of the final answer is complete."""
    _is_chunked = False
    _body: StreamReader = EMPTY_PAYLOAD
    _body_bytes = 0

    address: str | None = None
    """The numeric address of the peer."""
    named_at = 0.0
    """When the addresses of the name were known; this and the others are monotonic seconds."""
    ready_at = 0.0
    """When the connection was ready for its first request, with TLS if there is any."""
    sent_at = 0.0
    """When a request was last complete in the buffer of the system."""

    def __init__(self, kept: "Kept", loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._kept = kept
        # Called as soon as there is a socket, before any TLS.
        self.opened_at = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.ready_at = time.monotonic()
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else None

    def connection_lost(self, exc: BaseException | None) -> None:
        self._kept.pop(self, None)
        super().connection_lost(exc)

    def set_response_params(self, **params: Any) -> None:
        # A client session of aiohttp has just taken the connection for a request.
        self._expect_answer()
        super().set_response_params(**params)

    def send(self, request: bytes) -> None:
        """Write *request*; the answer is read from here, and without one the reason why."""
        self._expect_answer()
        if self._parser is None:
            # It reads the answers to all requests of this connection: making one takes 1 % of all
            # instructions for a delivered invoice.
            super().set_response_params(
                read_until_eof=True,
                auto_decompress=False,
                read_bufsize=READ_BUFFER_BYTES,
                max_line_size=HEAD_LINE_LIMIT,
                max_field_size=HEAD_LINE_LIMIT,
                max_headers=HEAD_COUNT_LIMIT,
            )
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(request)
        self.sent_at = time.monotonic()

    def _expect_answer(self) -> None:
        """Begin to count what arrives, as the connection has just been taken for a request."""
        self._kept.pop(self, None)
        self._left_bytes, self._left_head_bytes = WIRE_LIMIT, HEAD_LIMIT
        self._head_tail = b""
        self._has_head, self._body, self._body_bytes = False, EMPTY_PAYLOAD, 0

    def data_received(self, data: bytes) -> None:
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            self._break_off(AnswerTooLong())
        elif self._parser is None:
            super().data_received(data)
        elif self._exception is None:
            if data and not self._has_head:
                data = self._take_heads(data)
            if self._has_head:
                self._take_body(data)

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp calls this after each read of a body, and parses nothing if nothing was paused.
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        message, body = data
        is_final = message.code >= 200 or message.code == 101
        if is_final and not self._has_head:
            self._has_head, self._is_chunked, self._body = True, message.chunked, body
            if body is EMPTY_PAYLOAD and _announces_body(message):
                # The body may arrive later, after the next request has been sent.
                self.force_close()
        super().feed_data(data, size)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        is_early = isinstance(exc.__cause__, lower.ClientConnectionResetError)
        if is_early and self.transport is not None and self.transport.is_closing():
            # A write failed before the reason of the close is known, such as a TLS alert.
            # aiohttp then calls connection_lost() with the reason.
            return
        # Without this, the reader of a body that is not HTTP waits for the deadline.
        if not self._body.is_eof() and self._body.exception() is None:
            self._body.set_exception(exc)
        super().set_exception(exc, *cause)

    def is_connected(self) -> bool:
        # Called before an idle connection is used again. Bytes in the buffer arrived without a
        # request, and would be taken for the answer to the next one.
        return super().is_connected() and not self._buffer

    def _take_heads(self, data: bytes) -> bytes:
        """Parse heads one at a time, up to that of the final answer; return the bytes after it."""
        text, start = self._head_tail + data, len(self._head_tail)
        for found in _HEAD_END.finditer(text):
            start = self._take_head(text, start, found.end())
            if self._has_head or self._exception is not None:
                return text[start:]
        self._take_head(text, start, len(text))
        self._head_tail = text[-2:]
        return b""

    def _take_head(self, text: bytes, start: int, end: int) -> int:
        self._left_head_bytes -= end - start
        super().data_received(text[start:end])
        if self._left_head_bytes < 0 or len(self._buffer) > UNREAD_LIMIT:
            self._break_off(HeadTooLong())
        return end

    def _take_body(self, data: bytes) -> None:
        """Parse a part of the body; without *data*, the bytes that the parser has kept."""
        is_too_much = bool(data)
        # In pieces: the parser makes an object of each further answer in what it is given.
        for start in range(0, len(data) or 1, READ_BUFFER_BYTES):
            if self._body.is_eof():
                is_too_much = bool(data)
                break
            piece = data[start : start + READ_BUFFER_BYTES]
            self._body_bytes += len(piece)
            super().data_received(piece)
            is_too_much = not self._is_chunked and self._body_bytes > self._body.total_bytes
        if is_too_much and self._body.is_eof():
            self.force_close()
            if self.transport is not None:
                self.transport.close()

    def _break_off(self, failure: AnswerTooLong) -> None:
        self.set_exception(failure)
        self._payload = None
        self._buffer.clear()
        if self.transport is not None:
            self.transport.abort()


def _announces_body(message: RawResponseMessage) -> bool:
    return message.chunked or message.headers.get("Content-Length", "0") != "0"


@value()
class Connected:
    """The connection that a request has got, and when it began to want one and got it."""

    protocol: _BoundedConnection
    is_tls: bool
    began_at: float
    connected_at: float

    def phases(self) -> Phases:
        """How long each part of the request took that ends now."""
        one, got_at, ended_at = self.protocol, self.connected_at, time.monotonic()
        send, sent_at = None, got_at
        if one.sent_at >= got_at:
            sent_at = one.sent_at
            send = int((sent_at - got_at) * 10_000)
        wait = int((ended_at - sent_at) * 10_000)
        if one.opened_at < self.began_at:
            return None, None, None, send, wait
        return (
            int((one.named_at - self.began_at) * 10_000),
            int((one.opened_at - one.named_at) * 10_000),
            int((one.ready_at - one.opened_at) * 10_000) if self.is_tls else None,
            send,
            wait,
        )


Kept = OrderedDict[ResponseHandler, Any]
"""The idle connections, each with its key in the pool, in the order in which they became idle."""


class BoundedConnector(aiohttp.TCPConnector):
    """
    Opens bounded HTTP connections to addresses that *policy* permits, and keeps them alive.

    At most *kept_max* are kept: the one that has been idle longest is closed for another one.

    With a *proxy*, every connection is a tunnel through it.

    Must be constructed in the running loop. *resolver* is closed by its owner, after the connector.
    """

    allowed_protocol_schema_set = frozenset({"http", "https"})

    def __init__(
        self,
        policy: EgressPolicy,
        resolver: Resolver,
        tls: ssl.SSLContext,
        proxy: Proxy | None = None,
        kept_max: int = KEPT_MAX,
    ) -> None:
        self._egress_policy, self._egress_proxy = policy, proxy
        self.kept: Kept = OrderedDict()
        self._kept_max = kept_max
        super().__init__(
            limit=0,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            ttl_dns_cache=DNS_CACHE_SECONDS,
            resolver=resolver,
            socket_factory=socket_factory(policy),
            ssl=tls,
        )
        # Not public, but there is no other way. Tests fail if a release changes this attribute.
        factory = partial(_BoundedConnection, self.kept, loop=self._loop)
        self._factory = cast("partial[ResponseHandler]", factory)

    @staticmethod
    def bounded(connection: Connection) -> _BoundedConnection:
        """What *connection*, one of this connector, reads and writes with."""
        return cast("_BoundedConnection", connection.protocol)

    def close_kept(self, count: int) -> None:
        """Close the *count* connections that have been idle longest."""
        for _ in range(min(count, len(self.kept))):
            protocol, key = self.kept.popitem(last=False)
            # Of one key, the longest idle is the first. Others are dropped when they are found.
            pooled = self._conns.get(key)
            if pooled and pooled[0][0] is protocol:
                pooled.popleft()
                if not pooled:
                    del self._conns[key]
            protocol.close()

    def _release(self, key: Any, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        is_kept = not (should_close or protocol.should_close or self._closed)
        super()._release(key, protocol, should_close=should_close)
        if is_kept:
            self.kept[protocol] = key
            self.close_kept(len(self.kept) - self._kept_max)

    async def _wrap_create_connection(
        self, *args: Any, addr_infos: list[AddrInfoType], req: Any, **options: Any
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        named_at = time.monotonic()
        if self._egress_proxy is None:
            transport, protocol = await super()._wrap_create_connection(
                *args, addr_infos=addr_infos, req=req, **options
            )
            cast("_BoundedConnection", protocol).named_at = named_at
            return transport, protocol
        try:
            tunnel, address = await self._egress_proxy.open_tunnel(addr_infos, self._egress_policy)
        except OSError as failure:
            # All addresses were tried. aiohttp would otherwise try each of them again.
            addr_infos.clear()
            raise lower.ClientConnectorError(req.connection_key, failure) from failure
        made = await self._wrap_existing_connection(*args, sock=tunnel, req=req, **options)
        bounded = cast("_BoundedConnection", made[1])
        # The peer of the socket is the proxy, which is nobody's business.
        bounded.named_at, bounded.address = named_at, address
        return made


def verified_tls() -> ssl.SSLContext:
    """Make the context that trusts the authorities of the system; reads them from disk."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(("http/1.1",))
    return context
