"""The running process uses the limits of its settings."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from service.app.process import DEVELOPMENT
from service.app.running import running
from service.development import for_development
from service.settings import Settings

TINY = timedelta(milliseconds=50)
PATIENCE_SECONDS = 20


@pytest.fixture
def settings(tmp_path):
    """The settings of a service with its own database, on any port."""
    return for_development(Settings(port=0, database_url=f"sqlite:///{tmp_path}/invoices.db"))


async def answered(port, text):
    """The whole response to *text*, until the service closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await reader.read()
    writer.close()
    return answer


async def refused(port, text):
    """The response to *text*; sent again if the connection was closed before it was sent."""
    while not (answer := await answered(port, text)):
        pass
    return answer


def invoice(length):
    """The head of a request with an invoice of that length, without its body."""
    head = "POST /invoices/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode()


async def test_every_limit_is_the_configured_one(settings):
    """The limits of body, time and connections are those of the settings, not the defaults."""
    narrow = replace(
        settings, body_limit=5000, body_timeout=TINY, idle_timeout=TINY, connection_limit=1
    )
    async with running(narrow, DEVELOPMENT) as service:
        assert b"larger than 5000 bytes" in await refused(service.port, invoice(5001))
        assert b"not complete after 0.05 seconds" in await refused(service.port, invoice(5000))
        assert b"" == await answered(service.port, b"GET / HTTP/1.1\r\n")


async def test_a_new_connection_replaces_the_oldest(settings):
    """If one connection is allowed, the newest one is served."""
    async with running(replace(settings, connection_limit=1), DEVELOPMENT) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")

        asked = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert (await answered(service.port, asked)).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await reader.read()
        writer.close()


@pytest.mark.parametrize(
    ("public_url", "has_header"), [("https://a.example", True), ("http://a.example", False)]
)
async def test_responses_have_hsts_if_the_service_uses_tls(settings, public_url, has_header):
    """Strict-Transport-Security is sent if the public URL is an HTTPS URL."""
    async with running(replace(settings, public_url=public_url), DEVELOPMENT) as service:
        asked = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        answer = await answered(service.port, asked)

    assert has_header is (b"\r\nStrict-Transport-Security: max-age=31536000\r\n" in answer)
