"""
Sends one HTTP request to a receiver that may be broken or hostile.

Of the modules of delivery, this one alone calls over HTTP. Whatever a receiver does, `Sender.send`
ends within the deadline, uses little memory, follows no redirect, decodes nothing, and returns a
value: an `Answer`, or `NoAnswer` with a reason. What the answer means is decided elsewhere.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from http import HTTPStatus
from types import TracebackType
from typing import ClassVar, Self

import aiohttp
from aiohttp.client_exceptions import InvalidURL
from yarl import URL

from service.delivery.connection import (
    ANSWER_LIMIT,
    CONNECTED,
    HEAD_COUNT_LIMIT,
    HEAD_LINE_LIMIT,
    KEPT_MAX,
    BoundedConnector,
    verified_tls,
)
from service.delivery.egress import EgressPolicy, literal_address
from service.delivery.failures import NoAnswer, no_answer
from service.delivery.proxy import Proxy
from service.delivery.resolver import Lookup, Resolver, look_up
from service.domain.delivery import Phases
from service.domain.outcomes import AttemptOutcome
from service.errors import DescriptorsExhausted
from service.values import value

READ_BUFFER_BYTES = 16 * 1024

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
        """Open the session, in the running event loop."""
        self._resolver = Resolver(
            self._policy,
            concurrency=self._concurrency,
            queue_seconds=self._timeout_seconds,
            lookup=self._lookup,
        )
        self._connector = BoundedConnector(
            self._policy, self._resolver, self._tls, self._proxy, self._kept_max
        )
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            # A cookie jar would send cookies of one account's receiver to another account's.
            cookie_jar=aiohttp.DummyCookieJar(),
            # send() has one deadline for everything: the timeouts of aiohttp start again with
            # every byte or address, and are rounded up to whole seconds.
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
            # With the proxy support of aiohttp, the policy would check the proxy's address.
            trust_env=False,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=HEAD_LINE_LIMIT,
            max_field_size=HEAD_LINE_LIMIT,
            max_headers=HEAD_COUNT_LIMIT,
        )

    async def close(self) -> None:
        """Close every connection; all requests must have ended."""
        await self._session.close()
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
        response, body = None, bytearray()
        CONNECTED.set(None)
        url = _url(request.url)
        if url is None:
            return no_answer(InvalidURL(request.url), self._timeout_seconds)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await self._session.request(
                    request.method,
                    url,
                    data=request.body,
                    headers=request.headers,
                    allow_redirects=False,
                )
                return await _read(response, body)
        except Exception as failure:  # noqa: BLE001 -- no answer may stop an attempt
            try:
                missing = no_answer(failure, self._timeout_seconds)
            except DescriptorsExhausted:
                self.on_exhausted()
                raise
            if missing.outcome is AttemptOutcome.BLOCKED and not _is_address(url):
                # Otherwise API users could find out which names our network knows.
                missing = replace(missing, outcome=AttemptOutcome.UNREACHABLE, is_denied=True)
            missing = _with_connection(missing)
            # The connection refers to the failure, and its frames to the connection: this cycle
            # would keep what was read until the garbage collector runs.
            failure.__traceback__ = None
            return _partial_answer(response, body, missing)
        finally:
            if response is not None:
                # After a complete body this does nothing: the connection is back in the pool.
                response.close()


def _url(text: str) -> URL | None:
    """*text*, byte for byte, as a URL; None if its host or port cannot be used."""
    try:
        url = URL(text, encoded=True)
        # yarl parses the port here, and not before.
        return url if url.port is not None else None
    except ValueError:
        return None


def _is_address(url: URL) -> bool:
    return literal_address(url.raw_host or "") is not None


async def _read(response: aiohttp.ClientResponse, body: bytearray) -> Answer | NoAnswer:
    """Read the body of *response* into *body*, up to `ANSWER_LIMIT`."""
    if not _is_final(response.status):
        return NoAnswer(
            AttemptOutcome.MALFORMED, f"the status {response.status:03} is not one of 200 to 599"
        )
    content = response.content
    while len(body) <= ANSWER_LIMIT and not content.at_eof():
        body += await content.readany()
    return _answer(response, body)


def _partial_answer(
    response: aiohttp.ClientResponse | None, body: bytearray, missing: NoAnswer
) -> Answer | NoAnswer:
    """
    The result of an answer whose body is incomplete.

    The head of a refusal is enough: its status, and its Retry-After. A 2xx means nothing without
    its body.
    """
    if response is None or not _is_final(response.status):
        return missing
    if response.status >= HTTPStatus.MULTIPLE_CHOICES:
        return _answer(response, body)
    return replace(missing, status_code=response.status)


def _with_connection(missing: NoAnswer) -> NoAnswer:
    """*missing* with what is known of the connection; of none, nothing is told."""
    connected = CONNECTED.get()
    if connected is None:
        return replace(missing, is_connected=False)
    return replace(missing, address=connected.protocol.address, phases=connected.phases())


def _answer(response: aiohttp.ClientResponse, body: bytearray) -> Answer:
    headers, is_redirect = response.headers, response.status // 100 == 3
    connected = CONNECTED.get()
    return Answer(
        response.status,
        headers.get("Retry-After"),
        bytes(body[:ANSWER_LIMIT]),
        len(body) > ANSWER_LIMIT,
        headers.get("Location") if is_redirect else None,
        headers.get("Content-Encoding"),
        told_head(response.raw_headers),
        connected.protocol.address if connected else None,
        connected.phases() if connected else None,
    )


def told_head(raw_headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The first headers of an answer, one on each line; `storage.transmissions` reads them."""
    lines = b"\n".join(map(b": ".join, raw_headers[:TOLD_HEADERS]))
    return lines[:TOLD_BYTES].decode("utf-8", "replace")


def _is_final(status_code: int) -> bool:
    return 200 <= status_code <= 599
