"""What Stripe sends to the service over HTTP, and what others send in its name."""

from __future__ import annotations

from datetime import timedelta

import pytest
from aiohttp.test_utils import TestClient, TestServer

from service.api.application import make_application
from service.storage.webhooks import Webhook
from tests.stripe.fake import SECRET
from tests.stripe.world import World

PATH = "/collectors/stripe/dev"


@pytest.fixture
async def world():
    """An invoice that its customer has just paid."""
    made = World(0, invoice_count=1)
    await made.begin()
    invoice = await made.process.invoice("i0")
    url = await made.process.dependencies.stripe.collector.checkout(invoice, "")
    made.fake.pay(url.rpartition("/")[2])
    return made


@pytest.fixture
async def client(world):
    """A client of the service."""
    app = make_application(world.process.dependencies)
    async with TestClient(TestServer(app)) as made:
        yield made


async def sent(client, body, signature, path=PATH):
    """The status of the answer to a webhook."""
    headers = {"Stripe-Signature": signature, "Content-Type": "application/json"}
    async with client.post(path, data=body, headers=headers) as answer:
        return answer.status


async def statuses(world):
    """The status of the invoice after all that is due was looked at."""
    await world.poll(world.process)
    return (await world.process.invoice("i0")).status


async def test_a_webhook_makes_its_payment_known_at_once(world, client):
    """A signed webhook is answered 200, and what it is about is read from Stripe."""
    assert "received" == await statuses(world)

    assert 200 == await sent(client, *world.fake.signed(world.fake.events[0]))

    assert "paid" == await statuses(world)


async def test_a_webhook_is_taken_once(world, client, caplog):
    """The same event again is 200 and does nothing."""
    for _ in range(2):
        assert 200 == await sent(client, *world.fake.signed(world.fake.events[0]))
    await statuses(world)
    reads = len(world.fake.requests)
    assert 200 == await sent(client, *world.fake.signed(world.fake.events[0]))

    assert "paid" == await statuses(world)
    assert reads == len(world.fake.requests)


async def test_a_webhook_is_not_believed(world, client):
    """A webhook that tells a payment which Stripe does not have changes nothing."""
    event = {**world.fake.events[0], "id": "evt_forged_inside"}
    (session,) = world.fake.sessions.values()
    session["payment_status"], session["status"] = "unpaid", "expired"

    assert 200 == await sent(client, *world.fake.signed(event))

    assert "received" == await statuses(world)


@pytest.mark.parametrize(
    "change",
    [
        lambda body, signature: (body + b" ", signature),
        lambda body, signature: (body, ""),
        lambda body, signature: (body, "t=1,v1=" + "0" * 64),
        lambda body, signature: (body, signature.replace("v1=", "v0=")),
        lambda body, signature: (body, signature.replace("t=", "t=9")),
        lambda body, signature: (body, signature + ",t=1"),
        lambda body, _: (b"\xff\xfe", "t=1,v1=aa"),
    ],
)
async def test_a_webhook_without_a_valid_signature_is_refused(world, client, change):
    """Forged or damaged webhooks are 400 and change nothing."""
    body, signature = world.fake.signed(world.fake.events[0])

    assert 400 == await sent(client, *change(body, signature))

    assert "received" == await statuses(world)


async def test_a_secret_of_another_account_signs_nothing(world, client):
    """An account's webhooks are signed by its own secrets; an unknown account has none."""
    other = world.fake.signed(world.fake.events[0], secret="whsec_of_another")

    assert 400 == await sent(client, *other)
    signed = world.fake.signed(world.fake.events[0])
    assert 400 == await sent(client, *signed, path="/collectors/stripe/acct_none")


@pytest.mark.parametrize(("minutes", "status"), [(4, 200), (6, 400), (-6, 400)])
async def test_an_old_signature_is_refused(world, client, minutes, status):
    """A copy of an old webhook is refused; clocks may differ by minutes."""
    body, signature = world.fake.signed(world.fake.events[0])
    world.clock.jump(timedelta(minutes=minutes))

    assert status == await sent(client, body, signature)


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"id": "evt_1", "type": "x"},
        {"id": "evt_1", "type": "x", "data": {"object": []}},
        {"id": "evt_1", "type": "x", "data": {"object": None}},
        {"id": "evt_1", "type": "x", "data": {"object": {"id": "prod_1", "object": "product"}}},
        {"id": "e" * 999, "type": "x", "data": {"object": {"client_reference_id": "a"}}},
        {"id": "evt_1", "type": "x", "data": {"object": {"client_reference_id": "none"}}},
        {"id": "evt_1", "type": "x", "data": {"object": {"client_reference_id": "\x00"}}},
        {"id": "evt_1", "type": "x", "data": {"object": {"object": "dispute"}}},
        {"id": "evt_\x00", "type": "x", "data": {"object": {"client_reference_id": "a"}}},
        {"id": "evt_1", "type": "x", "data": {"object": {"metadata": "a"}}},
        [],
        None,
    ],
)
async def test_a_webhook_about_something_else_is_taken(world, client, event):
    """An account of Stripe has other things too: what is signed is 200 and changes nothing."""
    assert 200 == await sent(client, *world.fake.signed(event))


async def test_old_webhooks_are_forgotten(world, client):
    """The ids of webhooks are kept for a month, in which Stripe may send them again."""
    assert 200 == await sent(client, *world.fake.signed(world.fake.events[0]))
    world.clock.advance(timedelta(days=31))

    await world.process.watch.forget_webhooks(world.clock.now())

    store, webhook = world.process.store, Webhook(id=world.fake.events[0]["id"], type="x")
    assert await store.money.take_webhook("dev", webhook, world.clock.now())


async def test_a_large_webhook_is_refused_by_its_size(world, client):
    """A body above the limit is not read."""
    body, signature = world.fake.signed({"id": "evt_1", "filling": "x" * 100_000})

    assert 413 == await sent(client, body, signature)


def test_the_secret_of_the_fake_is_a_secret():
    """The fake signs as Stripe does, which the library of Stripe verifies."""
    assert SECRET.startswith("whsec_")
