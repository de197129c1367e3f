"""
Writes one HTTP/1.1 request to a connection, and reads what comes back of it.

The connections, their pool and the parser are those of aiohttp. Its client session is left out: for
redirects, cookies, authentication, retries and encodings, of which a callback has none, it takes
more instructions than all that is here.
"""

import re
import time
from collections.abc import Mapping
from functools import cached_property

from aiohttp import ClientRequest, ClientTimeout
from aiohttp.client_exceptions import InvalidURL
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http import RawResponseMessage
from yarl import URL

from service.delivery.connection import ANSWER_LIMIT, BoundedConnector, Connected
from service.heads import encoded_head

NO_TIMEOUT = ClientTimeout(total=None)
"""The caller has one deadline for everything; those of aiohttp begin again with every address."""

URL_PARTS = re.compile(
    r"((?i:https?)://[^\0- /?#@\x7f-\U0010ffff]+)((?:[/?][^\0- #\x7f-\U0010ffff]*)?)(?:#.*)?", re.S
)
"""Scheme, host and port of a URL; its path and query. No blank and no control is among them."""


class Place(ClientRequest):
    """Scheme, host and port, as a connector wants to know them; requests to it share this."""

    @cached_property
    def connection_key(self) -> ConnectionKey:
        """By which its connections are found in the pool."""
        return super().connection_key


def place_of(base: str) -> Place:
    """
    The place that *base* names: a URL without path.

    Raises:
        ValueError: if its host or port cannot be used.
    """
    url = URL(base, encoded=True)
    # yarl parses the port here, and not before.
    if url.port is None:
        raise InvalidURL(base)
    return Place("POST", url)


def head_of(
    method: str, target: str, host: str, headers: Mapping[str, str], body_bytes: int
) -> bytes:
    """
    The head of a request for the path and query *target*, with all that belongs before its body.

    Raises:
        ValueError: if a header has a line break.
    """
    if not target.startswith("/"):
        target = f"/{target}"
    lines = [
        f"{method} {target} HTTP/1.1",
        f"Host: {host}",
        "Accept: */*",
        "Accept-Encoding: identity",
        *map(": ".join, headers.items()),
        f"Content-Length: {body_bytes}",
    ]
    return encoded_head(lines)


class Exchange:
    """One request and what has come back of it so far, which is what is left after a failure."""

    __slots__ = ("body", "connected", "message")

    def __init__(self) -> None:
        self.connected: Connected | None = None
        """The connection that it has got, if it has got one."""
        self.message: RawResponseMessage | None = None
        """The head of the final answer."""
        self.body = bytearray()
        """What has arrived of its body: `ANSWER_LIMIT` bytes, and a little more if there is."""

    async def run(self, connector: BoundedConnector, place: Place, request: bytes) -> None:
        """
        Write *request* to a connection of *place*, once, and read the answer.

        The connection is kept if the answer is complete, else it is closed.
        """
        began_at = time.monotonic()
        connection = await connector.connect(place, [], NO_TIMEOUT)
        protocol = connector.bounded(connection)
        self.connected = Connected(protocol, place.is_ssl(), began_at, time.monotonic())
        try:
            protocol.send(request)
            message, content = await protocol.read()
            while 100 <= message.code < 200 and message.code != 101:
                message, content = await protocol.read()
            self.message = message
            if is_final(message.code):
                while len(self.body) <= ANSWER_LIMIT and not content.at_eof():
                    self.body += await content.readany()
            else:
                connection.close()
        except BaseException:
            connection.close()
            raise
        connection.release()


def is_final(status_code: int) -> bool:
    """Whether a status ends an exchange (RFC 9110, section 15)."""
    return 200 <= status_code <= 599
