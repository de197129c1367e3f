"""Large requests of an account are parsed one after the other, with those of others between."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from aiohttp import web

from service.telemetry.tracing import Tracing
from service.web.bodies import BodyLimits
from service.web.large_requests import LARGE_BYTES, LargeRequests
from service.web.middlewares import ERROR_PAGES, PUBLIC_PATH, Admission, make_border
from tests.clock import PATIENCE_SECONDS

COUNT = 50
LARGE = "x" * LARGE_BYTES


async def test_others_run_between_large_requests():
    """Of many large requests that are ready at once, others wait for one or two."""
    turns, parsed, seen = LargeRequests(), [], []

    async def large(number):
        await turns.turn("greedy")
        parsed.append(number)

    async def other():
        for _ in range(COUNT):
            seen.append(len(parsed))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        for number in range(COUNT):
            tasks.create_task(large(number))
        tasks.create_task(other())

    assert [*range(COUNT)] == parsed
    assert 1 >= max(after - before for before, after in pairwise(seen))


async def test_accounts_do_not_wait_for_each_other():
    """Each account has turns of its own."""
    turns, parsed = LargeRequests(), []

    async def large(account_id):
        await turns.turn(account_id)
        parsed.append(account_id)

    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        for _ in range(COUNT):
            tasks.create_task(large("greedy"))
        tasks.create_task(large("other"))

    assert "other" in parsed[:2]


async def test_a_request_that_is_given_up_passes_its_turn_on():
    """A request that is cancelled while it waits does not stop those behind it."""
    turns = LargeRequests()
    waiting = [asyncio.create_task(turns.turn("a")) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()

    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(waiting[0], waiting[2])


class Turns:
    """Counts the turns that are asked for."""

    def __init__(self):
        self.account_ids = []

    async def turn(self, account_id):
        """Count one."""
        self.account_ids.append(account_id)


@pytest.mark.parametrize(
    ("expected", "path", "body"),
    [(["a"], "/", LARGE), (["a"], f"/?{LARGE}", ""), ([], "/", "x"), ([], "/?x", LARGE[5:])],
)
async def test_a_request_is_large_by_its_path_and_its_body(aiohttp_client, expected, path, body):
    """A request above the limit waits for its turn, and an ordinary one does not."""

    async def handle(request):
        return web.Response(body=await request.read())

    async def authenticate(_authorization):
        return "a"

    turns = Turns()
    admission = Admission({handle: authenticate}, lambda _: None, BodyLimits(), {}, turns)
    app = web.Application(middlewares=[make_border(Tracing(), {handle}), admission.admit])
    app[PUBLIC_PATH] = ""
    app[ERROR_PAGES] = {}
    app.router.add_post("/", handle)
    client = await aiohttp_client(app)

    answer = await client.post(path, data=body)

    assert (200, body) == (answer.status, await answer.text())
    assert expected == turns.account_ids
