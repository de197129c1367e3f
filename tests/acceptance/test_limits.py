"""What the operator sets holds in the process that serves."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from service.app import DEVELOPMENT, running
from service.development import for_development
from service.settings import Settings

TINY = timedelta(milliseconds=50)
PATIENCE_SECONDS = 20


@pytest.fixture
def settings(tmp_path):
    """Settings of a service with a database of its own, on any port."""
    return for_development(Settings(port=0, database_url=f"sqlite:///{tmp_path}/invoices.db"))


async def answered(port, text):
    """All that is said to *text* until the service hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    async with asyncio.timeout(PATIENCE_SECONDS):
        answer = await reader.read()
    writer.close()
    return answer


def invoice(length):
    """The head of an invoice of that length, and nothing of its body."""
    head = "POST /invoices/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n".encode()


async def test_every_bound_is_the_one_that_was_set(settings):
    """Body, time and connections are bounded by the settings, and not by their defaults."""
    narrow = replace(
        settings, body_limit=5000, body_timeout=TINY, idle_timeout=TINY, connection_limit=1
    )
    async with running(narrow, DEVELOPMENT) as service:
        assert b"larger than 5000 bytes" in await answered(service.port, invoice(5001))
        assert b"not complete after 0.05 seconds" in await answered(service.port, invoice(5000))
        assert b"" == await answered(service.port, b"GET / HTTP/1.1\r\n")


async def test_one_connection_makes_room_for_the_next(settings):
    """With room for one, the newest has it."""
    async with running(replace(settings, connection_limit=1), DEVELOPMENT) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")

        asked = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert (await answered(service.port, asked)).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(PATIENCE_SECONDS):
            await reader.read()
        writer.close()


@pytest.mark.parametrize(
    ("public_url", "is_told"), [("https://a.example", True), ("http://a.example", False)]
)
async def test_browsers_are_told_of_tls_where_there_is_some(settings, public_url, is_told):
    """Strict-Transport-Security depends on how users reach the service."""
    async with running(replace(settings, public_url=public_url), DEVELOPMENT) as service:
        asked = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = await answered(service.port, asked)

    assert is_told is (b"\r\nStrict-Transport-Security: max-age=31536000\r\n" in answer)
