"""`/deliveries`: deliveries with their attempts."""

from __future__ import annotations

from datetime import timedelta

import pytest

from service.domain.ids import lower_bound
from service.domain.states import DeadReason, DeliveryStatus
from tests.clock import START
from tests.rows import (
    ONE,
    SECOND,
    TWO,
    add_delivery,
    add_two_events,
    delivered,
    failed,
    lease_delivery,
)


async def ids_of(api, path, **params):
    """The ids on one page."""
    answer = await api.get(path, params=params)
    assert 200 == answer.status, await answer.text()
    return [one["id"] for one in (await answer.json())["items"]]


async def test_pending_delivery_is_shown(api, store):
    """A pending delivery is shown with the time at which its next attempt is due."""
    await add_delivery(store)
    expected = {
        "id": "msg_1",
        "invoice_id": "1",
        "callback": "invoice_notification",
        "url": f"{ONE}/invoices/1",
        "status": "pending",
        "reason": None,
        "event": {"description": "Invoice paid", "paid": True},
        "attempt_count": 0,
        "due_at": "2026-01-31T12:00:00.000Z",
        "created_at": "2026-01-31T12:00:00.000Z",
        "settled_at": None,
        "waiting_for": "slot",
        "waiting_until": None,
        "attempts": [],
    }

    assert expected == await (await api.get("/deliveries/msg_1")).json()


async def test_delivered_delivery_shows_its_attempt(api, store):
    """A delivered delivery shows the response of its attempt, and no due time."""
    await add_delivery(store)
    await store.settle(delivered(await lease_delivery(store), at=START + SECOND))
    expected = {
        "number": 1,
        "cause": "event",
        "started_at": "2026-01-31T12:00:01.000Z",
        "duration_ms": 12,
        "status_code": 200,
        "outcome": "delivered",
        "detail": None,
        "request": None,
        "address": None,
        "phases_ms": None,
        "response_headers": None,
        "rule": None,
        "response_body": '{"ok": true}',
    }
    shown = await (await api.get("/deliveries/msg_1")).json()

    assert [expected] == shown["attempts"]
    assert ("delivered", None) == (shown["status"], shown["due_at"])
    assert "2026-01-31T12:00:01.000Z" == shown["settled_at"]


async def test_dead_delivery_shows_its_reason(api, store):
    """A dead delivery is shown with its reason."""
    await add_delivery(store)
    leased = await lease_delivery(store)
    await store.settle(failed(leased, status=DeliveryStatus.DEAD, reason=DeadReason.GONE))
    shown = await (await api.get("/deliveries/msg_1")).json()

    assert ("dead", "gone", 1) == (shown["status"], shown["reason"], shown["attempt_count"])


async def test_attempts_are_shown_in_order(api, store):
    """The attempts of a delivery are listed in order, the first one first."""
    await add_delivery(store)
    await store.settle(failed(await lease_delivery(store), due_at=START))
    await store.settle(delivered(await lease_delivery(store)))
    shown = await (await api.get("/deliveries/msg_1")).json()

    assert [1, 2] == [one["number"] for one in shown["attempts"]]
    assert ["refused", "delivered"] == [one["outcome"] for one in shown["attempts"]]


@pytest.mark.parametrize("path", ["/deliveries/msg_1", "/deliveries/msg_1/"])
async def test_unknown_delivery_is_not_found(api, path):
    """An unknown delivery is 404."""
    answer = await api.get(path)

    assert 404 == answer.status
    assert "/api/docs/problems#not-found" == (await answer.json())["type"]


async def test_delivery_of_another_account_is_not_found(api, store):
    """A delivery of another account is 404, like an unknown one."""
    await add_delivery(store, account_id="other")

    assert 404 == (await api.get("/deliveries/msg_1")).status
    assert [] == await ids_of(api, "/deliveries")


@pytest.mark.parametrize("id_", ["%00", "%0d%0a", "a" * 201])
async def test_invalid_delivery_id_is_refused(api, id_):
    """An id that is too long or has control characters is refused."""
    answer = await api.get(f"/deliveries/{id_}")

    assert 422 == answer.status
    assert [("path", "/id")] == [
        (one["location"], one["pointer"]) for one in (await answer.json())["errors"]
    ]


@pytest.mark.parametrize("path", ["/invoices/1/deliveries", "/invoices/1/deliveries/"])
async def test_deliveries_of_an_invoice_are_listed_newest_first(api, store, path):
    """The deliveries of an invoice are listed, the newest first."""
    await add_two_events(store, "1")
    await add_delivery(store, "2")

    assert ["msg_1b", "msg_1a"] == await ids_of(api, path)


async def test_invoice_without_callback_has_no_deliveries(api):
    """An invoice without a callback URL has an empty list of deliveries."""
    await api.post("/invoices/", json={"id": "1", "customer": "c", "total": "1"})

    assert [] == await ids_of(api, "/invoices/1/deliveries")


@pytest.mark.parametrize("path", ["/deliveries", "/deliveries/"])
async def test_deliveries_are_listed_newest_first(api, store, path):
    """The list begins with the newest delivery."""
    for number in "123":
        await add_delivery(store, number)

    assert ["msg_3", "msg_2", "msg_1"] == await ids_of(api, path)


async def test_pages_follow_each_other(api, store):
    """The pages show every delivery once."""
    for number in "12345":
        await add_delivery(store, number)
    seen, after = [], {}
    while after is not None:
        page = await (await api.get("/deliveries", params={"limit": "2", **after})).json()
        seen += [one["id"] for one in page["items"]]
        after = {"after": page["next"]} if page["next"] else None

    assert [f"msg_{number}" for number in "54321"] == seen


@pytest.mark.parametrize(
    ("expected", "params"),
    [
        (["msg_1"], {"status": "delivered"}),
        (["msg_2"], {"status": "pending"}),
        ([], {"status": "dead"}),
        (["msg_2"], {"invoice_id": "2"}),
        ([], {"invoice_id": "none"}),
        (["msg_2"], {"origin": TWO}),
        (["msg_2"], {"origin": "https://two.example"}),
        (["msg_2"], {"origin": "HTTPS://Two.example/"}),
        ([], {"origin": "http://two.example"}),
        (["msg_2"], {"since": "2026-01-31T12:01:00Z"}),
        (["msg_2"], {"since": "2026-01-31T13:01:00+01:00"}),
        ([], {"status": "delivered", "invoice_id": "2"}),
        (["msg_2", "msg_1"], {"since": "0001-01-01T00:00:00Z", "until": "9999-12-31T23:59:59Z"}),
    ],
)
async def test_filters_select_deliveries(api, store, expected, params):
    """Each filter selects deliveries, and several filters are combined."""
    await add_delivery(store, "1")
    await store.settle(delivered(await lease_delivery(store)))
    await add_delivery(store, "2", origin=TWO, at=START + timedelta(minutes=1))

    assert expected == await ids_of(api, "/deliveries", **params)


async def test_until_selects_what_happened_before(api, store):
    """`until` is exclusive, and a page that ends before all deliveries is the last one."""
    for minute in range(2):
        at = START + timedelta(minutes=minute)
        id_ = f"msg_{lower_bound(at)}{0:020}"
        await add_delivery(store, str(minute), at=at, delivery_id=id_)
    later = await (await api.get("/deliveries?until=2026-01-31T12:01:00Z")).json()
    long_ago = await (await api.get("/deliveries?until=2001-01-01T00:00:00Z")).json()

    assert (["0"], None) == ([one["invoice_id"] for one in later["items"]], later["next"])
    assert {"items": [], "next": None} == long_ago


@pytest.mark.parametrize(
    ("status", "path"),
    [
        (200, "/deliveries"),
        (200, "/deliveries?status=dead&origin=https://nobody.example&limit=200"),
        (200, "/deliveries?after=msg_1"),
        (422, "/deliveries?after=msg_3"),
        (422, "/deliveries?status=none"),
        (200, "/invoices?status=paid&limit=200"),
        (200, "/invoices?id=none"),
        (422, "/invoices?after=none"),
        (200, "/invoices/1/deliveries"),
        (404, "/invoices/none/deliveries"),
        (422, "/invoices/1/deliveries?after=none"),
    ],
)
async def test_head_of_a_list_has_the_headers_of_get(api, store, monkeypatch, status, path):
    """It has the status and the headers of GET, and reads one row at most to know them."""
    await add_delivery(store, "1")
    await add_delivery(store, "2")
    wanted = await api.get(path)
    limits = []

    def watched(read):
        async def listed(*args, **options):
            limits.append(options["limit"])
            return await read(*args, **options)

        return listed

    for name in ("list_deliveries", "list_invoices", "deliveries_of"):
        monkeypatch.setattr(store.history, name, watched(getattr(store.history, name)))
    answer = await api.head(path)
    again = await api.head(path)

    own = {"Content-Length", "Date", "X-Request-ID"}
    assert [status] * 3 == [one.status for one in (wanted, answer, again)]
    assert {name: value for name, value in wanted.headers.items() if name not in own} == {
        name: value for name, value in answer.headers.items() if name not in own
    }
    assert b"" == await answer.read()
    assert "Transfer-Encoding" not in answer.headers
    assert {1} >= set(limits)


@pytest.mark.parametrize(
    ("expected", "query"),
    [
        ("/status", "status=failed"),
        ("/invoice_id", "invoice_id=.."),
        ("/origin", "origin=x"),
        ("/origin", "origin=https://a%0ab"),
        ("/since", "since=yesterday"),
        ("/since", "since=2026-01-31"),
        ("/since", "since=2026-01-31T12:00:00"),
        ("/since", "since=0001-01-01T00:00:00%2B14:00"),
        ("/until", "until=9999-12-31T23:59:59-14:00"),
        ("/until", "until=1769860800"),
        ("/limit", "limit=1000"),
        ("/reason", "reason=gone"),
    ],
)
async def test_invalid_filter_is_refused(api, expected, query):
    """An invalid filter is a field error, and is not ignored."""
    answer = await api.get(f"/deliveries?{query}")

    assert 422 == answer.status
    assert [("query", expected)] == [
        (one["location"], one["pointer"]) for one in (await answer.json())["errors"]
    ]


async def test_every_field_error_of_a_filter_is_reported(api):
    """A wrong origin and a wrong status are reported in one response."""
    response = await api.get("/deliveries", params={"status": "foo", "origin": "zz"})

    errors = (await response.json())["errors"]
    assert {"/status", "/origin"} == {one["pointer"] for one in errors}
