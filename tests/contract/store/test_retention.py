from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain.delivery import OriginState
from service.domain.ids import lower_bound
from service.domain.states import DeliveryStatus
from service.errors import NotFound
from service.storage import retention
from service.storage.history import DeliveryFilter
from service.storage.retention import SweepPosition
from service.storage.tables import attempts, deliveries, events, invoices, origins, receivers
from tests.clock import START
from tests.rows import (
    ONE,
    SECOND,
    TWO,
    a_receiver,
    add_delivery,
    an_invoice,
    delivered,
    failed,
    lease_deliveries,
    lease_delivery,
    rows_of,
)

DAY = timedelta(days=1)


def id_at(instant, suffix="0"):
    """An id of a delivery that was created at *instant*."""
    return f"msg_{lower_bound(instant)}{suffix:0>20}"


async def add(store, instant, id_="1", **changes):
    """Add an invoice and the delivery of its event, both created at *instant*."""
    await add_delivery(store, id_, at=instant, delivery_id=id_at(instant, id_), **changes)


async def settle_all(store, now, status=DeliveryStatus.DELIVERED):
    """Settle every due delivery."""
    for delivery in await lease_deliveries(store, now=now):
        ended = delivered(delivery, at=now) if status == "delivered" else None
        assert await store.settle(ended or failed(delivery, status=status, at=now))


async def sweep(store, settled_before):
    """Do a whole sweep, and return how many deliveries each batch removed."""
    counts, place = [], SweepPosition()
    while place:
        swept = await store.sweep(place, settled_before)
        counts.append(swept.count)
        place = swept.next
    return counts


async def ids_of(database, table=deliveries, name="id"):
    """The remaining ids."""
    return [row[name] for row in await rows_of(database, table)]


@pytest.mark.parametrize("status", [DeliveryStatus.DELIVERED, DeliveryStatus.DEAD])
async def test_old_settled_deliveries_are_removed_with_their_attempts(store, database, status):
    """No row of the delivery remains; the invoice and its events stay."""
    await add(store, START)
    await settle_all(store, START, status)

    assert 1 == sum(await sweep(store, START + DAY))
    assert [] == await ids_of(database)
    assert [] == await ids_of(database, attempts, "delivery_id")
    assert 1 == len(await rows_of(database, events))
    assert ["1"] == await ids_of(database, invoices)
    with pytest.raises(NotFound):
        await store.history.find_delivery("dev", id_at(START, "1"))


async def test_a_pending_delivery_is_never_removed(store, database):
    """A pending delivery stays at any age, leased or not."""
    for id_ in ("1", "2"):
        await add(store, START, id_)
    await lease_deliveries(store, limit=1)

    assert 0 == sum(await sweep(store, START + 1000 * DAY))
    assert 2 == len(await ids_of(database))


async def test_a_delivery_that_was_settled_later_stays(store, database):
    """Retention counts from the settlement, not from the creation."""
    await add(store, START)
    await settle_all(store, START + DAY)

    assert 0 == sum(await sweep(store, START + DAY))
    assert 1 == sum(await sweep(store, START + DAY + SECOND))
    assert [] == await ids_of(database)


async def test_retention_of_a_redelivered_delivery_starts_again(store, database):
    """A redelivered delivery stays while pending; its retention counts from the new settlement."""
    await add(store, START)
    await settle_all(store, START)
    await store.redeliver("dev", id_at(START, "1"), START + 2 * DAY)

    assert 0 == sum(await sweep(store, START + 9 * DAY))
    await store.settle(delivered(await lease_delivery(store, now=START + 2 * DAY), at=START + DAY))
    assert 1 == sum(await sweep(store, START + 9 * DAY))
    assert [] == await ids_of(database, attempts, "delivery_id")


@pytest.mark.parametrize("batch", [1, 2, 3, 200])
async def test_a_sweep_covers_all_accounts(monkeypatch, store, database, batch):
    """A sweep removes the deliveries of all accounts, in batches of any size."""
    monkeypatch.setattr(retention, "BATCH", batch)
    for number, account_id in enumerate(("ann", "ann", "ben", "dev", "dev", "dev", "dev")):
        await add(store, START, str(number), account_id=account_id)
    kept = await lease_deliveries(store, limit=1)
    await settle_all(store, START)

    counts = await sweep(store, START + DAY)

    assert 7 - 3 == sum(counts)
    assert batch >= max(counts)
    assert sorted(one.id for one in kept) == sorted(await ids_of(database))


async def test_an_empty_sweep_ends(store):
    """A sweep of an empty store ends after one batch."""
    assert [0] == await sweep(store, START)


async def test_the_id_of_an_invoice_stays_used(store):
    """The invoice stays known after its delivery was removed, and is not collected again."""
    await add(store, START)
    await settle_all(store, START)
    await sweep(store, START + DAY)

    listed, _ = await store.history.list_deliveries("dev", DeliveryFilter(), after=None, limit=9)

    assert [] == listed
    assert "replayed" == (await store.accept(an_invoice("1", at=START + DAY))).value
    assert "paid" == (await store.history.find_invoice("dev", "1"))["status"]


@pytest.mark.parametrize("batch", [1, 200])
async def test_the_states_of_receivers_are_removed(monkeypatch, store, database, batch):
    """What was known of a receiver is removed once nothing of it is recent and nothing waits."""
    monkeypatch.setattr(retention, "BATCH", batch)
    for id_, path, seconds in (("1", "/a", 10), ("2", "/b", 20), ("3", "/c", 10)):
        await add_delivery(store, id_, path=path)
        delivery = await lease_delivery(store)
        until = START + seconds * SECOND
        status = DeliveryStatus.PENDING if path == "/c" else DeliveryStatus.DEAD
        await store.settle(failed(delivery, status=status, due_at=until, held_until=until))

    assert {1: 4, 200: 1}[batch] == await remove_states(store, "receivers", START + 11 * SECOND)
    assert [a_receiver(path="/b"), a_receiver(path="/c")] == await ids_of(
        database, receivers, "receiver"
    )


@pytest.mark.parametrize("batch", [1, 200])
async def test_the_states_of_origins_are_removed(monkeypatch, store, database, batch):
    """That no connection could be made is removed after the end of its cooldown."""
    monkeypatch.setattr(retention, "BATCH", batch)
    for id_, origin, seconds in (("1", ONE, 10), ("2", TWO, 20)):
        await add_delivery(store, id_, origin=origin)
        delivery = await lease_delivery(store)
        state = OriginState(origin, START + seconds * SECOND)
        await store.settle(replace(failed(delivery, due_at=START + 9 * DAY), origin_state=state))

    assert {1: 3, 200: 1}[batch] == await remove_states(store, "origins", START + 11 * SECOND)
    assert [TWO] == await ids_of(database, origins, "origin")


async def remove_states(store, kind, over_before):
    """Remove states to the end; returns the number of batches."""
    after, count = "", 0
    while after is not None:
        after, count = await store.remove_states(kind, after, over_before), count + 1
    return count
