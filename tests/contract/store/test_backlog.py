from functools import partial

import pytest

from service.domain.states import InvoiceStatus
from service.storage import backlog
from service.storage.backlog import Backlog
from service.storage.steps import LeaseRound
from tests.clock import START
from tests.rows import (
    LEASE,
    ONE,
    SECOND,
    THREE,
    TWO,
    a_step,
    add_delivery,
    add_two_events,
    an_event,
    an_invoice,
    delivered,
    failed,
    lease_deliveries,
    lease_delivery,
    lease_invoice,
    take_step,
)

NOTHING = Backlog(
    deliveries_due=0,
    deliveries_waiting=0,
    due_origins=0,
    oldest_due_delivery_age_seconds=0,
    collections_due=0,
    oldest_due_collection_age_seconds=0,
)
LATER = START + 60 * SECOND


def told(measured):
    """What a backlog says of deliveries: due, waiting, origins, age of the oldest."""
    return (
        measured.deliveries_due,
        measured.deliveries_waiting,
        measured.due_origins,
        measured.oldest_due_delivery_age_seconds,
    )


async def test_an_empty_store_has_no_backlog(store):
    """Where nothing waits, all figures are 0."""
    assert NOTHING == await store.backlog(START)


async def test_what_is_due_is_counted_with_its_origins_and_the_age_of_the_oldest(store):
    """Deliveries that anybody could attempt now are due, since the first of them was."""
    for number, origin in enumerate((ONE, ONE, TWO)):
        await add_delivery(store, f"{number}", origin=origin, at=START + number * SECOND)

    assert (3, 0, 2, 60) == told(await store.backlog(LATER))


async def test_what_becomes_due_later_waits(store):
    """A delivery that has failed waits until its next attempt is due."""
    await add_delivery(store)
    delivery = await lease_delivery(store)
    await store.settle(failed(delivery, due_at=LATER))

    assert (0, 1, 0, 0) == told(await store.backlog(LATER - SECOND))
    assert (1, 0, 1, 0) == told(await store.backlog(LATER))


async def test_what_is_leased_is_neither(store):
    """What is in somebody's hands is no backlog, until the lease has run out."""
    await add_delivery(store)
    await lease_delivery(store, until=START + LEASE)

    assert (0, 0, 0, 0) == told(await store.backlog(START + LEASE - SECOND))
    assert (1, 0, 1, LEASE.total_seconds()) == told(await store.backlog(START + LEASE))


async def test_what_is_settled_is_neither(store):
    """A delivery that has arrived is no backlog."""
    await add_delivery(store)
    await store.settle(delivered(await lease_delivery(store)))

    assert NOTHING == await store.backlog(LATER)


async def test_an_origin_that_is_held_has_nothing_due(store):
    """What waits because its receiver asked for that is not late."""
    await add_delivery(store, "1")
    await add_delivery(store, "2")
    first, second = await lease_deliveries(store)
    await store.settle(failed(first, due_at=START, held_until=LATER))
    await store.release(second)

    assert (0, 2, 0, 0) == told(await store.backlog(LATER - SECOND))
    assert (2, 0, 1, 60) == told(await store.backlog(LATER))


async def test_a_later_event_of_an_invoice_is_not_due_before_the_earlier_one(store):
    """What nobody may attempt yet makes nothing look late."""
    await add_two_events(store)
    await store.settle(failed(await lease_delivery(store), due_at=LATER))

    assert (0, 1, 0, 0) == told(await store.backlog(LATER - SECOND))
    assert (1, 0, 1, 0) == told(await store.backlog(LATER))


async def test_what_is_leased_at_an_origin_that_is_held_is_neither(store):
    """A receiver may ask for a rest while others of its deliveries are in somebody's hands."""
    await add_delivery(store, "1")
    await add_delivery(store, "2")
    first, _ = await lease_deliveries(store, until=START + LEASE)
    await store.settle(failed(first, due_at=START, held_until=LATER))

    assert (0, 1, 0, 0) == told(await store.backlog(START + LEASE - SECOND))
    assert (0, 2, 0, 0) == told(await store.backlog(START + LEASE))


async def test_a_later_event_of_an_invoice_is_not_waiting_at_an_origin_that_is_held(store):
    """Of an invoice that waits because its receiver asked for that, one delivery does."""
    await add_two_events(store)
    held = failed(await lease_delivery(store), due_at=START, held_until=LATER)
    await store.settle(held)

    assert (0, 1, 0, 0) == told(await store.backlog(LATER - SECOND))
    assert (1, 0, 1, 60) == told(await store.backlog(LATER))


async def test_a_later_event_that_has_failed_waits_for_an_earlier_one_that_was_redelivered(store):
    """Whose turn comes only with an earlier delivery is not among what comes by itself."""
    await add_two_events(store)
    first = await lease_delivery(store)
    await store.settle(delivered(first))
    await store.settle(failed(await lease_delivery(store), due_at=LATER))
    await store.redeliver(first.account_id, first.id, START)

    assert (1, 0, 1, 0) == told(await store.backlog(START))


async def test_collections_are_due_until_they_are_leased_or_over(store):
    """Invoices that anybody could go on collecting are counted, with the age of the oldest."""
    for number in range(3):
        await store.accept(an_invoice(f"{number}", at=START + number * SECOND))

    measured = await store.backlog(LATER)

    assert (3, 60) == (measured.collections_due, measured.oldest_due_collection_age_seconds)

    first, *_ = (await store.lease_invoices(LeaseRound(LATER, LATER + LEASE, 2))).invoices
    await take_step(store, a_step(first, event=an_event(at=LATER)))
    measured = await store.backlog(LATER)

    assert (1, 58) == (measured.collections_due, measured.oldest_due_collection_age_seconds)


async def test_an_invoice_that_waits_in_its_collection_is_not_due(store):
    """Money takes its time: what is to be looked at later is not late."""
    await store.accept(an_invoice())
    invoice = await lease_invoice(store)
    await take_step(store, a_step(invoice, InvoiceStatus.SENT, due_at=LATER))

    assert NOTHING == await store.backlog(LATER - SECOND)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_counting_ends_at_a_bound(store, database):
    """However much waits, no more than so many are counted; the oldest is found all the same."""
    for number, origin in enumerate((THREE, TWO, ONE)):
        await add_delivery(store, f"{number}", origin=origin, at=START + number * SECOND)

    assert (2, 0, 3, 60) == told(
        await database.read(partial(backlog.measure, now=LATER, counted_max=2))
    )
    assert (1, 0, 1, 58) == told(
        await database.read(partial(backlog.measure, now=LATER, origins_max=1))
    )
