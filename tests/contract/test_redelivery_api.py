"""`POST /deliveries/…/redeliver`: settled deliveries are delivered again on request."""

from __future__ import annotations

import logging

import pytest

from service.domain.states import DeadReason, DeliveryStatus
from service.errors import StorageUnavailable
from service.storage import redelivery
from tests.clock import START
from tests.rows import ONE, SECOND, add_delivery, delivered, failed, lease_delivery
from tests.samples import samples_of


async def die(store):
    """Settle the one due delivery as dead."""
    delivery = await lease_delivery(store)
    await store.settle(failed(delivery, status=DeliveryStatus.DEAD, reason=DeadReason.GONE))


@pytest.mark.parametrize("form", ["", "/"])
async def test_a_dead_delivery_is_delivered_once_more(api, store, form):
    """The response is 202 with the delivery, which is pending again with the same id."""
    await add_delivery(store)
    await die(store)

    answer = await api.post(f"/deliveries/msg_1/redeliver{form}")
    shown = await answer.json()

    assert 202 == answer.status
    assert ("msg_1", "pending", None) == (shown["id"], shown["status"], shown["reason"])
    assert "2026-01-31T12:00:00.000Z" == shown["due_at"]
    assert "redelivery" == (await lease_delivery(store)).cause


async def test_a_second_request_changes_nothing_more(api, store):
    """The second response equals the first one."""
    await add_delivery(store)
    await store.settle(delivered(await lease_delivery(store), at=START))

    first, second = [await api.post("/deliveries/msg_1/redeliver") for _ in range(2)]

    assert (202, 202) == (first.status, second.status)
    assert await first.json() == await second.json()


async def test_attempts_show_their_cause(api, store):
    """Each attempt shows its cause: an event or a redelivery."""
    await add_delivery(store)
    await die(store)
    await api.post("/deliveries/msg_1/redeliver")
    await store.settle(delivered(await lease_delivery(store), at=START + SECOND))

    shown = await (await api.get("/deliveries/msg_1")).json()

    causes = [(attempt["number"], attempt["cause"]) for attempt in shown["attempts"]]
    assert [(1, "event"), (2, "redelivery")] == causes


async def test_an_unknown_delivery_is_not_found(api):
    """An unknown delivery is 404, as for GET."""
    assert 404 == (await api.post("/deliveries/msg_1/redeliver")).status


@pytest.mark.parametrize("form", ["", "/"])
async def test_a_filter_is_answered_with_a_count(api, store, form):
    """The response is 202 with the count; the same filter finds nothing the second time."""
    for number in range(3):
        await add_delivery(store, str(number))
        await die(store)
    path = f"/deliveries/redeliver{form}"

    answers = [await api.post(path, json={"status": "dead"}) for _ in range(2)]

    assert [202, 202] == [answer.status for answer in answers]
    assert [{"count": 3}, {"count": 0}] == [await answer.json() for answer in answers]


async def test_a_filter_accepts_the_origins_of_lists(api, store):
    """The default port of the scheme may be left out of an origin."""
    await add_delivery(store)
    await die(store)
    wanted = {"status": "dead", "since": "2026-01-31T11:00:00Z", "until": "2026-01-31T13:00:00Z"}
    elsewhere = {**wanted, "origin": "https://elsewhere.example"}

    answers = [
        await (await api.post("/deliveries/redeliver", json=body)).json()
        for body in (elsewhere, {**wanted, "origin": ONE.removesuffix(":443")})
    ]

    assert [{"count": 0}, {"count": 1}] == answers


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/status"]),
        ({"status": "pending"}, ["/status"]),
        ({"status": "delivered"}, ["/status"]),
        ({"status": ["dead"]}, ["/status"]),
        ({"status": "dead", "orgin": "https://x.example"}, ["/orgin"]),
        ({"status": "dead", "origin": "x"}, ["/origin"]),
        ({"status": "dead", "origin": "https://[::1"}, ["/origin"]),
        ({"status": "dead", "since": "yesterday", "until": 7}, ["/since", "/until"]),
        ({"status": None, "origin": None}, ["/origin", "/status"]),
    ],
)
async def test_a_filter_with_field_errors_matches_nothing(api, store, body, pointers):
    """422 names every field error of the body; nothing was redelivered."""
    await add_delivery(store)
    await die(store)

    answer = await api.post("/deliveries/redeliver", json=body)
    errors = (await answer.json())["errors"]

    assert 422 == answer.status
    assert pointers == sorted(error["pointer"] for error in errors)
    assert {"body"} == {error["location"] for error in errors}
    assert "dead" == (await (await api.get("/deliveries/msg_1")).json())["status"]


@pytest.mark.parametrize(("body", "status"), [("[]", 422), ("{", 400), ("", 400)])
async def test_a_body_that_is_not_a_filter_is_refused(api, body, status):
    """A body that is not a JSON object is refused as for invoices."""
    headers = {"Content-Type": "application/json"}

    assert status == (await api.post("/deliveries/redeliver", data=body, headers=headers)).status


async def test_redelivered_deliveries_are_counted_although_the_rest_failed(
    monkeypatch, api, database, store, metrics, caplog
):
    """If a 503 interrupts a redelivery, the finished part is counted; a new request ends it."""
    caplog.set_level(logging.INFO, logger="invoices.api")
    monkeypatch.setattr(redelivery, "BATCH", 1)
    for number in range(3):
        await add_delivery(store, str(number))
        await die(store)
    faults = iter((None, None, StorageUnavailable("the disk is full")))
    database.fault = lambda _: next(faults, None)
    answers = [await api.post("/deliveries/redeliver", json={"status": "dead"}) for _ in range(2)]

    assert [503, 202] == [answer.status for answer in answers]
    assert {"count": 1} == await answers[1].json()
    counts = [record.fields["count"] for record in caplog.records if "redelivered" in record.msg]
    assert [2, 1] == counts
    assert 3 == samples_of(metrics)["invoices_deliveries_redelivered_total"]
