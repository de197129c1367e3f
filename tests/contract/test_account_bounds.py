"""An account whose deliveries do not end may not send in more of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from service.api.application import make_application
from service.development import for_development
from service.loops import running_loops
from service.settings import Settings
from tests.clock import idle
from tests.fakes import PATIENCE_SECONDS
from tests.rows import TWO, add_delivery

CALLBACK = "?callback_url=https://a.example"


async def test_invoices_above_the_bound_are_refused_with_words(aiohttp_client, assembled, store):
    """The bound refuses invoices with a callback alone, and says why and when to retry."""
    for number in "12":
        await add_delivery(store, number)
    service = assembled(replace(Settings(), account_open_deliveries=2))
    api = await aiohttp_client(make_application(service.dependencies))
    invoice = {"customer": "c", "total": "1"}
    for number in range(3):
        answer = await api.post(f"/invoices/{CALLBACK}", json={**invoice, "id": f"i{number}"})
    problem = await answer.json()

    assert (429, "10") == (answer.status, answer.headers["Retry-After"])
    assert "2 deliveries that have not ended" in problem["detail"]
    assert 202 == (await api.post("/invoices/", json={**invoice, "id": "without"})).status
    assert 200 == (await api.get("/deliveries")).status
    assert 202 == (await api.post("/deliveries/msg_1/redeliver")).status
    await service.open_deliveries.close()


async def test_a_delivery_says_that_it_waits_for_the_rate(
    aiohttp_client, assembled, store, receivers
):
    """What an account may not attempt yet waits for its rate, whether it is leased or not."""
    settings = replace(for_development(Settings()), account_attempt_rate=1)
    service = assembled(settings)
    api = await aiohttp_client(make_application(service.dependencies))
    for number in range(10):
        await add_delivery(store, f"{number}")

    async def reasons():
        items = (await (await api.get("/deliveries?status=pending")).json())["items"]
        assert {None} == {one["waiting_until"] for one in items}
        return {one["waiting_for"] for one in items}

    before = await reasons()
    async with running_loops((service.dispatcher,), drain_seconds=PATIENCE_SECONDS):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "slot" in (paced := await reasons()) or None in paced:
                await idle()
        # Committed without a lease, as by another process.
        await add_delivery(store, "new", origin=TWO)
        waiting = await (await api.get("/deliveries/msg_new")).json()
        one = next(id_ for n in range(10) if (id_ := f"msg_{n}") not in receivers.ids)
        shown = (await (await api.get(f"/deliveries/{one}")).json())["waiting_for"]

    assert ({"slot"}, {"rate"}) == (before, paced)
    assert ("rate", "rate") == (waiting["waiting_for"], shown)
