"""An account whose deliveries do not end may not send in more of them."""

from __future__ import annotations

from dataclasses import replace

from service.api.application import make_application
from service.settings import Settings
from tests.rows import add_delivery

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
