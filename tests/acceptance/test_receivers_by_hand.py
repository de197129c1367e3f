"""Receivers by hand, on real processes: what one process is asked, every other one does."""

import json
import signal
from contextlib import AsyncExitStack

import aiohttp
import pytest
from standardwebhooks import Webhook

from service.development import DEV_SECRET
from tests.processes import receiving, serving, until


async def post(service, path, status=200):
    """The document that *service* answers a POST with."""
    async with aiohttp.ClientSession() as session, session.post(service.url + path) as answer:
        assert status == answer.status, await answer.text()
        return await answer.json()


async def the_receiver(service):
    """The only receiver."""
    (one,) = (await service.get("/receivers/"))["items"]
    return one


@pytest.fixture
async def services(database_url, tmp_path):
    """Two processes on one server, or twice the one process that a file can have."""
    async with AsyncExitStack() as stack:
        count = 1 if database_url.startswith("sqlite") else 2
        started = [
            await stack.enter_async_context(serving(tmp_path, database_url=database_url))
            for _ in range(count)
        ]
        yield started[0], started[-1]


async def test_a_receiver_is_paused_resumed_and_tested(services):
    """A pause stops every process, its end wakes every process, and a test event arrives."""
    one, other = services
    async with receiving() as receiver:
        await one.send("1", receiver.url)
        await receiver.arrived.reaches(1)
        path = f"/receivers/{(await the_receiver(other))['id']}"

        assert "paused" == (await post(one, f"{path}/pause"))["state"]
        await other.send("2", receiver.url)
        waiting = await other.delivery_of("2")
        assert ("pending", "paused") == (waiting["status"], waiting["waiting_for"])
        await post(one, f"/deliveries/{waiting['id']}/redeliver", 202)
        assert 1 == len(receiver.arrived)

        assert "paused" != (await post(other, f"{path}/resume"))["state"]
        await receiver.arrived.reaches(2)
        tested = await post(other, f"{path}/test", 202)
        _, url, headers, body = (await receiver.arrived.reaches(3))[-1]

    event = json.loads(body)
    assert tested["delivery_id"] == headers["webhook-id"]
    Webhook(DEV_SECRET).verify(body, headers)
    assert f"/invoices/{event['invoice_id']}" == url
    assert event["invoice_id"].startswith("test_")
    assert (True, False) == (event["test"], event["paid"])


async def test_every_process_tells_the_same_of_a_receiver(services):
    """Its state, and what its attempts of a day came to, are stored within seconds."""
    one, other = services
    async with receiving() as receiver:
        for number in range(5):
            await one.send(f"{number}", receiver.url)
        await receiver.arrived.reaches(5)

        async def is_counted():
            return (await the_receiver(other))["success_rate_24h"]

        assert 1.0 == await until(is_counted)
        shown = await the_receiver(other)

        assert shown == await the_receiver(one)
        assert ("healthy", None, None) == (shown["state"], shown["reason"], shown["oldest_due_at"])
        assert 0 <= shown["p50_ms"] <= shown["p95_ms"]


async def test_a_receiver_that_cannot_be_reached_fails(tmp_path):
    """Nobody listens there: the receiver is told as failing, and since when."""
    async with serving(tmp_path, RETRY_SCHEDULE="1h") as service:
        await service.send("1", "http://127.0.0.1:9")
        await service.delivery_of("1")

        async def is_failing():
            shown = await the_receiver(service)
            return shown["state"] == "failing" and shown

        shown = await until(is_failing)

    assert shown["since"]
    assert shown["reason"]
    assert 0.0 == shown["success_rate_24h"]


async def test_a_stop_stores_what_was_counted(tmp_path):
    """The counts of the last seconds outlast a stop, and a pause outlasts every restart."""
    async with receiving() as receiver:
        async with serving(tmp_path) as service:
            await service.send("1", receiver.url)
            await service.delivery_of("1", is_settled=True)
            await post(service, f"/receivers/{(await the_receiver(service))['id']}/pause")
            service.signal(signal.SIGTERM)
            assert 0 == await service.ended()

        async with serving(tmp_path) as service:
            shown = await the_receiver(service)

    assert ("paused", 1.0) == (shown["state"], shown["success_rate_24h"])
