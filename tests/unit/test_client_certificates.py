"""The detail of an attempt says that the receiver demands a client certificate."""

import contextlib
import socket
import ssl
import threading
from ipaddress import ip_network

import pytest
import trustme

from service.delivery.connection import verified_tls
from service.delivery.egress import EgressPolicy
from service.delivery.sender import OutgoingRequest, Sender

ATTEMPTS = 10
"""The end of the connection and the request may cross, in either order."""


@pytest.fixture(scope="module")
def authority():
    """The certificate authority of both sides."""
    return trustme.CA()


@pytest.fixture
def serve(authority):
    """Serves TLS of one version to clients with a certificate; returns the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("receiver.example").configure_cert(tls)
    authority.configure_trust(tls)
    tls.verify_mode = ssl.CERT_REQUIRED

    def accept_all():
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            with accepted.dup() as kept:
                # The server of asyncio would close without the alert.
                with contextlib.suppress(OSError), tls.wrap_socket(accepted, True) as served:
                    served.recv(1)
                # To close with an unread request is a reset, which may overtake the alert.
                with contextlib.suppress(OSError):
                    kept.shutdown(socket.SHUT_WR)
                    while kept.recv(4096):
                        pass

    def serve_(version):
        tls.maximum_version = version
        threading.Thread(target=accept_all, daemon=True).start()
        return listener.getsockname()[1]

    yield serve_
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (ssl.TLSVersion.TLSv1_3, "the receiver asks for a client certificate"),
        (
            ssl.TLSVersion.TLSv1_2,
            "the TLS handshake failed: the receiver shares no TLS version or cipher with us, or "
            "asks for a client certificate",
        ),
    ],
    ids=["1.3", "1.2"],
)
def test_the_detail_names_the_missing_client_certificate(run, authority, serve, version, expected):
    """If a receiver closes the connection for lack of a client certificate, the detail says so."""
    port = serve(version)
    trusting = verified_tls()
    authority.configure_trust(trusting)

    async def send():
        async with Sender(
            EgressPolicy((ip_network("127.0.0.1/32"),)),
            timeout_seconds=5,
            tls=trusting,
            lookup=lambda _host: ["127.0.0.1"],
        ) as sender:
            request = OutgoingRequest(f"https://receiver.example:{port}/", "POST", {}, b"{}")
            return {(await sender.send(request)).detail for _ in range(ATTEMPTS)}

    assert {expected} == run(send())
