from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from service.domain.ids import lower_bound
from service.domain.outcomes import AttemptOutcome
from service.domain.states import DeadReason, DeliveryStatus
from service.errors import NotFound, UnknownCursor
from service.storage import history
from service.storage.history import CLOCK_MARGIN, DeliveryFilter
from service.storage.tables import attempts
from service.storage.transmissions import UNKNOWN
from tests.clock import START
from tests.rows import (
    ONE,
    SECOND,
    TWO,
    add_delivery,
    add_two_events,
    an_invoice,
    delivered,
    failed,
    lease_deliveries,
    rows_of,
)


async def page(store, account_id="dev", *, after=None, limit=50, **wanted):
    """The ids on one page, and the cursor of the next page."""
    rows, cursor = await store.history.list_deliveries(
        account_id, DeliveryFilter(**wanted), after=after, limit=limit
    )
    return [row["id"] for row in rows], cursor


@pytest.fixture
async def filled(store):
    """A delivered, a dead and two pending deliveries, a second apart, and one of another."""
    for number in range(4):
        origin = (ONE, TWO)[number % 2]
        await add_delivery(store, str(number), origin=origin, at=START + number * SECOND)
    await add_delivery(store, "9", account_id="other", at=START)
    found = {delivery.id: delivery for delivery in await lease_deliveries(store, now=START)}
    later = await lease_deliveries(store, now=START + SECOND)
    await store.settle(delivered(found["msg_0"], at=START + SECOND))
    await store.settle(
        failed(later[0], status=DeliveryStatus.DEAD, reason=DeadReason.GONE, at=START + SECOND)
    )
    return store


# One delivery


async def test_a_delivery_shows_all_fields_and_attempts(store):
    """A delivery shows its URL, its event, the instant of the next attempt, and every attempt."""
    await add_delivery(store)
    (first,) = await lease_deliveries(store)
    body = {"detail": "the receiver answered 500", "response_body": "oops – très"}
    await store.settle(replace(failed(first, due_at=START + SECOND), **body))
    (second,) = await lease_deliveries(store, now=START + SECOND)
    await store.settle(failed(second, due_at=START + 9 * SECOND, at=START + SECOND))

    shown = await store.history.find_delivery("dev", "msg_1")

    assert ("msg_1", "1", "invoice_notification") == (
        shown["id"],
        shown["invoice_id"],
        shown["callback"],
    )
    assert (f"{ONE}/invoices/1", {"description": "Invoice paid", "paid": True}) == (
        shown["url"],
        shown["event"],
    )
    assert (START, START + 9 * SECOND, None) == (
        shown["created_at"],
        shown["due_at"],
        shown["settled_at"],
    )
    assert [1, 2] == [made["number"] for made in shown["attempts"]]
    first_made = shown["attempts"][0]
    assert (AttemptOutcome.REFUSED, 500, 12, START) == (
        first_made["outcome"],
        first_made["status_code"],
        first_made["duration_ms"],
        first_made["started_at"],
    )
    assert body == {name: first_made[name] for name in body}


async def test_many_attempts_are_listed_by_number(store):
    """The tenth attempt comes after the ninth, not after the first."""
    await add_delivery(store)
    for number in range(12):
        (delivery,) = await lease_deliveries(store, now=START + number * SECOND)
        await store.settle(failed(delivery, due_at=START + (number + 1) * SECOND))

    shown = await store.history.find_delivery("dev", "msg_1")

    assert list(range(1, 13)) == [made["number"] for made in shown["attempts"]]
    assert 12 == shown["attempt_count"]


@pytest.mark.parametrize(("account_id", "id_"), [("other", "msg_1"), ("dev", "msg_2"), ("dev", "")])
async def test_unknown_deliveries_and_those_of_others_are_not_found(store, account_id, id_):
    """A delivery of another account is not found, like one that does not exist."""
    await add_delivery(store)

    with pytest.raises(NotFound):
        await store.history.find_delivery(account_id, id_)


# Deliveries of an invoice


async def test_the_deliveries_of_an_invoice_are_newest_first(store):
    """All deliveries of one invoice are listed, the latest event first, and no others."""
    await add_two_events(store, "1")
    await add_delivery(store, "2")

    shown, _ = await store.history.deliveries_of("dev", "1")

    assert ["msg_1b", "msg_1a"] == [one["id"] for one in shown]
    assert [True, False] == [one["event"]["paid"] for one in shown]


async def test_an_invoice_without_deliveries_differs_from_an_unknown_one(store):
    """An invoice without deliveries has an empty list; an unknown invoice is not found."""
    await store.accept(an_invoice(origin=None))

    assert ([], None) == await store.history.deliveries_of("dev", "1")
    for account_id, id_ in (("dev", "2"), ("other", "1")):
        with pytest.raises(NotFound):
            await store.history.deliveries_of(account_id, id_)


# Lists


async def test_pages_go_from_the_newest_to_the_oldest(filled):
    """The cursors lead to every delivery once, and the last page has none."""
    assert (["msg_3", "msg_2"], "msg_2") == await page(filled, limit=2)
    assert (["msg_1", "msg_0"], None) == await page(filled, after="msg_2", limit=2)
    assert ([], None) == await page(filled, after="msg_0", limit=2)


@pytest.mark.parametrize(
    ("expected", "wanted"),
    [
        (["msg_3", "msg_2", "msg_1", "msg_0"], {}),
        (["msg_3", "msg_2"], {"status": "pending"}),
        (["msg_0"], {"status": "delivered"}),
        (["msg_1"], {"status": "dead"}),
        (["msg_2"], {"invoice_id": "2"}),
        ([], {"invoice_id": "9"}),
        (["msg_2", "msg_0"], {"origin": ONE}),
        ([], {"origin": "https://one.example"}),
        (["msg_3"], {"status": "pending", "origin": TWO, "since": START, "invoice_id": "3"}),
        ([], {"status": "dead", "origin": ONE}),
    ],
)
async def test_filters_restrict_the_list(filled, expected, wanted):
    """Each filter restricts the list, and of several ones all do."""
    assert (expected, None) == await page(filled, **wanted)


def id_at(instant):
    """The id of a delivery that was generated at *instant*."""
    return f"msg_{lower_bound(instant)}{0:020}"


@pytest.fixture
async def dated(store):
    """Four deliveries, a second apart, with the ids of their instants."""
    for number in range(4):
        at = START + number * SECOND
        await add_delivery(store, str(number), at=at, delivery_id=id_at(at))
    return store


@pytest.mark.parametrize(
    ("expected", "wanted"),
    [
        ([3, 2], {"since": START + 2 * SECOND}),
        ([1, 0], {"until": START + 2 * SECOND}),
        ([2], {"since": START + 2 * SECOND, "until": START + 3 * SECOND}),
        ([], {"since": START + 4 * SECOND}),
        ([], {"until": START}),
    ],
)
async def test_instants_restrict_the_list(dated, expected, wanted):
    """`since` is inclusive and `until` is exclusive."""
    ids = [id_at(START + number * SECOND) for number in expected]

    assert (ids, None) == await page(dated, **wanted)


@pytest.mark.parametrize("ahead", [timedelta(0), CLOCK_MARGIN - SECOND, SECOND - CLOCK_MARGIN])
async def test_an_id_may_be_of_another_instant_than_its_event(store, ahead):
    """A delivery is found by when its event happened, also if its id is minutes off."""
    await add_delivery(store, delivery_id=id_at(START + ahead))

    assert 1 == len((await page(store, since=START))[0])
    assert 1 == len((await page(store, until=START + SECOND))[0])
    assert ([], None) == await page(store, since=START + SECOND)
    assert ([], None) == await page(store, until=START)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize(
    "wanted",
    [
        {"until": START - timedelta(days=1)},
        {"since": START + timedelta(days=1)},
        {"until": datetime.min.replace(tzinfo=UTC)},
        {"since": datetime.max.replace(tzinfo=UTC)},
        {"until": START - timedelta(days=1), "status": "pending"},
    ],
)
async def test_an_instant_far_from_all_deliveries_is_one_page(dated, monkeypatch, wanted):
    """What lies before the first or behind the last delivery is not looked for among them."""
    monkeypatch.setattr(history, "SCAN_MAX", 1)

    assert ([], None) == await page(dated, **wanted)


async def test_filtered_lists_have_pages(filled):
    """The cursors of a filtered list lead through the filtered deliveries."""
    assert (["msg_3"], "msg_3") == await page(filled, status="pending", limit=1)
    assert (["msg_2"], None) == await page(filled, status="pending", after="msg_3", limit=1)


async def test_lists_contain_one_account(filled):
    """No filter and no cursor shows a delivery of another account."""
    assert (["msg_9"], None) == await page(filled, "other")
    assert ([], None) == await page(filled, "other", origin=TWO)
    assert ([], None) == await page(filled, "unknown")
    with pytest.raises(UnknownCursor):
        await page(filled, after="msg_9", limit=1)


async def test_lists_show_the_newest_attempt_without_its_body(filled):
    """A delivery in a list has the fields that it has by itself, but for its attempts."""
    rows, _ = await filled.history.list_deliveries("dev", DeliveryFilter(), after=None, limit=50)
    texts = {"response_body", "transmission", *UNKNOWN}

    for row in rows:
        shown = await filled.history.find_delivery("dev", row["id"])
        newest = [
            {name: value for name, value in made.items() if name not in texts}
            for made in shown["attempts"][-1:]
        ]
        assert {**shown, "attempts": newest} == row
    assert [0, 0, 1, 1] == [len(row["attempts"]) for row in rows]


@pytest.fixture
async def often_attempted(monkeypatch, store):
    """A delivery with five attempts; three are shown, and two of them with a body."""
    monkeypatch.setattr(history, "ATTEMPTS_MAX", 3)
    monkeypatch.setattr(history, "BODIES_MAX", 2)
    await add_delivery(store)
    for second in range(5):
        (leased,) = await lease_deliveries(store, now=START + second * SECOND)
        due_at = START + (second + 1) * SECOND
        await store.settle(replace(failed(leased, due_at=due_at), response_body=f"{second + 1}"))
    return store


async def test_only_the_newest_attempts_are_shown(often_attempted):
    """A delivery shows a limited number of attempts, the newest, and fewer bodies."""
    for shown in (
        await often_attempted.history.find_delivery("dev", "msg_1"),
        *(await often_attempted.history.deliveries_of("dev", "1"))[0],
    ):
        assert (5, [(3, None), (4, "4"), (5, "5")]) == (
            shown["attempt_count"],
            [(made["number"], made["response_body"]) for made in shown["attempts"]],
        )


async def test_only_the_newest_attempts_are_kept(often_attempted, database):
    """Of many attempts of a delivery, the newest are stored, and fewer bodies."""
    kept = sorted(await rows_of(database, attempts), key=lambda row: row["number"])

    assert [(3, None), (4, "4"), (5, "5")] == [
        (row["number"], row["response_body"]) for row in kept
    ]


async def test_a_list_shows_the_newest_of_many_attempts(often_attempted):
    """Of many attempts of a delivery, a list shows the last."""
    (shown,), _ = await often_attempted.history.list_deliveries(
        "dev", DeliveryFilter(), after=None, limit=9
    )

    assert (5, [5]) == (shown["attempt_count"], [made["number"] for made in shown["attempts"]])


async def test_the_deliveries_of_an_invoice_have_pages(store):
    """The cursors lead to every delivery of the invoice once."""
    await add_two_events(store, "1")
    await add_delivery(store, "2")

    (first,), cursor = await store.history.deliveries_of("dev", "1", limit=1)
    (second,), last = await store.history.deliveries_of("dev", "1", after=cursor, limit=1)

    assert ("msg_1b", "msg_1b", "msg_1a", None) == (first["id"], cursor, second["id"], last)
    with pytest.raises(UnknownCursor):
        await store.history.deliveries_of("dev", "1", after="msg_9")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_page_of_deliveries_with_long_answers_is_shorter(monkeypatch, store):
    """The deliveries of an invoice are added to a page until their attempts have much text."""
    monkeypatch.setattr(history, "PAGE_CHARACTERS", 1)
    await add_two_events(store, "1")
    (leased,) = await lease_deliveries(store)
    await store.settle(delivered(leased))
    (leased,) = await lease_deliveries(store)
    await store.settle(delivered(leased))

    (first,), cursor = await store.history.deliveries_of("dev", "1")
    (second,), last = await store.history.deliveries_of("dev", "1", after=cursor)

    assert ("msg_1b", "msg_1b", "msg_1a", None) == (first["id"], cursor, second["id"], last)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("wanted", [{"status": "delivered"}, {"origin": ONE}])
async def test_a_filter_looks_at_a_limited_number_of_deliveries(monkeypatch, filled, wanted):
    """A page ends after so many deliveries that do not match; its cursor leads on to the rest."""
    monkeypatch.setattr(history, "SCAN_MAX", 1)
    pages, after = [], None
    while not pages or after:
        ids, after = await page(filled, after=after, **wanted)
        pages.append(ids)

    assert [[], ["msg_0"]] == [pages[0], pages[3]]
    assert 5 == len(pages)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_an_instant_looks_at_a_limited_number_of_deliveries(monkeypatch, dated):
    """Among the deliveries whose ids are near an instant, a page ends like with other filters."""
    monkeypatch.setattr(history, "SCAN_MAX", 1)
    pages, after = [], None
    while not pages or after:
        ids, after = await page(dated, after=after, until=START + SECOND)
        pages.append(ids)

    assert [[], [id_at(START)]] == [pages[0], pages[3]]
    assert 5 == len(pages)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_dead_deliveries_are_found_among_many_others(monkeypatch, filled):
    """Other deliveries do not count among those that a filter for dead ones looks at."""
    monkeypatch.setattr(history, "SCAN_MAX", 2)

    assert (["msg_1"], None) == await page(filled, status="dead")


async def test_a_delivery_on_hold_shows_the_end_of_the_hold(store):
    """A delivery that waits for the hold of its origin is due at the end of the hold."""
    await add_delivery(store, "1")
    await add_delivery(store, "2")
    hold = START + 600 * SECOND
    first = (await lease_deliveries(store, limit=1))[0]
    await store.settle(failed(first, due_at=START + 5 * SECOND, held_until=hold))

    shown = [await store.history.find_delivery("dev", f"msg_{number}") for number in (1, 2)]

    assert [hold, hold] == [one["due_at"] for one in shown]
