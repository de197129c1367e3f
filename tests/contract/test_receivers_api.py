"""`/receivers/`: the callback URLs of an account, and what it does with them by hand."""

from __future__ import annotations

from datetime import timedelta

import orjson
import pytest

from service.api.application import make_application
from service.domain.receivers import id_of
from service.settings import Settings
from service.storage.deliveries import LeaseRound
from service.storage.tables import deliveries
from tests.clock import START
from tests.rows import (
    LEASE,
    ONE,
    SECOND,
    a_receiver,
    add_delivery,
    delivered,
    failed,
    lease_deliveries,
    lease_delivery,
    rows_of,
)

ID = id_of(a_receiver())
PATH = f"/receivers/{ID}"
NOW = "2026-01-31T12:00:00.000Z"


async def post(api, what, *, path=PATH, status=200):
    """The answer to what is done with the receiver."""
    answer = await api.post(f"{path}/{what}")
    assert status == answer.status, await answer.text()
    return await answer.json()


async def get(api, path):
    """The document at *path*."""
    answer = await api.get(path)
    assert 200 == answer.status, await answer.text()
    return await answer.json()


async def test_a_receiver_is_listed_with_its_state(api, store):
    """A receiver that deliveries wait for is listed before its first attempt."""
    await add_delivery(store)
    expected = {
        "id": ID,
        "url": ONE,
        "origin": ONE,
        "state": "unknown",
        "since": None,
        "reason": None,
        "until": None,
        "oldest_due_at": NOW,
        "success_rate_24h": None,
        "p50_ms": None,
        "p95_ms": None,
    }

    assert {"items": [expected], "next": None} == await get(api, "/receivers/")
    assert expected == await get(api, PATH)


async def test_a_failing_receiver_says_why(api, store):
    """It is told since when it fails, and until when it asked not to be called."""
    await add_delivery(store)
    until = START + 60 * SECOND
    await store.settle(failed(await lease_delivery(store), due_at=START, held_until=until))

    row = await get(api, PATH)

    assert ("held", NOW, "2026-01-31T12:01:00.000Z") == (row["state"], row["since"], row["until"])
    assert "Retry-After" in row["reason"]


async def test_receivers_are_listed_page_by_page(api, store):
    """The cursor of a page leads to the next one; each receiver is listed once."""
    for number in range(5):
        await add_delivery(store, f"{number}", path=f"/{number}")
    seen, path = [], "/receivers?limit=2"
    while path:
        page = await get(api, path)
        seen.append([one["url"] for one in page["items"]])
        path = page["next"] and f"/receivers?limit=2&after={page['next']}"

    assert [[f"{ONE}/0", f"{ONE}/1"], [f"{ONE}/2", f"{ONE}/3"], [f"{ONE}/4"]] == seen


async def test_a_list_without_receivers_is_empty(api):
    """An account that nobody was called for has no receivers."""
    assert {"items": [], "next": None} == await get(api, "/receivers/")


@pytest.mark.parametrize("query", ["after=rcv_none", "after=x", "limit=0", "state=failing"])
async def test_a_page_that_does_not_exist_is_refused(api, query):
    """A cursor that is not known, a wrong limit and an unknown filter are 422."""
    assert 422 == (await api.get(f"/receivers/?{query}")).status


@pytest.mark.parametrize("what", ["", "/pause", "/resume", "/test"])
async def test_an_unknown_receiver_is_not_found(api, what):
    """An id that the account does not have is 404, whatever is asked."""
    method = "POST" if what else "GET"
    answer = await api.request(method, f"/receivers/rcv_none{what}")

    assert 404 == answer.status
    assert "There is no receiver 'rcv_none'." == (await answer.json())["detail"]


async def test_a_paused_receiver_gets_nothing(api, store):
    """It answers 200 with its state, each time; its deliveries say what they wait for."""
    await add_delivery(store)

    for _ in range(2):
        row = await post(api, "pause")
        assert ("paused", NOW, None) == (row["state"], row["since"], row["until"])
    shown = await get(api, "/deliveries/msg_1")

    assert ("pending", "paused", None) == (
        shown["status"],
        shown["waiting_for"],
        shown["waiting_until"],
    )
    assert [] == await lease_deliveries(store)


async def test_a_redelivery_waits_for_the_end_of_a_pause(api, store):
    """Paused means paused: what is asked for by hand waits too, and is not refused."""
    await add_delivery(store)
    await store.settle(delivered(await lease_delivery(store)))
    # Its first attempt is over, and its state is not noted here: it is known while one waits.
    await add_delivery(store, "2")
    await post(api, "pause")

    answer = await api.post("/deliveries/msg_1/redeliver")

    assert 202 == answer.status
    assert "paused" == (await answer.json())["waiting_for"]
    assert [] == await lease_deliveries(store)


async def test_a_resumed_receiver_gets_what_waited(api, store):
    """It answers 200 with its state, each time, also where it was not paused."""
    await add_delivery(store)
    await post(api, "pause")

    for _ in range(2):
        assert "unknown" == (await post(api, "resume"))["state"]

    assert ["msg_1"] == [one.id for one in await lease_deliveries(store)]


async def test_a_test_event_is_a_delivery(api, store, database):
    """It is answered with its delivery, whose URL and body say that it is a test."""
    await add_delivery(store, path="/base")
    id_ = id_of(a_receiver(path="/base"))

    tested = await post(api, "test", path=f"/receivers/{id_}", status=202)
    shown = await get(api, f"/deliveries/{tested['delivery_id']}")
    rows = await rows_of(database, deliveries)
    (body,) = [orjson.loads(row["body"]) for row in rows if row["id"] == tested["delivery_id"]]

    assert shown["invoice_id"].startswith("test_")
    assert f"{ONE}/base/invoices/{shown['invoice_id']}" == shown["url"]
    assert {"description": "Test event", "paid": False} == shown["event"]
    expected = {"description": "Test event", "paid": False, "invoice_id": shown["invoice_id"]}
    assert {**expected, "test": True} == body


async def test_a_test_event_is_no_invoice(api, store):
    """It is in no list of invoices, and cannot be voided or refunded."""
    await add_delivery(store)
    tested = await post(api, "test", status=202)
    id_ = (await get(api, f"/deliveries/{tested['delivery_id']}"))["invoice_id"]

    assert ["1"] == [one["id"] for one in (await get(api, "/invoices/"))["items"]]
    for method, path in (
        ("GET", f"/invoices/{id_}"),
        ("GET", f"/invoices/{id_}/deliveries"),
        ("GET", f"/invoices/{id_}/mails"),
        ("POST", f"/invoices/{id_}/void"),
    ):
        assert 404 == (await api.request(method, path)).status, path
    page = await get(api, f"/deliveries?invoice_id={id_}")
    assert [tested["delivery_id"]] == [one["id"] for one in page["items"]]


async def test_a_test_event_is_sent_at_once(api, store):
    """It goes out although the receiver is on hold, before what is due."""
    await add_delivery(store)
    until = START + timedelta(hours=1)
    await store.settle(failed(await lease_delivery(store), due_at=START, held_until=until))

    tested = await post(api, "test", status=202)
    due = await store.lease_deliveries(LeaseRound(START, START + LEASE, {}, [a_receiver()]))

    assert [tested["delivery_id"]] == [one.id for one in due.deliveries]


async def test_test_events_count_as_open_deliveries(aiohttp_client, assembled, store):
    """At the bound of the account, a test event is refused like an invoice."""
    await add_delivery(store)
    dependencies = assembled(Settings(account_open_deliveries=1)).dependencies
    api = await aiohttp_client(make_application(dependencies))

    statuses = [(await api.post(f"{PATH}/test")).status for _ in range(3)]

    # The first one is admitted while the open deliveries are counted.
    assert [202, 429, 429] == statuses


async def test_a_receiver_without_a_url_for_test_events_is_a_conflict(api, store):
    """Where the URL of a receiver is not one that a callback can begin with, nothing is sent."""
    await add_delivery(store, path="/a?b=c")
    id_ = id_of(a_receiver(path="/a?b=c"))

    problem = await post(api, "test", path=f"/receivers/{id_}", status=409)

    assert "cannot be sent a test event" in problem["detail"]


async def test_what_is_done_by_hand_is_logged(api, store, caplog):
    """One line for each change, with the origin and without the URL."""
    caplog.set_level("INFO", logger="invoices.api")
    await add_delivery(store, path="/secret")
    path = f"/receivers/{id_of(a_receiver(path='/secret'))}"

    for what, status in (("pause", 200), ("pause", 200), ("test", 202), ("resume", 200)):
        await post(api, what, path=path, status=status)

    lines = [one for one in caplog.records if one.getMessage().startswith("receiver.")]
    names = [one.getMessage() for one in lines]
    assert ["receiver.paused", "receiver.tested", "receiver.resumed"] == names
    assert {ONE} == {one.fields["origin"] for one in lines}
    assert "secret" not in str([one.fields for one in lines])
