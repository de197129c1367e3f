"""
Tunnels through an HTTP proxy (RFC 9110, section 9.3.6), for networks without a direct way out.

The proxy is asked for a numeric address, never for a name: so the address that the egress policy
has permitted is the address that is reached. TLS is between the service and the receiver, through
the tunnel.
"""

import asyncio
import logging
import socket
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

from aiohttp import AddrInfoType

from service.delivery.egress import RECEIVE_BUFFER_BYTES, AddressDenied, EgressPolicy
from service.errors import ProxyFailed
from service.telemetry.descriptors import RUN_OUT

log = logging.getLogger("invoices.delivery")

HEAD_LIMIT = 16 * 1024
"""Bytes that the head of the proxy's answer may have."""

ADDRESS_SECONDS = 4
"""How long a connection to one of several addresses may take, so that the next gets time."""

REACH_SECONDS = 2
"""How long a connection to the proxy itself may take: it is near."""

WARNING_SECONDS = 60
"""Minimum time between two warnings that the proxy fails."""

NOT_REACHED = ("502", "503", "504")
"""What a proxy answers that works and does not reach the receiver (RFC 9110, section 15.6)."""


class TunnelRefused(OSError):
    """The proxy works, and could not connect to the receiver."""


@dataclass(slots=True)
class Proxy:
    """An HTTP proxy; *authorization* is its `Proxy-Authorization` header."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)
    _warned_at: float | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, url: str) -> Self:
        """The proxy of `http://user:password@host:port`."""
        parts = urlsplit(url)
        credentials = None
        if parts.username is not None:
            text = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            credentials = f"Basic {b64encode(text.encode()).decode()}"
        return cls(parts.hostname or "", parts.port or 0, credentials)

    async def open_tunnel(
        self, addresses: Sequence[AddrInfoType], policy: EgressPolicy
    ) -> tuple[socket.socket, str]:
        """
        A connection to the first of *addresses* that the proxy reaches, and that address.

        Raises:
            AddressDenied: if *policy* denies an address; the proxy is not asked for it.
            TunnelRefused: if the proxy reaches none of them.
            ProxyFailed: if the proxy itself fails. The failure has been logged.
        """
        failure: TunnelRefused | None = None
        for number, (*_, address) in enumerate(addresses, start=1):
            if not policy.permits(str(address[0])):
                raise AddressDenied(str(address[0]))
            seconds = ADDRESS_SECONDS if number < len(addresses) else None
            try:
                async with asyncio.timeout(seconds):
                    tunnel = await self._connect(str(address[0]), int(address[1]))
                    return tunnel, str(address[0])
            except TimeoutError:
                failure = TunnelRefused(f"no tunnel to {address[0]} within {ADDRESS_SECONDS} s")
            except TunnelRefused as error:
                failure = error
            except ProxyFailed as error:
                self._warn(error)
                raise
        assert failure is not None  # noqa: S101 -- the resolver refuses a name without address
        raise failure

    async def _connect(self, address: str, port: int) -> socket.socket:
        target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
        if self.authorization:
            head += f"Proxy-Authorization: {self.authorization}\r\n"
        opened = await self._reach_in_time()
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(opened, f"{head}\r\n".encode())
            status_line = await _read_status_line(opened)
            if not status_line.startswith(("HTTP/1.1 2", "HTTP/1.0 2")):
                is_not_reached = status_line[9:12] in NOT_REACHED
                kind = TunnelRefused if is_not_reached else ProxyFailed
                raise kind(f"CONNECT {target} was answered {status_line!r}")
        except TunnelRefused:
            opened.close()
            raise
        except OSError as error:
            opened.close()
            raise ProxyFailed(f"CONNECT {target}: {error}") from error
        except BaseException:
            opened.close()
            raise
        return opened

    async def _reach_in_time(self) -> socket.socket:
        try:
            async with asyncio.timeout(REACH_SECONDS):
                return await self._reach()
        except TimeoutError:
            raise ProxyFailed(f"the proxy did not answer within {REACH_SECONDS} s") from None
        except OSError as error:
            if error.errno in RUN_OUT:
                raise
            raise ProxyFailed(str(error)) from error

    async def _reach(self) -> socket.socket:
        """A connection to the proxy itself, to whose address the policy does not apply."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        failure = OSError("the proxy has no address")
        for family, kind, protocol, _, address in found:
            opened = socket.socket(family, kind, protocol)
            try:
                opened.setblocking(False)
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
                await loop.sock_connect(opened, address)
            except OSError as error:
                opened.close()
                failure = error
            except BaseException:
                opened.close()
                raise
            else:
                return opened
        raise failure

    def _warn(self, failure: ProxyFailed) -> None:
        now = time.monotonic()
        if self._warned_at is None or now - self._warned_at >= WARNING_SECONDS:
            self._warned_at = now
            fields = {"proxy": f"{self.host}:{self.port}", "detail": str(failure)}
            log.warning("proxy.failed", extra={"fields": fields})


async def _read_status_line(opened: socket.socket) -> str:
    """The first line of the answer; reads its whole head, and no byte after it."""
    loop = asyncio.get_running_loop()
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        # One byte at a time: what follows belongs to the receiver, and the head is short.
        received = await loop.sock_recv(opened, 1)
        if not received or len(head) >= HEAD_LIMIT:
            raise ProxyFailed("the answer of the proxy is incomplete or not HTTP")
        head += received
    return head.partition(b"\r\n")[0].decode("latin-1")[:200]
