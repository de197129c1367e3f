import asyncio
from dataclasses import replace

import pytest

from service.domain.outcomes import AttemptOutcome
from service.domain.states import Acceptance, InvoiceStatus
from service.storage.tables import deliveries, events, invoices
from tests.clock import START
from tests.rows import (
    LEASE,
    ONE,
    a_callback,
    a_delivery,
    a_step,
    add_delivery,
    an_event,
    an_invoice,
    delivered,
    failed,
    lease_deliveries,
    lease_delivery,
    lease_invoice,
    rows_of,
)

UNTIL = START + LEASE


@pytest.fixture
def paying(store):
    """Accepts an invoice without a lease, then leases it."""

    async def accept(id_="1", **changes):
        await store.accept(an_invoice(id_, **changes))
        return await lease_invoice(store)

    return accept


async def leased_by_step(store, step):
    """The deliveries that *step* commits leased."""
    inserted = await store.take_step(step, [a_delivery(step, leased_until=UNTIL)])
    return [one for one in inserted or () if one.leased_until]


async def test_an_invoice_that_is_committed_leased_equals_a_leased_one(store):
    """The accepted value equals the value that a lease round reads, and the lease is stored."""
    invoice = an_invoice(customer_email="richie@example.com")

    assert Acceptance.STORED is await store.accept(invoice, UNTIL)

    assert not store.invoices_due.is_set()
    leased = await lease_invoice(store, now=UNTIL)
    assert replace(invoice, lease_token=invoice.lease_token + 1) == leased


async def test_an_invoice_without_a_lease_is_due(store, database):
    """Without *leased_until* the row can be leased, and the loops are woken."""
    await store.accept(an_invoice(), None)

    (row,) = await rows_of(database, invoices)
    assert (None, 0) == (row["leased_until"], row["lease_token"])
    assert store.invoices_due.is_set()


async def test_a_delivery_that_is_committed_leased_equals_a_leased_one(store, paying):
    """The inserted value equals the value that a lease round reads, and the lease is stored."""
    (inserted,) = await leased_by_step(store, a_step(await paying(), event=an_event()))

    assert not store.deliveries_due.is_set()
    assert [] == await lease_deliveries(store)
    leased = await lease_delivery(store, now=UNTIL)
    changes = {"lease_token": leased.lease_token, "leased_until": leased.leased_until}
    assert replace(inserted, attempt_count=1, **changes) == leased
    assert (UNTIL, leased.lease_token - 1) == (inserted.leased_until, inserted.lease_token)
    found = await store.history.find_delivery("dev", "msg_1")
    assert [AttemptOutcome.LOST] == [attempt["outcome"] for attempt in found["attempts"]]


async def test_a_delivery_that_was_committed_leased_can_be_settled(store, paying):
    """The lease of a delivery that is committed leased settles like any other lease."""
    (inserted,) = await leased_by_step(store, a_step(await paying(), event=an_event()))

    assert await store.settle(failed(inserted, due_at=UNTIL))
    again = await lease_delivery(store, now=UNTIL)
    assert (1, 1) == (again.attempt_count, again.failure_count)


async def test_a_delivery_to_an_origin_on_hold_is_committed_unleased(store, paying, database):
    """A delivery to an origin on hold is not attempted at once."""
    await add_delivery(store, "first")
    hold = START + 2 * LEASE
    await store.settle(failed(await lease_delivery(store), due_at=hold, held_until=hold))

    assert [] == await leased_by_step(store, a_step(await paying(), event=an_event()))

    assert [None, None] == [row["leased_until"] for row in await rows_of(database, deliveries)]
    assert [] == await lease_deliveries(store)
    assert store.deliveries_due.is_set()


async def test_a_stale_step_leases_nothing(store, paying):
    """Of two steps in one transaction, only the one with the valid lease starts an attempt."""
    stale = await paying()
    held = await lease_invoice(store, now=UNTIL)

    results = await asyncio.gather(
        leased_by_step(store, a_step(stale, event=an_event(delivery_id="msg_stale"))),
        leased_by_step(store, a_step(held, event=an_event(delivery_id="msg_held"))),
    )

    assert [[], ["msg_held"]] == [[one.id for one in leased] for leased in results]


# Invoices with their first steps


async def begun(store, id_="1", *, number=1, **changes):
    """Accept an invoice with the step that pays it."""
    step = a_step(an_invoice(id_, **changes), event=an_event(delivery_id=f"msg_{number}"))
    return await store.accept_begun(step, [a_delivery(step, leased_until=UNTIL)])


async def test_an_invoice_is_stored_as_its_first_step_leaves_it(store, database):
    """The invoice has no lease, its event is stored, and its delivery is leased."""
    acceptance, (inserted,) = await begun(store)

    assert (Acceptance.STORED, UNTIL) == (acceptance, inserted.leased_until)
    assert not store.deliveries_due.is_set()
    assert not store.invoices_due.is_set()
    found = await store.history.find_invoice("dev", "1")
    assert (InvoiceStatus.PAID, ["Invoice paid"]) == (
        found["status"],
        [event["description"] for event in found["events"]],
    )
    (row,) = await rows_of(database, invoices)
    assert (None, None, 0, 1) == tuple(
        row[name] for name in ("due_at", "leased_until", "lease_token", "event_count")
    )
    assert await store.settle(delivered(inserted))


async def test_a_first_step_may_be_followed_by_others(store):
    """An invoice whose collection goes on is due then, and its step has the next number."""
    step = a_step(an_invoice(), InvoiceStatus.SENT, due_at=UNTIL)

    assert (Acceptance.STORED, []) == await store.accept_begun(step, [])

    assert store.invoices_due.is_set()
    following = await lease_invoice(store, now=UNTIL)
    assert (InvoiceStatus.SENT, 0) == (following.status, following.event_count)
    assert [] == await store.take_step(a_step(following, event=an_event()), [])


async def test_of_a_known_id_no_step_is_stored(store, database):
    """A replay and a conflict write neither event nor delivery, also beside new invoices."""
    await begun(store)

    found = await asyncio.gather(
        begun(store, number=2), begun(store, number=3, title="Another"), begun(store, "4", number=4)
    )

    assert [Acceptance.REPLAYED, Acceptance.CONFLICT, Acceptance.STORED] == [
        one[0] for one in found
    ]
    assert ["msg_1", "msg_4"] == sorted(row["id"] for row in await rows_of(database, deliveries))
    assert 2 == len(await rows_of(database, events))


async def test_of_two_invoices_with_one_id_that_come_together_one_is_stored(store, database):
    """The other one is a replay, without an event."""
    found = await asyncio.gather(*(begun(store, number=number) for number in (1, 2)))

    kinds = sorted(acceptance for acceptance, _ in found)
    assert sorted([Acceptance.STORED, Acceptance.REPLAYED]) == kinds
    assert 1 == len(await rows_of(database, deliveries))


async def test_the_first_delivery_to_a_receiver_on_hold_is_committed_unleased(store, database):
    """A delivery to a receiver on hold is not attempted at once."""
    _, (delivery,) = await begun(store)
    hold = START + 2 * LEASE
    await store.settle(failed(delivery, due_at=hold, held_until=hold))

    _, (inserted,) = await begun(store, "2", number=2)

    assert None is inserted.leased_until
    assert {None} == {row["leased_until"] for row in await rows_of(database, deliveries)}
    assert store.deliveries_due.is_set()


# Events beside the collection


async def test_an_event_is_recorded_without_a_lease(store, paying, database):
    """An event is stored with its delivery while another one holds the lease; the state stays."""
    invoice = await paying()

    (inserted,) = await store.report(
        step := a_step(invoice, None, event=an_event("Reminder sent", paid=False)),
        [a_delivery(step, leased_until=UNTIL)],
    )

    assert UNTIL == inserted.leased_until
    found = await store.history.find_invoice("dev", "1")
    assert (InvoiceStatus.RECEIVED, ["Reminder sent"]) == (
        found["status"],
        [event["description"] for event in found["events"]],
    )
    (row,) = await rows_of(database, deliveries)
    assert 1 == row["sequence"]


async def test_an_event_ends_the_lease_of_a_step(store, paying):
    """Two events never get the same number: the collector must lease the invoice again."""
    invoice = await paying()
    step = a_step(invoice, None, event=an_event("Reminder sent", paid=False))
    await store.report(step, [])

    assert None is await store.take_step(a_step(invoice, event=an_event()), [])
    assert store.invoices_due.is_set()
    again = await lease_invoice(store)
    assert 1 == again.event_count
    assert [] == await store.take_step(a_step(again, event=an_event()), [])


async def test_a_later_event_is_committed_unleased(store, paying):
    """A delivery that must wait for an earlier event is not attempted at once."""
    invoice = await paying()
    for id_ in ("msg_1", "msg_2"):
        step = a_step(invoice, None, event=an_event(delivery_id=id_))
        inserted = await store.report(step, [a_delivery(step, leased_until=UNTIL)])

    assert [None] == [one.leased_until for one in inserted]
    assert [2] == [one.sequence for one in inserted]


# Several callbacks


async def test_an_event_has_a_delivery_for_each_callback(store, paying):
    """An event has one delivery for each callback, and these do not wait for each other."""
    both = (a_callback(ONE), a_callback("https://two.example:443", name="another"))
    step = a_step(await paying(callbacks=both), event=an_event())
    new = [a_delivery(step, delivery_id=f"msg_{number}", callback=number) for number in (0, 1)]

    assert new == await store.take_step(step, new)

    assert {"msg_0", "msg_1"} == {one.id for one in await lease_deliveries(store)}


async def test_the_callbacks_of_an_invoice_do_not_wait_for_each_other(store, paying):
    """A later event waits only for the earlier events of its own callback."""
    both = (a_callback(ONE), a_callback("https://two.example:443", name="another"))
    invoice = await paying(callbacks=both)
    for event in ("sent", "paid"):
        status = InvoiceStatus.SENT if event == "sent" else InvoiceStatus.PAID
        step = a_step(invoice, status, due_at=START, event=an_event())
        new = [
            a_delivery(step, delivery_id=f"msg_{event}_{number}", callback=number)
            for number in (0, 1)
        ]
        await store.take_step(step, new)
        if event == "sent":
            invoice = await lease_invoice(store)
    first = {one.id: one for one in await lease_deliveries(store)}
    assert {"msg_sent_0", "msg_sent_1"} == set(first)

    await store.settle(failed(first["msg_sent_0"], due_at=UNTIL + LEASE))
    await store.settle(delivered(first["msg_sent_1"]))

    assert ["msg_paid_1"] == [one.id for one in await lease_deliveries(store)]
