"""
Makes the requests of deliveries to a local server, and reads what it answers.

The bytes of the body and the headers are those that a receiver gets; no redirect is followed. As
with any receiver, the server may be broken: what comes back is a value within the deadline.
"""

import asyncio
import socket
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any, Self

import aiohttp
import orjson
from aiohttp import AddrInfoType
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from service.domain.listening import ListenerFailure
from service.values import value

HEADERS_BYTES_MAX = 2048
"""How much of the headers of an answer is passed on: first those that count."""

HEADER_CHARACTERS_MAX = 1024

HEAD_LINE_MAX = 16 * 1024
HEAD_COUNT_MAX = 256
"""What the head of an answer may have: the same as that of a receiver on the internet."""

COUNTING = ("retry-after", "location", "content-encoding", "content-type")
"""The headers of an answer that decide something, or say what its body is."""

MARGIN = 0.1
"""The part of the time until the deadline that is left for the answer to reach the service."""

MARGIN_SECONDS_MAX = 1.0


@value(kw_only=True)
class LocalRequest:
    """A request for the local server: what a receiver would be sent."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Self:
        """The request of the event `delivery`; KeyError, TypeError or ValueError if it is none."""
        path = event["path"]
        if not path.startswith("/") or path.startswith("//"):
            raise ValueError("The path must begin with one slash.")
        return cls(
            method=str(event["method"]),
            path=path,
            headers={str(name): str(text) for name, text in event["headers"].items()},
            body=b64decode(event["body_base64"], validate=True),
        )


@value(kw_only=True)
class LocalAnswer:
    """What the local server answered, or the *failure* by which it did not."""

    status_code: int | None = None
    headers: Mapping[str, str] | None = None
    body: bytes = b""
    failure: ListenerFailure | None = None
    detail: str | None = None
    """What is wrong, for the developer at the terminal alone."""

    def as_object(self) -> dict[str, Any]:
        """The answer as the API of the service takes it."""
        if self.failure is not None:
            return {"failure": self.failure.value}
        return {
            "status": self.status_code,
            "headers": dict(self.headers or {}),
            "body_base64": b64encode(self.body).decode(),
        }


def loopback_only(addr_info: AddrInfoType) -> socket.socket:
    """Open the socket of a connection to this machine; an OSError for any other address."""
    family, kind, protocol, _, address = addr_info
    if not ip_address(address[0]).is_loopback:
        raise PermissionError(f"{address[0]} is not on this machine; --allow-host permits it")
    opened = socket.socket(family, kind, protocol)
    opened.setblocking(False)
    return opened


class Forwarder:
    """
    Forwards to the server at the URL *base*; an asynchronous context manager.

    *open_socket* decides which addresses are connected to.
    """

    def __init__(
        self, base: str, open_socket: Callable[[AddrInfoType], socket.socket] | None
    ) -> None:
        self._base = base.rstrip("/")
        self._open_socket = open_socket
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(socket_factory=self._open_socket, limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            max_line_size=HEAD_LINE_MAX,
            max_field_size=HEAD_LINE_MAX,
            max_headers=HEAD_COUNT_MAX,
            headers={"Accept-Encoding": "identity"},
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def forward(
        self, request: LocalRequest, seconds: float, body_bytes_max: int
    ) -> LocalAnswer:
        """
        Make *request*, and read the answer within *seconds*, of which a part is left over.

        Of the body, up to *body_bytes_max* are read. As with a receiver, the head of a refusal is
        enough, whatever becomes of its body.
        """
        seconds -= min(seconds * MARGIN, MARGIN_SECONDS_MAX)
        response, body = None, bytearray()
        try:
            async with asyncio.timeout(seconds):
                response = await self._session.request(
                    request.method,
                    # Byte for byte: without this, yarl would decode parts of the path.
                    URL(self._base + request.path, encoded=True),
                    data=request.body,
                    headers=request.headers,
                    allow_redirects=False,
                )
                if not 200 <= response.status <= 599:
                    detail = f"the status {response.status} is not one of 200 to 599"
                    return LocalAnswer(failure=ListenerFailure.MALFORMED, detail=detail)
                while len(body) < body_bytes_max and not response.content.at_eof():
                    body += await response.content.readany()
                return _answer(response, body[:body_bytes_max])
        except Exception as failure:  # noqa: BLE001 -- no answer may stop a listener
            if response is not None and 300 <= response.status <= 599:
                return _answer(response, body[:body_bytes_max])
            kind = next((kind for known, kind in FAILURES if isinstance(failure, known)), None)
            detail = str(failure) or type(failure).__name__
            if kind is ListenerFailure.TIMEOUT:
                detail = f"no complete answer within {seconds:.1f} s"
            return LocalAnswer(failure=kind or ListenerFailure.UNREACHABLE, detail=detail)
        finally:
            if response is not None:
                response.close()


def _answer(response: aiohttp.ClientResponse, body: bytearray) -> LocalAnswer:
    return LocalAnswer(
        status_code=response.status, headers=_passed_on(response.headers), body=bytes(body)
    )


FAILURES: tuple[tuple[type[Exception], ListenerFailure], ...] = (
    (TimeoutError, ListenerFailure.TIMEOUT),
    (aiohttp.ClientResponseError, ListenerFailure.MALFORMED),
    (aiohttp.ClientPayloadError, ListenerFailure.MALFORMED),
    (HttpProcessingError, ListenerFailure.MALFORMED),
    (aiohttp.InvalidURL, ListenerFailure.MALFORMED),
    (OSError, ListenerFailure.UNREACHABLE),
    (aiohttp.ClientError, ListenerFailure.UNREACHABLE),
)
"""What an error of the local request is; the first class that fits decides."""


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of *headers* that are passed on: the ones that count before all others."""
    names = sorted(headers.keys(), key=lambda name: name.lower() not in COUNTING)
    passed, left = dict[str, str](), HEADERS_BYTES_MAX
    for name in map(str, names):
        # A header may hold bytes that are no text.
        text = headers[name].encode("ascii", "replace").decode()[:HEADER_CHARACTERS_MAX]
        size = len(orjson.dumps({name: text}))
        if size <= left and text.isprintable():
            passed[name] = text
            left -= size
    return passed
