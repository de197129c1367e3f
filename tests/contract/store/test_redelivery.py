import asyncio

import pytest

from service.domain.states import DeadReason, DeliveryStatus
from service.errors import NotFound
from service.storage import redelivery
from service.storage.history import DeliveryFilter
from tests.clock import PATIENCE_SECONDS, START
from tests.rows import (
    ONE,
    SECOND,
    TWO,
    add_delivery,
    add_two_events,
    delivered,
    failed,
    lease_deliveries,
    lease_delivery,
)

LATER = START + 100 * SECOND
DEAD = DeliveryFilter(status="dead")


async def kill(store, *, now=START):
    """Make every due delivery dead."""
    for delivery in await lease_deliveries(store, now=now):
        dead = failed(delivery, status=DeliveryStatus.DEAD, reason=DeadReason.GONE, at=now)
        assert await store.settle(dead)


@pytest.fixture
async def dead(store):
    """Five dead deliveries to two origins, a second apart, and one of another account."""
    for number in range(5):
        at = START + number * SECOND
        await add_delivery(store, str(number), origin=(ONE, TWO)[number % 2], at=at)
    await add_delivery(store, "9", account_id="other")
    await kill(store, now=START + 9 * SECOND)
    return store


async def redeliver_all(store, account_id="dev", wanted=DEAD, now=LATER):
    """Redeliver by filter, and return the number of redelivered deliveries."""
    return sum([count async for count in store.redeliver_all(account_id, wanted, now)])


async def pending(store, account_id="dev"):
    """The ids of the pending deliveries."""
    wanted = DeliveryFilter(status="pending")
    shown, _ = await store.history.list_deliveries(account_id, wanted, after=None, limit=200)
    return sorted(one["id"] for one in shown)


# One delivery


@pytest.mark.parametrize("end", [DeliveryStatus.DEAD, DeliveryStatus.DELIVERED])
async def test_a_settled_delivery_is_pending_again(store, end):
    """A redelivered delivery is due at once with a new schedule, and its old end is removed."""
    await add_delivery(store)
    first = await lease_delivery(store)
    ended = delivered(first) if end is DeliveryStatus.DELIVERED else failed(first, status=end)
    await store.settle(ended)

    shown, is_redelivered = await store.redeliver("dev", "msg_1", LATER)
    again = await lease_delivery(store, now=LATER)

    assert is_redelivered
    assert ("pending", LATER, None, None) == (
        shown["status"],
        shown["due_at"],
        shown["settled_at"],
        shown["reason"],
    )
    assert (first.id, first.body, first.url, 1, 0) == (
        again.id,
        again.body,
        again.url,
        again.attempt_count,
        again.failure_count,
    )


async def test_each_attempt_has_its_cause(store):
    """The causes are: event, then retry; after a redelivery: redelivery, then retry."""
    await add_delivery(store)
    causes = []
    for now, status in ((0, "pending"), (1, "dead"), (2, "pending"), (3, "dead")):
        if now == 2:
            await store.redeliver("dev", "msg_1", START + now * SECOND)
        delivery = await lease_delivery(store, now=START + now * SECOND)
        causes.append(delivery.cause)
        due_at = START + (now + 1) * SECOND if status == "pending" else None
        await store.settle(failed(delivery, status=DeliveryStatus(status), due_at=due_at))

    assert ["event", "retry", "redelivery", "retry"] == causes


async def test_the_attempt_after_a_lost_attempt_keeps_its_cause(store):
    """A lost attempt of a redelivery and the attempt that replaces it have the same cause."""
    await add_delivery(store)
    await store.settle(delivered(await lease_delivery(store)))
    await store.redeliver("dev", "msg_1", START)
    lost = await lease_delivery(store)
    again = await lease_delivery(store, now=lost.leased_until)

    shown = await store.history.find_delivery("dev", "msg_1")

    assert ["event", "redelivery"] == [attempt["cause"] for attempt in shown["attempts"]]
    assert "redelivery" == again.cause


async def test_a_delivery_in_progress_is_not_changed(store):
    """A redelivery of a leased delivery changes neither its instant nor its lease."""
    await add_delivery(store)
    leased = await lease_delivery(store)
    before = await store.history.find_delivery("dev", "msg_1")

    assert (before, False) == await store.redeliver("dev", "msg_1", START)
    assert await store.settle(delivered(leased))


async def test_an_unknown_delivery_is_not_redelivered(dead):
    """A delivery of another account is not found, like one that does not exist."""
    for id_ in ("msg_none", "msg_9"):
        with pytest.raises(NotFound):
            await dead.redeliver("dev", id_, LATER)

    assert [] == await pending(dead, "other")


async def test_a_redelivered_event_comes_before_later_ones(store):
    """A later pending event of the invoice waits for the redelivered event."""
    await add_two_events(store)
    await store.settle(delivered(await lease_delivery(store)))
    await store.redeliver("dev", "msg_1a", START)

    first = await lease_delivery(store)
    await store.settle(delivered(first))
    second = await lease_delivery(store)

    assert ["msg_1a", "msg_1b"] == [first.id, second.id]


# By filter


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["msg_0", "msg_1", "msg_2", "msg_3", "msg_4"]),
        ({"origin": ONE}, ["msg_0", "msg_2", "msg_4"]),
        ({"origin": "https://unknown.example:443"}, []),
        ({"since": START + 3 * SECOND}, ["msg_3", "msg_4"]),
        ({"until": START + 3 * SECOND}, ["msg_0", "msg_1", "msg_2"]),
        ({"origin": TWO, "since": START + SECOND, "until": START + 2 * SECOND}, ["msg_1"]),
    ],
)
@pytest.mark.parametrize("batch", [1, 2, 5, 500])
async def test_all_dead_deliveries_that_match_are_pending_again(
    monkeypatch, dead, batch, changes, expected
):
    """All matching deliveries of the account are redelivered once, in batches of any size."""
    monkeypatch.setattr(redelivery, "BATCH", batch)
    wanted = DeliveryFilter(status="dead", **changes)

    assert len(expected) == await redeliver_all(dead, wanted=wanted)
    assert expected == await pending(dead)
    assert [] == await pending(dead, "other")
    assert 0 == await redeliver_all(dead, wanted=wanted)


async def test_delivered_deliveries_are_not_redelivered_by_filter(store):
    """A filter redelivers dead deliveries only."""
    await add_delivery(store)
    await store.settle(delivered(await lease_delivery(store)))

    assert 0 == await redeliver_all(store, wanted=DEAD)
    assert [] == await lease_deliveries(store, now=LATER)


async def test_a_repeated_request_finishes_an_interrupted_redelivery(monkeypatch, dead, elsewhere):
    """The deliveries that were committed before stay pending, and the others follow."""
    monkeypatch.setattr(redelivery, "BATCH", 2)
    batch = redelivery.redeliver_batch

    # The first process ended after its first batch.
    await dead._write(batch, "dev", DEAD, LATER, after="")

    assert ["msg_0", "msg_1"] == await pending(elsewhere)
    assert 3 == await redeliver_all(elsewhere, wanted=DEAD)
    assert 5 == len(await lease_deliveries(elsewhere, now=LATER))


async def test_redelivery_wakes_the_dispatcher(dead):
    """The dispatcher finds redelivered deliveries without waiting for its next round."""
    dead.deliveries_due.clear()
    await redeliver_all(dead, wanted=DEAD)

    assert dead.deliveries_due.is_set()


async def test_filters_of_one_account_are_applied_one_at_a_time(monkeypatch, dead):
    """Concurrent requests wait for each other, and together redeliver each delivery once."""
    monkeypatch.setattr(redelivery, "BATCH", 1)

    counts = await asyncio.gather(*(redeliver_all(dead) for _ in range(4)))

    assert [0, 0, 0, 5] == sorted(counts)


async def test_filters_of_different_accounts_do_not_wait_for_each_other(monkeypatch, dead):
    """The filter of one account is applied while the filter of another account is not finished."""
    monkeypatch.setattr(redelivery, "BATCH", 1)
    first = dead.redeliver_all("dev", DEAD, LATER)
    await anext(first)

    async with asyncio.timeout(PATIENCE_SECONDS):
        assert 1 == await redeliver_all(dead, "other")
    assert 4 == sum([count async for count in first])
