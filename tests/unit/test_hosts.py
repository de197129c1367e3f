"""In development the service answers for its own hosts alone."""

from __future__ import annotations

import pytest
from aiohttp import web

from service.development import for_development, served_hosts
from service.settings import Settings
from service.telemetry.tracing import Tracing
from service.web.hosts import make_host_check
from service.web.middlewares import ERROR_PAGES, PUBLIC_PATH, make_border

LOOPBACK = [
    *("localhost", "localhost:8080", "LOCALHOST.", "api.localhost", "127.0.0.1", "127.1.2.3:80"),
    *("[::1]", "[::1]:8080"),
]
OTHERS = [
    *("evil.example", "evil.example:8080", "localhost.evil.example", "10.0.0.1", "192.168.0.1:80"),
    *("[fe80::1]", "", ":8080", "127.0.0.1.evil.example", "notlocalhost", "[", "a@b", "0x7f.1"),
]


async def asked(aiohttp_client, to, **settings):
    """The answer to a request to the host *to* in development."""

    async def answer(_request):
        return web.Response()

    check = make_host_check(served_hosts(for_development(Settings(**settings))))
    app = web.Application(middlewares=[make_border(Tracing(), ()), check])
    app[PUBLIC_PATH], app[ERROR_PAGES] = "", {}
    app.router.add_get("/", answer)
    client = await aiohttp_client(app)
    return await client.get("/", headers={"Host": to})


@pytest.mark.parametrize("host", LOOPBACK)
async def test_names_of_loopback_are_served(aiohttp_client, host):
    """A request to a name or an address of loopback is answered."""
    assert 200 == (await asked(aiohttp_client, host)).status


@pytest.mark.parametrize("host", OTHERS)
async def test_other_hosts_are_refused(aiohttp_client, host):
    """A name that was made to lead to this machine is refused with a problem document."""
    answer = await asked(aiohttp_client, host)

    assert (421, "application/problem+json") == (answer.status, answer.content_type)
    assert "/api/docs/problems#misdirected-request" == (await answer.json())["type"]


@pytest.mark.parametrize("host", ["invoices.example.com", "invoices.example.com:443", "192.0.2.1"])
async def test_the_bound_host_and_the_public_url_are_served(aiohttp_client, host):
    """A request to the host of a setting is answered."""
    settings = {"host": ("192.0.2.1",), "public_url": "https://invoices.example.com/billing"}

    assert 200 == (await asked(aiohttp_client, host, **settings)).status


@pytest.mark.parametrize(
    ("status", "host"), [(200, "192.168.0.1"), (200, "[fe80::1]"), (421, "evil.example")]
)
async def test_a_service_on_every_address_is_served_by_address(aiohttp_client, status, host):
    """Bound to every address, each address is one of the service, and no name is."""
    assert status == (await asked(aiohttp_client, host, host=("0.0.0.0",))).status
