"""
Sends one HTTP request to a receiver that may be broken or hostile.

Of the modules of delivery, this one alone calls over HTTP. Whatever a receiver does, `Sender.send`
ends within the deadline, uses little memory, follows no redirect, decodes nothing, and returns a
value: an `Answer`, or `NoAnswer` with a reason. What the answer means is decided elsewhere.
"""

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from functools import lru_cache
from http import HTTPStatus
from types import TracebackType
from typing import ClassVar, Self

from aiohttp import hdrs
from aiohttp.client_exceptions import InvalidURL
from yarl import URL

from service.delivery.connection import (
    ANSWER_LIMIT,
    KEPT_MAX,
    BoundedConnector,
    Connected,
    verified_tls,
)
from service.delivery.deadline import Deadline
from service.delivery.egress import EgressPolicy, literal_address
from service.delivery.failures import NoAnswer, no_answer
from service.delivery.proxy import Proxy
from service.delivery.resolver import Lookup, Resolver, look_up
from service.delivery.wire import URL_PARTS, Exchange, Place, head_of, is_final, place_of
from service.domain.delivery import Phases
from service.domain.outcomes import AttemptOutcome
from service.errors import DescriptorsExhausted
from service.values import value

PLACES_MAX = 1024
"""Origins whose scheme, host and port are remembered as a connector takes them."""

TOLD_HEADERS = 32
TOLD_BYTES = 4096
"""How much of the headers of an answer is kept for the developer of the receiver."""


@value()
class OutgoingRequest:
    """
    One complete request.

    *url* is sent byte for byte. Nothing is added to *headers* but `Host`, `Accept`,
    `Content-Length` and `Accept-Encoding: identity`.
    """

    url: str
    method: str
    headers: Mapping[str, str]
    body: bytes


@value()
class Answer:
    """
    The answer of a receiver: a final status (200 to 599) and a body.

    The body of a 2xx was read to its end; any other body may be incomplete. A body longer than
    `ANSWER_LIMIT` is cut there and *is_truncated*. *retry_after*, *location* (of a redirect) and
    *content_encoding* are the headers as they came. *head* is for people: the first headers of
    all, bounded by `TOLD_HEADERS` and `TOLD_BYTES`. *address* is the one of the connection.
    """

    status_code: int
    retry_after: str | None
    body: bytes
    is_truncated: bool
    location: str | None = None
    content_encoding: str | None = None
    head: str | None = field(default=None, compare=False)
    address: str | None = field(default=None, compare=False)
    phases: Phases | None = field(default=None, compare=False)
    is_denied: ClassVar = False


class Sender:
    """
    Sends requests, keeping connections alive between them; an asynchronous context manager.

    The caller bounds how many requests run at once. *concurrency* bounds the DNS lookups only, and
    should be as high as the caller's own bound, so that names whose lookups hang do not delay
    other names.

    At most *kept_max* idle connections are kept.

    Requests are sent through *proxy* if there is one. *lookup* turns a name into numeric addresses
    and may block; *tls* replaces the context that trusts the authorities of the system.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        timeout_seconds: float,
        concurrency: int = 256,
        proxy: Proxy | None = None,
        kept_max: int = KEPT_MAX,
        lookup: Lookup = look_up,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._timeout_seconds = timeout_seconds
        self._concurrency = concurrency
        self._proxy = proxy
        self._kept_max = kept_max
        self.on_exhausted: Callable[[], object] = lambda: None
        """Called when a request was not sent because there was no file descriptor."""
        self._lookup = lookup
        self._tls = tls or verified_tls()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the pool of connections, in the running event loop."""
        self._resolver = Resolver(
            self._policy,
            concurrency=self._concurrency,
            queue_seconds=self._timeout_seconds,
            lookup=self._lookup,
        )
        self._connector = BoundedConnector(
            self._policy, self._resolver, self._tls, self._proxy, self._kept_max
        )
        self._place_of = lru_cache(PLACES_MAX)(place_of)
        self._deadline = Deadline(self._timeout_seconds)

    async def close(self) -> None:
        """Close every connection; all requests must have ended."""
        self._deadline.close()
        await self._connector.close()
        await self._resolver.close()

    @property
    def kept_count(self) -> int:
        """How many idle connections are kept."""
        return len(self._connector.kept)

    def close_kept(self) -> None:
        """Close half of the idle connections, and one at least."""
        self._connector.close_kept(-(-self.kept_count // 2))

    async def send(self, request: OutgoingRequest) -> Answer | NoAnswer:
        """
        Send *request* once and read what comes back.

        Ends within the *timeout_seconds* of the constructor. Whatever a receiver does, the result
        is a value.

        Raises:
            SendingPrevented: if it could not be sent, for a reason on our side.
            Exception: on a defect of the service.
        """
        exchange, place = Exchange(), None
        try:
            place, data = self._written(request)
            await self._deadline.keep(exchange.run(self._connector, place, data))
            return _answer(exchange)
        except Exception as failure:  # noqa: BLE001 -- no answer may stop an attempt
            try:
                missing = no_answer(failure, self._timeout_seconds)
            except DescriptorsExhausted:
                self.on_exhausted()
                raise
            if missing.outcome is AttemptOutcome.BLOCKED and place and not _is_address(place.url):
                # Otherwise API users could find out which names our network knows.
                missing = replace(missing, outcome=AttemptOutcome.UNREACHABLE, is_denied=True)
            # The connection refers to the failure, and its frames to the connection: this cycle
            # would keep what was read until the garbage collector runs.
            failure.__traceback__ = None
            return _partial_answer(exchange, _with_connection(missing, exchange.connected))

    def _written(self, request: OutgoingRequest) -> tuple[Place, bytes]:
        """Where *request* goes, and its bytes."""
        parts = URL_PARTS.fullmatch(request.url)
        if parts is None:
            raise InvalidURL(request.url)
        try:
            place = self._place_of(parts[1])
        except ValueError:
            raise InvalidURL(request.url) from None
        host, body = place.headers[hdrs.HOST], request.body
        return place, head_of(request.method, parts[2], host, request.headers, len(body)) + body


def _is_address(url: URL) -> bool:
    return literal_address(url.raw_host or "") is not None


def _answer(exchange: Exchange) -> Answer | NoAnswer:
    """What came back in a complete *exchange*."""
    message, connected, body = exchange.message, exchange.connected, exchange.body
    assert message and connected  # noqa: S101 -- it is complete
    if not is_final(message.code):
        return NoAnswer(
            AttemptOutcome.MALFORMED, f"the status {message.code:03} is not one of 200 to 599"
        )
    headers = message.headers
    return Answer(
        message.code,
        headers.get("Retry-After"),
        bytes(body[:ANSWER_LIMIT]),
        len(body) > ANSWER_LIMIT,
        headers.get("Location") if message.code // 100 == 3 else None,
        headers.get("Content-Encoding"),
        told_head(message.raw_headers),
        connected.protocol.address,
        connected.phases(),
    )


def _partial_answer(exchange: Exchange, missing: NoAnswer) -> Answer | NoAnswer:
    """
    The result of an *exchange* that has not come to its end.

    The head of a refusal is enough: its status, and its Retry-After. A 2xx means nothing without
    its body.
    """
    message = exchange.message
    if message is None or not is_final(message.code):
        return missing
    if message.code >= HTTPStatus.MULTIPLE_CHOICES:
        return _answer(exchange)
    return replace(missing, status_code=message.code)


def _with_connection(missing: NoAnswer, connected: Connected | None) -> NoAnswer:
    """*missing* with what is known of the connection; of none, nothing is told."""
    if connected is None:
        return replace(missing, is_connected=False)
    return replace(missing, address=connected.protocol.address, phases=connected.phases())


def told_head(raw_headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The first headers of an answer, one on each line; `storage.transmissions` reads them."""
    lines = b"\n".join(map(b": ".join, raw_headers[:TOLD_HEADERS]))
    return lines[:TOLD_BYTES].decode("utf-8", "replace")
