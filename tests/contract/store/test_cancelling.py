"""A delivery that was cancelled is dead, whatever its lease was."""

from __future__ import annotations

import pytest

from service.domain.states import DeadReason, DeliveryStatus
from service.errors import NotFound
from service.storage.history import DeliveryFilter
from tests.clock import START
from tests.rows import (
    LEASE,
    SECOND,
    add_delivery,
    add_two_events,
    delivered,
    failed,
    lease_deliveries,
    lease_delivery,
    waiting_receivers,
)


async def cancel(store, delivery_id="msg_1", now=START):
    """Cancel a delivery; returns it, and whether it was changed."""
    return await store.cancel("dev", delivery_id, now)


async def test_a_pending_delivery_is_dead_at_once(store):
    """It is dead with the reason `cancelled`, waits for nothing and is never leased."""
    await add_delivery(store)

    shown, is_cancelled = await cancel(store, now=START + SECOND)

    assert is_cancelled
    assert ("dead", "cancelled", None, START + SECOND) == (
        shown["status"],
        shown["reason"],
        shown["due_at"],
        shown["settled_at"],
    )
    assert [] == shown["attempts"]
    assert [] == await waiting_receivers(store)
    assert [] == await lease_deliveries(store, now=START + LEASE)


async def test_a_second_request_changes_nothing(store):
    """Cancelling once more gives the same delivery."""
    await add_delivery(store)
    first, _ = await cancel(store)

    assert (first, False) == await cancel(store, now=START + LEASE)


async def test_an_attempt_in_progress_changes_nothing(store):
    """The lease ends: whatever the attempt comes to, it is not recorded, and stands as lost."""
    await add_delivery(store)
    leased = await lease_delivery(store)

    await cancel(store, now=START + SECOND)

    assert not await store.settle(delivered(leased))
    assert not await store.release(leased)
    shown = await store.history.find_delivery("dev", "msg_1")
    assert ("dead", "cancelled", 1) == (shown["status"], shown["reason"], shown["attempt_count"])
    (attempt,) = shown["attempts"]
    assert (1, "lost", START + SECOND) == (
        attempt["number"],
        attempt["outcome"],
        attempt["started_at"],
    )
    assert "cancelled during this attempt" in attempt["detail"]


async def test_a_lost_attempt_keeps_its_own_detail(store):
    """If the lease had run out before, the attempt was lost with its process."""
    await add_delivery(store)
    await lease_delivery(store)

    shown, _ = await cancel(store, now=START + 2 * LEASE)

    (attempt,) = shown["attempts"]
    assert (START + LEASE, "lost") == (attempt["started_at"], attempt["outcome"])
    assert "process" in attempt["detail"]


async def test_later_events_go_on(store, elsewhere):
    """The next event of the invoice is due at once, and other processes are told."""
    await add_two_events(store)
    elsewhere.deliveries_due.clear()
    store.deliveries_due.clear()

    await cancel(store, "msg_1a")

    assert store.deliveries_due.is_set()
    assert ["msg_1b"] == [one.id for one in await lease_deliveries(store)]


@pytest.mark.parametrize("end", [DeliveryStatus.DELIVERED, DeliveryStatus.DEAD])
async def test_an_ended_delivery_stays_as_it_is(store, end):
    """What is delivered, or dead for another reason, cannot be cancelled."""
    await add_delivery(store)
    leased = await lease_delivery(store)
    is_dead = end is DeliveryStatus.DEAD
    dead = failed(leased, status=DeliveryStatus.DEAD, reason=DeadReason.GONE)
    await store.settle(dead if is_dead else delivered(leased))
    before = await store.history.find_delivery("dev", "msg_1")

    assert (before, False) == await cancel(store)


@pytest.mark.parametrize(("account_id", "id_"), [("other", "msg_1"), ("dev", "msg_2")])
async def test_unknown_deliveries_and_those_of_others_are_not_found(store, account_id, id_):
    """A delivery of another account is not found, and not changed."""
    await add_delivery(store)

    with pytest.raises(NotFound):
        await store.cancel(account_id, id_, START)
    assert "pending" == (await store.history.find_delivery("dev", "msg_1"))["status"]


async def test_a_cancelled_delivery_can_be_redelivered(store):
    """Redelivery makes it pending; the numbers of its attempts go on after the lost one."""
    await add_delivery(store)
    await lease_delivery(store)
    await cancel(store, now=START + SECOND)

    shown, is_changed = await store.redeliver("dev", "msg_1", START + SECOND)
    leased = await lease_delivery(store, now=START + SECOND)

    assert (True, "pending", None) == (is_changed, shown["status"], shown["reason"])
    assert await store.settle(delivered(leased))
    shown = await store.history.find_delivery("dev", "msg_1")
    assert [(1, "lost"), (2, "delivered")] == [
        (one["number"], one["outcome"]) for one in shown["attempts"]
    ]


async def test_a_filter_redelivers_nothing_that_was_cancelled(store):
    """Redelivering all that are dead leaves out what was cancelled by hand."""
    await add_delivery(store, "1")
    await add_delivery(store, "2")
    await cancel(store)
    leased = await lease_delivery(store)
    await store.settle(failed(leased, status=DeliveryStatus.DEAD))

    counts = [
        count async for count in store.redeliver_all("dev", DeliveryFilter(status="dead"), START)
    ]

    assert 1 == sum(counts)
    assert "cancelled" == (await store.history.find_delivery("dev", "msg_1"))["reason"]
    assert "pending" == (await store.history.find_delivery("dev", "msg_2"))["status"]


async def test_a_cancelled_delivery_is_not_counted_as_open(store):
    """It no longer counts among the pending deliveries of its account."""
    await add_delivery(store)
    await cancel(store)

    assert 0 == await store.history.count_open("dev", 9)
