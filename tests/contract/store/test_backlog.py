from functools import partial

import pytest

from service.domain.states import InvoiceStatus
from service.storage import backlog
from service.storage.backlog import Backlog
from service.storage.leases import LeaseRound
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
    due_receivers=0,
    oldest_due_delivery_age_seconds=0,
    collections_due=0,
    oldest_due_collection_age_seconds=0,
    oldest_unanswered_payment_age_seconds=0,
    mails_due=0,
    oldest_due_mail_age_seconds=0,
)
LATER = START + 60 * SECOND


def delivery_figures(measured):
    """The figures of deliveries in a backlog: due, waiting, origins, age of the oldest."""
    return (
        measured.deliveries_due,
        measured.deliveries_waiting,
        measured.due_receivers,
        measured.oldest_due_delivery_age_seconds,
    )


async def test_an_empty_store_has_no_backlog(store):
    """In an empty store all figures are 0."""
    assert NOTHING == await store.backlog(START)


async def test_due_deliveries_are_counted_with_their_origins_and_the_oldest_age(store):
    """Due deliveries are counted with their origins; the age is that of the oldest."""
    for number, origin in enumerate((ONE, ONE, TWO)):
        await add_delivery(store, f"{number}", origin=origin, at=START + number * SECOND)

    assert (3, 0, 2, 60) == delivery_figures(await store.backlog(LATER))


async def test_a_delivery_that_is_due_later_is_waiting(store):
    """A failed delivery is waiting until its next attempt is due."""
    await add_delivery(store)
    delivery = await lease_delivery(store)
    await store.settle(failed(delivery, due_at=LATER))

    assert (0, 1, 0, 0) == delivery_figures(await store.backlog(LATER - SECOND))
    assert (1, 0, 1, 0) == delivery_figures(await store.backlog(LATER))


async def test_a_leased_delivery_is_not_counted(store):
    """A leased delivery is neither due nor waiting until its lease has run out."""
    await add_delivery(store)
    await lease_delivery(store, until=START + LEASE)

    assert (0, 0, 0, 0) == delivery_figures(await store.backlog(START + LEASE - SECOND))
    assert (1, 0, 1, LEASE.total_seconds()) == delivery_figures(await store.backlog(START + LEASE))


async def test_a_settled_delivery_is_not_counted(store):
    """A delivered delivery is neither due nor waiting."""
    await add_delivery(store)
    await store.settle(delivered(await lease_delivery(store)))

    assert NOTHING == await store.backlog(LATER)


async def test_an_origin_on_hold_has_no_due_deliveries(store):
    """Deliveries that wait for the hold of their receiver are not due."""
    await add_delivery(store, "1")
    await add_delivery(store, "2")
    first, second = await lease_deliveries(store)
    await store.settle(failed(first, due_at=START, held_until=LATER))
    await store.release(second)

    assert (0, 2, 0, 0) == delivery_figures(await store.backlog(LATER - SECOND))
    assert (2, 0, 1, 60) == delivery_figures(await store.backlog(LATER))


async def test_a_later_event_is_not_due_before_the_earlier_event(store):
    """A delivery that must wait for an earlier event does not raise the age of the backlog."""
    await add_two_events(store)
    await store.settle(failed(await lease_delivery(store), due_at=LATER))

    assert (0, 1, 0, 0) == delivery_figures(await store.backlog(LATER - SECOND))
    assert (1, 0, 1, 0) == delivery_figures(await store.backlog(LATER))


async def test_a_leased_delivery_of_an_origin_on_hold_is_not_counted(store):
    """A receiver may ask for a hold while others of its deliveries are leased."""
    await add_delivery(store, "1")
    await add_delivery(store, "2")
    first, _ = await lease_deliveries(store, until=START + LEASE)
    await store.settle(failed(first, due_at=START, held_until=LATER))

    assert (0, 1, 0, 0) == delivery_figures(await store.backlog(START + LEASE - SECOND))
    assert (0, 2, 0, 0) == delivery_figures(await store.backlog(START + LEASE))


async def test_a_later_event_of_an_origin_on_hold_is_not_waiting(store):
    """Of an invoice whose origin is on hold, only the first pending delivery is waiting."""
    await add_two_events(store)
    held = failed(await lease_delivery(store), due_at=START, held_until=LATER)
    await store.settle(held)

    assert (0, 1, 0, 0) == delivery_figures(await store.backlog(LATER - SECOND))
    assert (1, 0, 1, 60) == delivery_figures(await store.backlog(LATER))


async def test_a_failed_later_event_is_not_waiting_while_an_earlier_event_is_pending(store):
    """A delivery that waits for a redelivered earlier event is not counted as waiting."""
    await add_two_events(store)
    first = await lease_delivery(store)
    await store.settle(delivered(first))
    await store.settle(failed(await lease_delivery(store), due_at=LATER))
    await store.redeliver(first.account_id, first.id, START)

    assert (1, 0, 1, 0) == delivery_figures(await store.backlog(START))


async def test_collections_are_due_until_they_are_leased_or_finished(store):
    """Due invoices are counted, with the age of the oldest."""
    for number in range(3):
        await store.accept(an_invoice(f"{number}", at=START + number * SECOND))

    measured = await store.backlog(LATER)

    assert (3, 60) == (measured.collections_due, measured.oldest_due_collection_age_seconds)

    first, *_ = (await store.lease_invoices(LeaseRound(LATER, LATER + LEASE, 2))).invoices
    await take_step(store, a_step(first, event=an_event(at=LATER)))
    measured = await store.backlog(LATER)

    assert (1, 58) == (measured.collections_due, measured.oldest_due_collection_age_seconds)


async def test_an_invoice_that_waits_for_its_collection_is_not_due(store):
    """A sent invoice is not due before its next step is due."""
    await store.accept(an_invoice())
    invoice = await lease_invoice(store)
    await take_step(store, a_step(invoice, InvoiceStatus.SENT, due_at=LATER))

    assert NOTHING == await store.backlog(LATER - SECOND)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_counting_stops_at_a_limit(store, database):
    """No more than the limit of deliveries are counted; the oldest age is exact all the same."""
    for number, origin in enumerate((THREE, TWO, ONE)):
        await add_delivery(store, f"{number}", origin=origin, at=START + number * SECOND)

    assert (2, 0, 3, 60) == delivery_figures(
        await database.read(partial(backlog.measure, now=LATER, counted_max=2))
    )
    assert (1, 0, 1, 58) == delivery_figures(
        await database.read(partial(backlog.measure, now=LATER, receivers_max=1))
    )


async def test_pending_deliveries_of_an_account_are_counted(store):
    """The pending deliveries of one account are counted, up to a number."""
    for number in range(4):
        await add_delivery(store, str(number))
    await add_delivery(store, "9", account_id="other")
    (leased, *_) = await lease_deliveries(store)
    await store.settle(delivered(leased))

    assert (3, 2) == (
        await store.history.count_open("dev", 9),
        await store.history.count_open("dev", 2),
    )
    assert 0 == await store.history.count_open("unknown", 9)
