"""Callbacks through an HTTP proxy: which target it is asked for, and what a refusal means."""

import asyncio
import logging
import re
import socket
import ssl
from contextlib import asynccontextmanager

import pytest
import trustme

from service.delivery import proxy as proxy_module
from service.delivery.connection import verified_tls
from service.delivery.egress import EgressPolicy
from service.delivery.failures import NoAnswer
from service.delivery.proxy import Proxy
from service.delivery.sender import Answer, OutgoingRequest, Sender
from service.domain.outcomes import AttemptOutcome
from service.errors import ProxyFailed

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"ok": true}'
OK_ANSWER = Answer(200, None, b'{"ok": true}', False)
NOT_CONNECTED = "no connection to the receiver could be made"
PUBLIC, OTHER_PUBLIC, PRIVATE = "93.184.215.14", "2606:2800:21f::1", "10.0.0.1"


class FakeProxy:
    """
    A proxy that connects every target to one receiver, and records the targets.

    It refuses a target in *refusals* with the answer there; if it *is_silent*, it never answers.
    """

    def __init__(self, refusals=None, *, is_silent=False):
        self._is_silent = is_silent
        self.asked = []
        self.heads = []
        self._refusals = refusals or {}
        self._connections = set()

    @asynccontextmanager
    async def leading_to(self, receiver_port):
        """Serve on a port, and connect every target to *receiver_port*."""
        self._receiver_port = receiver_port
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._connections.add(asyncio.current_task())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            target = re.match(r"CONNECT (\S+) HTTP/1.1\r\n", head)[1]
            self.asked.append(target)
            refusal = self._refusals.get(target.rpartition(":")[0])
            if refusal is not None:
                writer.write(refusal)
                await writer.drain()
                return
            if self._is_silent:
                await reader.read()
            writer.write(b"HTTP/1.1 200 Connection established\r\nVia: a\r\n\r\n")
            onward = await asyncio.open_connection("127.0.0.1", self._receiver_port)
            await asyncio.gather(copy(reader, onward[1]), copy(onward[0], writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # The other side closed the connection, or the test ended.
        finally:
            writer.transport.abort()


async def copy(reader, writer):
    """Copy all bytes until the end of the input, then close the output."""
    while some := await reader.read(65536):
        writer.write(some)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def receiving(requests, tls=None):
    """A receiver that answers `{"ok": true}` and keeps its connections alive."""
    connections = set()

    async def serve(reader, writer):
        connections.add(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(2)
                requests.append(head.decode())
                writer.write(OK)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # The other side closed the connection, or the test ended.
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


def to(url):
    """A callback to *url*."""
    return OutgoingRequest(url, "POST", {}, b"{}")


def sent(run, proxy, *urls, addresses=(PUBLIC,), tls=None, served=None, credentials="", seconds=5):
    """The results of callbacks to *urls* in order, and the requests that the receiver got."""
    requests = []

    async def send():
        async with (
            receiving(requests, served) as receiver_port,
            proxy.leading_to(receiver_port) as port,
            Sender(
                EgressPolicy(),
                timeout_seconds=seconds,
                proxy=Proxy.of(f"http://{credentials}127.0.0.1:{port}"),
                lookup=lambda _host: addresses,
                tls=tls,
            ) as sender,
        ):
            return [await sender.send(to(url)) for url in urls]

    return run(send()), requests


def test_the_proxy_gets_the_approved_address(run):
    """A callback to http:// uses a tunnel to the approved address; the proxy gets no name."""
    proxy = FakeProxy()

    answers, requests = sent(run, proxy, "http://receiver.example/a")

    assert [OK_ANSWER] == answers
    assert [f"CONNECT {PUBLIC}:80 HTTP/1.1\r\nHost: {PUBLIC}:80\r\n\r\n"] == proxy.heads
    assert "POST /a HTTP/1.1" == requests[0].splitlines()[0]
    assert "Host: receiver.example" in requests[0].splitlines()


def test_the_address_of_the_proxy_is_not_told(run):
    """The address that is told is the approved one of the receiver, not that of the proxy."""
    answers, _ = sent(run, FakeProxy(), "http://receiver.example/a")

    assert [PUBLIC] == [one.address for one in answers]
    assert all(one.phases[1] >= 0 for one in answers)


def test_tls_is_end_to_end_with_the_receiver(run):
    """Through the proxy, the certificate of the receiver is verified for the name in the URL."""
    authority = trustme.CA()
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("receiver.example").configure_cert(served)
    trusting = verified_tls()
    authority.configure_trust(trusting)
    proxy = FakeProxy()

    urls = ("https://receiver.example/", "https://other.example/")
    (good, bad), _ = sent(run, proxy, *urls, tls=trusting, served=served)

    assert OK_ANSWER == good
    assert "not valid for 'other.example'" in bad.detail
    assert {f"{PUBLIC}:443"} == set(proxy.asked)


def test_tunnels_are_kept_alive(run):
    """Callbacks to one receiver reuse its tunnel."""
    proxy = FakeProxy()

    answers, _ = sent(run, proxy, "http://receiver.example/", "http://receiver.example/")

    assert [OK_ANSWER, OK_ANSWER] == answers
    assert [f"{PUBLIC}:80"] == proxy.asked


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("http://10.0.0.1/", ()),
        ("http://[::1]/", ()),
        ("http://169.254.169.254/", ()),
        ("http://receiver.example/", (PRIVATE,)),
        ("http://receiver.example/", (PRIVATE, "169.254.169.254")),
    ],
)
def test_the_proxy_gets_no_denied_address(run, url, addresses):
    """The policy checks the address of the receiver, as without a proxy."""
    proxy = FakeProxy()

    (answer,), _ = sent(run, proxy, url, addresses=addresses)

    told = AttemptOutcome.UNREACHABLE if addresses else AttemptOutcome.BLOCKED
    is_denied = bool(addresses)
    assert NoAnswer(told, NOT_CONNECTED, is_denied=is_denied, is_connected=False) == answer
    assert [] == proxy.asked


@pytest.mark.parametrize("url", [f"http://{PUBLIC}:8080/", f"http://[{OTHER_PUBLIC}]:8080/"])
def test_literal_addresses_go_through_the_proxy(run, url):
    """A URL with an address instead of a name is called through the proxy too."""
    proxy = FakeProxy()

    (answer,), _ = sent(run, proxy, url)

    assert OK_ANSWER == answer
    assert [url.split("/")[2]] == proxy.asked


def test_only_the_proxy_gets_its_credentials(run):
    """User and password of the setting are sent to the proxy, and never to the receiver."""
    proxy = FakeProxy()

    _, requests = sent(run, proxy, "http://receiver.example/", credentials="me:a%40b@")

    assert "Proxy-Authorization: Basic bWU6YUBi" in proxy.heads[0].splitlines()
    assert "Authorization" not in requests[0]
    assert "bWU6YUBi" not in repr(Proxy.of("http://me:a%40b@proxy.internal:1"))


@pytest.mark.parametrize(
    "refusal",
    [
        b"HTTP/1.1 403 Forbidden\r\n\r\n",
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/1.1 500 Internal Server Error\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"x" * 20_000,
    ],
)
def test_a_refusal_of_the_proxy_is_a_failure_on_our_side(run, caplog, refusal):
    """It is no attempt: it says nothing about the receiver; the log shows it once a minute."""
    proxy = FakeProxy({PUBLIC: refusal})
    several = Proxy.of("http://proxy.example:1")

    with caplog.at_level(logging.WARNING, "invoices"):
        with pytest.raises(ProxyFailed):
            sent(run, proxy, "http://receiver.example/")
        several._warn(ProxyFailed("again"))
        several._warn(ProxyFailed("again"))

    assert ["proxy.failed"] * 2 == [record.message for record in caplog.records]


@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Unavailable", "504 Gateway Timeout"])
def test_a_proxy_that_does_not_reach_the_receiver_says_something_about_it(run, caplog, status):
    """A proxy that works and cannot connect means an unreachable receiver, without a warning."""
    proxy = FakeProxy({PUBLIC: f"HTTP/1.1 {status}\r\n\r\n".encode()})

    (answer,), requests = sent(run, proxy, "http://receiver.example/")

    assert NoAnswer(AttemptOutcome.UNREACHABLE, NOT_CONNECTED, is_connected=False) == answer
    assert [] == requests
    assert [] == caplog.records


def test_the_next_address_is_tried(run):
    """If the proxy cannot reach one address of a name, the next one is tried."""
    proxy = FakeProxy({f"[{OTHER_PUBLIC}]": b"HTTP/1.1 502 Bad Gateway\r\n\r\n"})

    (answer,), _ = sent(run, proxy, "http://receiver.example/", addresses=(OTHER_PUBLIC, PUBLIC))

    assert OK_ANSWER == answer
    assert [f"[{OTHER_PUBLIC}]:80", f"{PUBLIC}:80"] == proxy.asked


def test_each_address_is_tried_once(run):
    """If the proxy refuses all addresses of a name, each was tried once."""
    refusal = b"HTTP/1.1 502 Bad Gateway\r\n\r\n"
    proxy = FakeProxy({f"[{OTHER_PUBLIC}]": refusal, PUBLIC: refusal})

    sent(run, proxy, "http://receiver.example/", addresses=(OTHER_PUBLIC, PUBLIC))

    assert [f"[{OTHER_PUBLIC}]:80", f"{PUBLIC}:80"] == proxy.asked


def test_a_silent_proxy_ends_at_the_deadline(run):
    """With a proxy that never answers, the attempt ends at the deadline."""
    (answer,), _ = sent(run, FakeProxy(is_silent=True), "http://receiver.example/", seconds=0.3)

    assert AttemptOutcome.TIMEOUT == answer.outcome


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.proxy.invalid"])
def test_an_unreachable_proxy_is_a_failure_on_our_side(run, host):
    """If the proxy cannot be reached, that is no attempt."""

    async def send():
        async with Sender(
            EgressPolicy(), timeout_seconds=5, proxy=Proxy(host, 1), lookup=lambda _host: [PUBLIC]
        ) as sender:
            return await sender.send(to("http://receiver.example/"))

    with pytest.raises(ProxyFailed):
        run(send())


def test_a_proxy_that_accepts_nothing_is_a_failure_on_our_side(run, monkeypatch):
    """A proxy that cannot be connected to in time counts as away, whatever the deadline."""
    monkeypatch.setattr(proxy_module, "REACH_SECONDS", 0.05)

    async def send():
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            address = full.getsockname()
            waiting = [socket.socket() for _ in range(3)]
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(address)
            try:
                async with Sender(
                    EgressPolicy(),
                    timeout_seconds=5,
                    proxy=Proxy(*address),
                    lookup=lambda _host: [PUBLIC],
                ) as sender:
                    return await sender.send(to("http://receiver.example/"))
            finally:
                for one in waiting:
                    one.close()

    with pytest.raises(ProxyFailed):
        run(send())
