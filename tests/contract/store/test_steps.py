import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain.states import InvoiceStatus
from service.storage.leases import LeaseRound
from service.storage.tables import deliveries, events, invoices
from tests.clock import START
from tests.rows import (
    LEASE,
    ONE,
    SECOND,
    a_callback,
    a_step,
    an_event,
    an_invoice,
    lease_invoice,
    rows_of,
    take_step,
)

RECEIVED, SENT = InvoiceStatus.RECEIVED, InvoiceStatus.SENT
PAID, FAILED = InvoiceStatus.PAID, InvoiceStatus.PAYMENT_FAILED
MICROSECOND = timedelta(microseconds=1)


async def leased(store, *, now=START, limit=100):
    """The ids that a lease round leases, and the instant of the next round."""
    due = await store.lease_invoices(LeaseRound(now, now + LEASE, limit))
    return [invoice.id for invoice in due.invoices], due.next_due_at


async def everything(database):
    """Every row that a step may write."""
    return [await rows_of(database, table) for table in (invoices, events, deliveries)]


# Leasing


async def test_a_leased_invoice_has_all_that_a_collection_needs(store):
    """A leased invoice has every field that the collector needs; no other query is needed."""
    await store.accept(an_invoice(customer_email="richie@example.com"))

    invoice = await lease_invoice(store)

    assert ("dev", "1", RECEIVED) == (invoice.account_id, invoice.id, invoice.status)
    assert ("Mr. Richie Rich", "richie@example.com") == (invoice.customer, invoice.customer_email)
    assert (999900, "USD", 0) == (invoice.total_minor, invoice.currency, invoice.event_count)
    assert (a_callback(ONE),) == invoice.callbacks


async def test_a_leased_invoice_is_not_leased_again(store):
    """No other round leases an invoice before its lease has run out; then the next round does."""
    await store.accept(an_invoice())
    first = await lease_invoice(store)

    assert ([], None) == await leased(store)
    assert ([], None) == await leased(store, now=START + LEASE - MICROSECOND)
    second = await lease_invoice(store, now=START + LEASE)
    assert first.lease_token + 1 == second.lease_token
    assert first == replace(second, lease_token=first.lease_token)


async def test_concurrent_rounds_lease_different_invoices(store):
    """Two rounds that are committed together lease different invoices."""
    for number in range(4):
        await store.accept(an_invoice(f"i{number}", at=START - (4 - number) * SECOND))

    given = await asyncio.gather(leased(store, limit=2), leased(store, limit=100))

    assert [["i0", "i1"], ["i2", "i3"]] == [ids for ids, _ in given]


async def test_the_longest_due_invoices_are_leased_first(store):
    """Invoices are leased in the order in which they became due."""
    for id_, seconds in (("third", 3), ("first", 1), ("second", 2)):
        await store.accept(an_invoice(id_, at=START + seconds * SECOND))

    ids, _ = await leased(store, now=START + LEASE, limit=2)

    assert ["first", "second"] == ids


async def test_a_full_round_is_followed_at_once(store):
    """If a round reached its limit, the next round is due now."""
    for id_, at in (("i0", START - SECOND), ("i1", START)):
        await store.accept(an_invoice(id_, at=at))

    assert (["i0"], START) == await leased(store, limit=1)


async def test_a_round_returns_the_instant_of_the_next(store):
    """A round returns the instant, to the microsecond, at which the next invoice becomes due."""
    later = START + SECOND + MICROSECOND
    await store.accept(an_invoice("now"))
    await store.accept(an_invoice("later", at=later))
    await store.accept(an_invoice("even later", at=later + SECOND))

    assert (["now"], later) == await leased(store)
    assert ([], later) == await leased(store, now=later - MICROSECOND)


async def test_a_store_without_invoices_has_no_next_round(store):
    """A round on a store without invoices returns no instant."""
    assert ([], None) == await leased(store)


# Steps


async def test_a_step_writes_all_or_nothing(store, database):
    """State, event and delivery are written together, and the lease ends."""
    await store.accept(an_invoice())
    invoice = await lease_invoice(store)

    assert await take_step(store, a_step(invoice, event=an_event(at=START + SECOND)))

    (row,), (event,), (delivery,) = await everything(database)
    assert (PAID, None, None, 1) == (
        row["status"],
        row["due_at"],
        row["leased_until"],
        row["event_count"],
    )
    assert ("Invoice paid", True, "sandbox") == (
        event["description"],
        event["paid"],
        event["collector"],
    )
    assert (1, START + SECOND) == (event["sequence"], event["at"])
    assert ("msg_1", "dev", row["key"], 1) == (
        delivery["id"],
        delivery["account_id"],
        delivery["invoice_key"],
        delivery["sequence"],
    )
    assert ("invoice_notification", f"{ONE}/invoices/1", ONE) == (
        delivery["callback"],
        delivery["url"],
        delivery["origin"],
    )
    assert b'{"description":"Invoice paid","paid":true}' == delivery["body"]
    assert ("pending", 0, 0, None) == (
        delivery["status"],
        delivery["attempt_count"],
        delivery["failure_count"],
        delivery["leased_until"],
    )
    assert START + SECOND == delivery["created_at"] == delivery["due_at"]


async def test_a_step_that_cannot_be_written_changes_nothing(store, database):
    """If the delivery cannot be written, the event and the state are not written either."""
    for id_ in ("1", "2"):
        await store.accept(an_invoice(id_))
    first, second = (await store.lease_invoices(LeaseRound(START, START + LEASE, 9))).invoices
    await take_step(store, a_step(first, event=an_event()))
    before = await everything(database)

    with pytest.raises(Exception, match=r"UNIQUE|unique"):
        await take_step(store, a_step(second, event=an_event(delivery_id="msg_1")))

    assert before == await everything(database)


async def test_an_invoice_without_a_callback_url_has_no_deliveries(store, database):
    """Without a callback URL an event is stored without a delivery, and can be read."""
    await store.accept(an_invoice(origin=None))
    invoice = await lease_invoice(store)

    assert await take_step(store, a_step(invoice, event=an_event(delivery_id=None)))

    _, recorded, written = await everything(database)
    assert (1, 0) == (len(recorded), len(written))


async def test_a_step_may_have_no_event(store, database):
    """A state can change without an event."""
    await store.accept(an_invoice())
    invoice = await lease_invoice(store)

    assert await take_step(store, a_step(invoice, SENT, due_at=START + LEASE))

    (row,), recorded, written = await everything(database)
    assert (SENT, START + LEASE, 0) == (row["status"], row["due_at"], row["event_count"])
    assert (0, 0) == (len(recorded), len(written))


async def test_a_step_sets_the_instant_of_the_next(store):
    """A sent invoice is leased again when it is due, and not before."""
    await store.accept(an_invoice())
    await take_step(store, a_step(await lease_invoice(store), SENT, due_at=START + SECOND))

    assert ([], START + SECOND) == await leased(store, now=START + SECOND - MICROSECOND)
    invoice = await lease_invoice(store, now=START + SECOND)
    assert SENT is invoice.status


async def test_a_collected_invoice_is_never_leased_again(store):
    """After the last step an invoice is never due."""
    await store.accept(an_invoice())
    await take_step(store, a_step(await lease_invoice(store)))

    assert ([], None) == await leased(store, now=START + 365 * 86400 * SECOND)


async def test_steps_of_one_transaction_are_independent(store, database):
    """Steps that are committed in one transaction keep their own state, instant and event."""
    for number in range(6):
        await store.accept(an_invoice(f"i{number}"))
    due = await store.lease_invoices(LeaseRound(START, START + LEASE, 9))
    # All are due at one instant: they may be leased in any order.
    leased_invoices = sorted(due.invoices, key=lambda invoice: invoice.id)
    wanted = [
        (PAID, None, an_event("a", delivery_id="msg_a")),
        (SENT, START + SECOND, None),
        (PAID, None, None),
        (FAILED, None, an_event("b", paid=False, delivery_id=None)),
        (SENT, START + SECOND + MICROSECOND, None),
        (PAID, None, an_event("c", delivery_id="msg_c")),
    ]

    taken = await asyncio.gather(
        *(
            take_step(store, a_step(invoice, status, due_at=due_at, event=event))
            for invoice, (status, due_at, event) in zip(leased_invoices, wanted, strict=True)
        )
    )

    assert [True] * 6 == taken
    rows, recorded, written = await everything(database)
    assert [(status, due_at, 1 if event else 0) for status, due_at, event in wanted] == [
        (row["status"], row["due_at"], row["event_count"])
        for row in sorted(rows, key=lambda row: row["id"])
    ]
    assert ["a", "b", "c"] == sorted(event["description"] for event in recorded)
    assert ["msg_a", "msg_c"] == [delivery["id"] for delivery in written]


# Stale leases and illegal moves


async def test_a_stale_lease_writes_nothing(store, database):
    """A collector whose lease was taken over changes nothing; the holder of the lease does."""
    await store.accept(an_invoice())
    stale = await lease_invoice(store)
    held = await lease_invoice(store, now=START + LEASE)
    before = await everything(database)

    assert not await take_step(store, a_step(stale, FAILED, event=an_event("Late", paid=False)))
    assert before == await everything(database)

    assert await take_step(store, a_step(held, event=an_event()))
    assert PAID == (await store.history.find_invoice("dev", "1"))["status"]


async def test_an_expired_lease_that_was_not_taken_over_writes(store):
    """While no other round has leased the invoice, a late step is written."""
    await store.accept(an_invoice())
    late = await lease_invoice(store)

    assert await take_step(store, a_step(late, event=an_event(at=START + 9 * LEASE)))


async def test_a_lease_writes_one_step(store, database):
    """A step ends the lease: the same lease writes no second step."""
    await store.accept(an_invoice())
    invoice = await lease_invoice(store)
    await take_step(store, a_step(invoice, SENT, due_at=START + SECOND))
    before = await everything(database)

    assert not await take_step(store, a_step(invoice, event=an_event()))

    assert before == await everything(database)


async def test_a_stale_step_beside_a_valid_step_is_refused_alone(store, database):
    """Of two steps in one transaction, only the one with the valid lease is written."""
    await store.accept(an_invoice())
    stale = await lease_invoice(store)
    held = await lease_invoice(store, now=START + LEASE)

    given = await asyncio.gather(
        take_step(store, a_step(stale, FAILED, event=an_event("Late", paid=False))),
        take_step(store, a_step(held, event=an_event())),
    )

    assert [False, True] == given
    (row,), recorded, _ = await everything(database)
    assert (PAID, ["Invoice paid"]) == (row["status"], [event["description"] for event in recorded])


@pytest.mark.parametrize(
    ("before", "after"), [(SENT, RECEIVED), (PAID, FAILED), (FAILED, PAID), (PAID, PAID)]
)
async def test_an_illegal_move_changes_nothing(store, database, before, after):
    """An illegal move writes no state, no event and no delivery."""
    await store.accept(an_invoice())
    invoice = await lease_invoice(store)
    # A final state gets a due instant here, so that the invoice can be leased once more.
    await take_step(store, a_step(invoice, before, due_at=START, event=an_event()))
    invoice = await lease_invoice(store)
    written = await everything(database)

    assert not await take_step(
        store, a_step(invoice, after, event=an_event("Illegal", delivery_id="msg_2"))
    )

    assert written[1:] == (await everything(database))[1:]
    assert before == (await store.history.find_invoice("dev", "1"))["status"]


# Signals


@pytest.mark.parametrize(
    ("event", "due_at", "wakes"),
    [
        (an_event(), None, (False, True)),
        (an_event(delivery_id=None), None, (False, False)),
        (None, START + SECOND, (True, False)),
        (an_event(), START + SECOND, (True, True)),
        (None, None, (False, False)),
    ],
)
async def test_a_step_wakes_the_loops_with_new_rows(store, event, due_at, wakes):
    """After the commit, a step wakes exactly the loops that have new due rows."""
    await store.accept(an_invoice())
    invoice = await lease_invoice(store)
    store.invoices_due.clear()

    await take_step(store, a_step(invoice, SENT, due_at=due_at, event=event))

    assert wakes == (store.invoices_due.is_set(), store.deliveries_due.is_set())


async def test_a_stale_step_wakes_no_loop(store):
    """A step that writes nothing wakes no loop."""
    await store.accept(an_invoice())
    stale = await lease_invoice(store)
    await lease_invoice(store, now=START + LEASE)
    store.invoices_due.clear()

    await take_step(store, a_step(stale, SENT, due_at=START, event=an_event()))

    assert (False, False) == (store.invoices_due.is_set(), store.deliveries_due.is_set())
