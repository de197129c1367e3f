"""The headers that every response has for browsers."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from hashlib import sha256

import pytest
from multidict import CIMultiDict

from service.api.application import make_application
from service.settings import Settings

EVERYWHERE = {
    "Server": "invoices",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
CLOSED = {
    "default-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}


def policy_of(answer):
    """The rules of the Content-Security-Policy of *answer*."""
    rules = answer.headers["Content-Security-Policy"].split("; ")
    return dict(rule.split(" ", 1) for rule in rules)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/invoices/"),
        ("POST", "/invoices/"),
        ("OPTIONS", "/invoices/"),
        ("DELETE", "/invoices/"),
        ("HEAD", "/healthz"),
        ("GET", "/none"),
        ("GET", "/api/docs"),
        ("GET", "/api/docs/problems"),
        ("GET", "/api/docs/openapi.json"),
        ("GET", "/api/docs/static/swagger-ui.css"),
        ("GET", "/api/docs/static/none"),
    ],
)
async def test_every_response_has_the_headers(api, method, path):
    """No response can be framed, sniffed or read by other origins, whatever its status is."""
    headers = (await api.request(method, path)).headers

    assert EVERYWHERE == {name: headers.get(name) for name in EVERYWHERE}
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "Strict-Transport-Security" not in headers


RAW = b"GET /healthz HTTP/%s\r\nHost: localhost\r\nConnection: %s\r\n\r\n"


@pytest.mark.parametrize(
    ("version", "connection", "told"),
    [
        (b"1.1", b"keep-alive", None),
        (b"1.1", b"close", "close"),
        (b"1.0", b"keep-alive", "keep-alive"),
        (b"1.0", b"close", None),
    ],
)
async def test_a_short_answer_is_the_same_in_every_version(api, version, connection, told):
    """An answer that is written at once has the headers and the body of any other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.server.port)
    writer.write(RAW % (version, connection))

    head, _, rest = (await reader.readuntil(b"\r\n\r\n")).decode().partition("\r\n")
    headers = CIMultiDict(line.split(": ", 1) for line in rest.strip().splitlines())
    body = await reader.readexactly(int(headers["Content-Length"]))
    writer.close()

    assert f"HTTP/{version.decode()} 200 OK" == head
    assert b'{"status":"ok"}' == body
    assert told == headers.get("Connection")
    assert {*EVERYWHERE, "Content-Type", "Date", "X-Request-Id"} <= headers.keys()
    assert len(headers) == len({name.lower() for name in headers})


async def test_the_response_to_input_that_is_not_http_has_the_headers(wire):
    """A response that comes from the server and not from the application has the same headers."""
    answer = (await wire.talk(b"nonsense\r\n\r\n")).decode()

    assert [] == [name for name, value in EVERYWHERE.items() if f"{name}: {value}" not in answer]


@pytest.mark.parametrize("path", ["/invoices/", "/none", "/api/docs"])
async def test_hsts_is_sent_if_the_public_url_is_https(assembled, aiohttp_client, path):
    """With an https:// public URL, the response forbids http:// for one year."""
    service = assembled(Settings(public_url="https://invoices.example"))
    api = await aiohttp_client(make_application(service.dependencies))

    headers = (await api.get(path)).headers

    assert "max-age=31536000" == headers["Strict-Transport-Security"]


@pytest.mark.parametrize("path", ["/api/docs", "/api/docs/"])
async def test_the_policy_of_the_page_allows_only_its_own_files(api, path):
    """Swagger UI may run its own files and one inline script, and connect only to the service."""
    answer = await api.get(path)
    (script,) = re.findall(r"<script>(.*?)</script>", await answer.text(), re.DOTALL)
    digest = b64encode(sha256(script.encode()).digest()).decode()

    assert {
        **CLOSED,
        "script-src": f"'self' 'sha256-{digest}'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
    } == policy_of(answer)
    assert "camera=()" in answer.headers["Permissions-Policy"]


async def test_the_page_of_problems_allows_no_scripts(api):
    """The policy of the page allows no script, and its own style by hash."""
    policy = policy_of(await api.get("/api/docs/problems"))

    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", policy.pop("style-src"))
    assert CLOSED == policy
