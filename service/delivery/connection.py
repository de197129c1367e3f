"""
Connections that take in only so much, whatever a receiver sends.

aiohttp bounds what it is asked to read, not what arrives. The bounds are put below it here, with
parts of aiohttp that are not public (docs/architecture.md, "Private parts of libraries").
"""

import ssl
from functools import partial
from typing import Any, cast

import aiohttp
from aiohttp import client_exceptions as lower
from aiohttp.client_proto import ResponseHandler

from service.delivery.egress import EgressPolicy, socket_factory
from service.delivery.resolver import Resolver

# More than any acknowledgement needs, and little enough to hold 256 of them.
ANSWER_LIMIT = 64 * 1024

# All bytes that are read for one request: interim answers, headers, chunk framing, the body, and
# what follows it. Enough for every correct way to send a body of ANSWER_LIMIT.
WIRE_LIMIT = 4 * ANSWER_LIMIT

# Heads that have arrived and are not read yet: a few interim answers (RFC 9110, 15.2), no flood.
UNREAD_LIMIT = 16

# A TLS handshake costs far more than the request. Longer, and most receivers hang up first.
KEEP_ALIVE_SECONDS = 30
DNS_CACHE_SECONDS = 30


class AnswerTooLong(lower.ClientPayloadError):
    """A request brought in more than `WIRE_LIMIT` bytes or `UNREAD_LIMIT` heads at once."""


class _BoundedConnection(ResponseHandler):
    """
    A connection that reads `WIRE_LIMIT` bytes for each request, the idle time after it included.

    aiohttp bounds headers and bodies, but neither interim answers, blank lines nor chunk
    extensions: a flood of those costs a whole core until the deadline. And it bounds nothing at
    all while a connection waits to be used again: hundreds of megabytes have been seen to pile
    up there.
    """

    # A receiver that is overloaded may say so before it is asked.
    _left_bytes = WIRE_LIMIT

    def set_response_params(self, **params: Any) -> None:
        self._left_bytes = WIRE_LIMIT
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        self._left_bytes -= len(data)
        if self._left_bytes >= 0:
            super().data_received(data)
        if self._left_bytes < 0 or len(self._buffer) > UNREAD_LIMIT:
            self._break_off()

    def is_connected(self) -> bool:
        # Asked before a kept connection is used again. What lies in the buffer then was sent
        # unasked, and would be taken for the answer to the next request.
        return super().is_connected() and not self._buffer

    def _break_off(self) -> None:
        failure = AnswerTooLong()
        if self._payload is not None:
            self._payload.set_exception(failure)
            self._payload = None
        self.set_exception(failure)
        self._buffer.clear()
        if self.transport is not None:
            self.transport.abort()


class BoundedConnector(aiohttp.TCPConnector):
    """
    Opens bounded connections, for HTTP alone and where *policy* permits, and keeps them alive.

    Must be constructed in the running loop. *resolver* is closed by its owner, after the connector.
    """

    allowed_protocol_schema_set = frozenset({"http", "https"})

    def __init__(self, policy: EgressPolicy, resolver: Resolver, tls: ssl.SSLContext) -> None:
        super().__init__(
            limit=0,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            ttl_dns_cache=DNS_CACHE_SECONDS,
            resolver=resolver,
            socket_factory=socket_factory(policy),
            ssl=tls,
        )
        # Not public, and there is no other way; tests fail should it ever stop working.
        factory = partial(_BoundedConnection, loop=self._loop)
        self._factory = cast("partial[ResponseHandler]", factory)


def verified_tls() -> ssl.SSLContext:
    """Make the context that trusts the authorities of the system; reads them from disk."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(("http/1.1",))
    return context
