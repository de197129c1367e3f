import asyncio

import pytest

from service.domain.states import InvoiceStatus
from service.storage.invoices import Acceptance
from service.storage.settlements import AttemptOutcome
from service.storage.tables import deliveries, invoices
from tests.clock import START
from tests.rows import (
    LEASE,
    ONE,
    a_step,
    add_delivery,
    an_event,
    an_invoice,
    failed,
    lease_deliveries,
    lease_delivery,
    lease_invoice,
    rows_of,
)


class FakeLoop:
    """Takes what is born leased, as long as there is room."""

    def __init__(self):
        self.has_room = True
        self.reserved = []
        self.cancelled = []
        self.started = []

    def reserve(self, origin):
        """Room until the lease of the tests runs out."""
        if not self.has_room:
            return None
        self.reserved.append(origin)
        return START + LEASE

    def cancel(self, origin):
        """Keep what was given back."""
        self.cancelled.append(origin)

    def start(self, row):
        """Keep what was handed over."""
        self.started.append(row)


@pytest.fixture
def loop(store):
    """A loop that takes invoices and deliveries."""
    loop = FakeLoop()
    store.to_collection.connect(loop)
    store.to_dispatcher.connect(loop)
    return loop


@pytest.fixture
def paying(store):
    """Accepts an invoice as if there were no loop, and leases it."""

    async def accept(id_="1"):
        store.to_collection.connect(None)
        await store.accept(an_invoice(id_))
        return await lease_invoice(store)

    return accept


async def test_an_accepted_invoice_is_handed_over_as_it_would_be_leased(store, loop):
    """What the loop gets is what it would have read, and the lease is in the database."""
    invoice = an_invoice(customer_email="richie@example.com")

    assert Acceptance.STORED is await store.accept(invoice)

    (handed_over,) = loop.started
    assert not store.invoices_due.is_set()
    leased = await lease_invoice(store, now=START + LEASE)
    assert leased.lease_token == handed_over.lease_token + 1
    for name in type(leased).__dataclass_fields__:
        if name != "lease_token":
            assert getattr(leased, name) == getattr(handed_over, name)


async def test_an_invoice_without_room_waits_in_the_database(store, loop, database):
    """Where there is no room, the invoice is free, and whoever collects is told."""
    loop.has_room = False

    await store.accept(an_invoice())

    (row,) = await rows_of(database, invoices)
    assert (None, 0) == (row["leased_until"], row["lease_token"])
    assert store.invoices_due.is_set()
    assert [] == loop.started


@pytest.mark.parametrize("title", [None, "Another"])
async def test_an_invoice_that_is_not_stored_gives_its_room_back(store, loop, title):
    """A replay and a conflict are handed to nobody."""
    await store.accept(an_invoice())

    await store.accept(an_invoice(title=title))

    assert (1, 1) == (len(loop.started), len(loop.cancelled))


async def test_an_invoice_that_cannot_be_written_gives_its_room_back(store, loop):
    """A failure of the database does not use up the loop's room."""
    with pytest.raises(Exception, match="customer"):
        await store.accept(an_invoice(customer=None))

    assert (0, 1) == (len(loop.started), len(loop.cancelled))


async def test_a_delivery_is_handed_over_as_it_would_be_leased(store, loop, paying):
    """What the dispatcher gets is what it would have read, and the lease is in the database."""
    invoice = await paying()

    await store.take_step(a_step(invoice, event=an_event()))

    (handed_over,) = loop.started
    assert [ONE] == loop.reserved
    assert not store.deliveries_due.is_set()
    assert [] == await lease_deliveries(store)
    leased = await lease_delivery(store, now=START + LEASE)
    for name in set(type(leased).__dataclass_fields__) - {
        "lease_token",
        "leased_until",
        "attempt_count",
    }:
        assert getattr(leased, name) == getattr(handed_over, name)
    assert (START + LEASE, leased.lease_token - 1) == (
        handed_over.leased_until,
        handed_over.lease_token,
    )
    told = await store.find_delivery("dev", "msg_1")
    assert [AttemptOutcome.LOST] == [attempt["outcome"] for attempt in told["attempts"]]


async def test_a_delivery_that_was_handed_over_can_be_settled(store, loop, paying):
    """The lease that a delivery was born with is a lease like any other."""
    await store.take_step(a_step(await paying(), event=an_event()))

    assert await store.settle(failed(loop.started[0], due_at=START + LEASE))
    assert (1, 1) == (
        (again := await lease_delivery(store, now=START + LEASE)).attempt_count,
        again.failure_count,
    )


async def test_a_delivery_to_a_held_origin_is_not_handed_over(store, loop, paying, database):
    """An origin that asked to be left alone gets nothing by this way either."""
    store.to_dispatcher.connect(None)
    store.to_collection.connect(None)
    await add_delivery(store, "first")
    hold = START + 2 * LEASE
    await store.settle(failed(await lease_delivery(store), due_at=hold, held_until=hold))
    store.to_dispatcher.connect(loop)

    await store.take_step(a_step(await paying(), event=an_event()))

    assert ([], [ONE]) == (loop.started, loop.cancelled)
    assert [None, None] == [row["leased_until"] for row in await rows_of(database, deliveries)]
    assert [] == await lease_deliveries(store)


async def test_a_second_event_is_not_handed_over(store, loop, paying):
    """An event that may have to wait for an earlier one is left to the database."""
    invoice = await paying()
    sent = an_event("Invoice sent", paid=False, delivery_id="msg_1")
    await store.take_step(a_step(invoice, InvoiceStatus.SENT, due_at=START, event=sent))
    invoice = await lease_invoice(store)

    await store.take_step(a_step(invoice, event=an_event(delivery_id="msg_2")))

    assert ["msg_1"] == [delivery.id for delivery in loop.started]
    assert store.deliveries_due.is_set()


async def test_a_stale_step_hands_nothing_over(store, loop, paying):
    """Of two holders that write in one transaction, only the rightful one starts an attempt."""
    stale = await paying()
    held = await lease_invoice(store, now=START + LEASE)

    given = await asyncio.gather(
        store.take_step(a_step(stale, event=an_event(delivery_id="msg_stale"))),
        store.take_step(a_step(held, event=an_event(delivery_id="msg_held"))),
    )

    assert [False, True] == given
    assert ["msg_held"] == [delivery.id for delivery in loop.started]
    assert [ONE] == loop.cancelled


async def test_without_a_loop_everything_waits_in_the_database(store):
    """A process that only accepts leaves the rest to others."""
    await add_delivery(store)

    assert store.invoices_due.is_set()
    assert store.deliveries_due.is_set()
    assert "msg_1" == (await lease_delivery(store)).id
