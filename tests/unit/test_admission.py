"""Requests are authenticated before their body is read, and behind a body that came late."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from service.errors import Unauthorized
from service.telemetry.tracing import Tracing
from service.web.bodies import BodyLimits
from service.web.middlewares import ERROR_PAGES, PUBLIC_PATH, Admission, make_border


class Accounts:
    """One account, which may be disabled."""

    def __init__(self):
        self.is_disabled = False
        self.asked = asyncio.Event()

    async def authenticate(self, _authorization):
        """The id of the account, unless it is disabled."""
        self.asked.set()
        if self.is_disabled:
            raise Unauthorized("This key is no longer valid.")
        return "a"


@pytest.fixture
def accounts():
    """The account."""
    return Accounts()


@pytest.fixture
async def client(aiohttp_client, accounts):
    """A client of an application with one private handler."""

    async def handle(request):
        return web.Response(body=await request.read())

    admission = Admission({handle: accounts.authenticate}, lambda _: None, BodyLimits(), {})
    app = web.Application(middlewares=[make_border(Tracing(), {handle}), admission.admit])
    app[PUBLIC_PATH] = ""
    app[ERROR_PAGES] = {}
    app.router.add_post("/", handle)
    return await aiohttp_client(app)


@pytest.mark.parametrize(("status", "is_disabled"), [(401, True), (200, False)])
async def test_an_account_is_asked_for_again_behind_a_late_body(
    client, accounts, status, is_disabled
):
    """A body that was complete only after its account was disabled is refused."""

    async def body():
        yield b"{"
        await accounts.asked.wait()
        accounts.is_disabled = is_disabled
        yield b"}"

    assert status == (await client.post("/", data=body())).status
