import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain.states import InvoiceStatus
from service.storage.steps import LeaseRound
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

RECEIVED, SENT, PAID, FAILED = InvoiceStatus
MICROSECOND = timedelta(microseconds=1)


async def leased(store, *, now=START, limit=100):
    """The ids that a round leases, and when the next round may find more."""
    due = await store.lease_invoices(LeaseRound(now, now + LEASE, limit))
    return [invoice.id for invoice in due.invoices], due.next_due_at


async def everything(database):
    """Every row that a step may write."""
    return [await rows_of(database, table) for table in (invoices, events, deliveries)]


# Leasing


async def test_an_invoice_is_leased_with_all_that_collecting_needs(store):
    """Who leases an invoice has to ask for nothing more."""
    await store.accept(an_invoice(customer_email="richie@example.com"))

    invoice = await lease_invoice(store)

    assert ("dev", "1", RECEIVED) == (invoice.account_id, invoice.id, invoice.status)
    assert ("Mr. Richie Rich", "richie@example.com") == (invoice.customer, invoice.customer_email)
    assert (999900, "USD", 0) == (invoice.total_minor, invoice.currency, invoice.event_count)
    assert (a_callback(ONE),) == invoice.callbacks


async def test_a_leased_invoice_is_nobody_elses(store):
    """While a lease holds, no other round gets the invoice; once it ran out, the next does."""
    await store.accept(an_invoice())
    first = await lease_invoice(store)

    assert ([], None) == await leased(store)
    assert ([], None) == await leased(store, now=START + LEASE - MICROSECOND)
    second = await lease_invoice(store, now=START + LEASE)
    assert first.lease_token + 1 == second.lease_token
    assert first == replace(second, lease_token=first.lease_token)


async def test_rounds_of_one_transaction_share_nothing(store):
    """Two rounds that are committed together lease different invoices."""
    for number in range(4):
        await store.accept(an_invoice(f"i{number}"))

    given = await asyncio.gather(leased(store, limit=2), leased(store, limit=100))

    assert [["i0", "i1"], ["i2", "i3"]] == [ids for ids, _ in given]


async def test_what_waited_longest_comes_first(store):
    """Invoices are leased in the order in which they became due."""
    for id_, seconds in (("third", 3), ("first", 1), ("second", 2)):
        await store.accept(an_invoice(id_, at=START + seconds * SECOND))

    ids, _ = await leased(store, now=START + LEASE, limit=2)

    assert ["first", "second"] == ids


async def test_a_round_that_left_some_behind_is_followed_at_once(store):
    """Where there was no room for all, the next round is due now."""
    for number in range(2):
        await store.accept(an_invoice(f"i{number}"))

    assert (["i0"], START) == await leased(store, limit=1)


async def test_the_next_round_is_told(store):
    """A round says when the next invoice becomes due, to the microsecond."""
    later = START + SECOND + MICROSECOND
    await store.accept(an_invoice("now"))
    await store.accept(an_invoice("later", at=later))
    await store.accept(an_invoice("even later", at=later + SECOND))

    assert (["now"], later) == await leased(store)
    assert ([], later) == await leased(store, now=later - MICROSECOND)


async def test_where_nothing_waits_there_is_no_next_round(store):
    """A database without invoices announces none."""
    assert ([], None) == await leased(store)


# Steps


async def test_a_step_writes_all_or_nothing(store, database):
    """State, event and delivery appear together, and the lease is given up."""
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
    """If the delivery cannot be written, neither are the event and the state."""
    for id_ in ("1", "2"):
        await store.accept(an_invoice(id_))
    first, second = (await store.lease_invoices(LeaseRound(START, START + LEASE, 9))).invoices
    await take_step(store, a_step(first, event=an_event()))
    before = await everything(database)

    with pytest.raises(Exception, match=r"UNIQUE|unique"):
        await take_step(store, a_step(second, event=an_event(delivery_id="msg_1")))

    assert before == await everything(database)


async def test_nobody_is_called_who_did_not_ask(store, database):
    """Without a callback URL an event is told to nobody, and can still be looked at."""
    await store.accept(an_invoice(origin=None))
    invoice = await lease_invoice(store)

    assert await take_step(store, a_step(invoice, event=an_event(delivery_id=None)))

    _, told, written = await everything(database)
    assert (1, 0) == (len(told), len(written))


async def test_a_step_may_tell_nothing(store, database):
    """A state can change without an event."""
    await store.accept(an_invoice())
    invoice = await lease_invoice(store)

    assert await take_step(store, a_step(invoice, SENT, due_at=START + LEASE))

    (row,), told, written = await everything(database)
    assert (SENT, START + LEASE, 0) == (row["status"], row["due_at"], row["event_count"])
    assert (0, 0) == (len(told), len(written))


async def test_a_step_says_when_the_next_is_due(store):
    """An invoice that was sent comes back when it is due, and not before."""
    await store.accept(an_invoice())
    await take_step(store, a_step(await lease_invoice(store), SENT, due_at=START + SECOND))

    assert ([], START + SECOND) == await leased(store, now=START + SECOND - MICROSECOND)
    invoice = await lease_invoice(store, now=START + SECOND)
    assert SENT is invoice.status


async def test_a_collected_invoice_never_comes_back(store):
    """After the last step there is nothing left to lease."""
    await store.accept(an_invoice())
    await take_step(store, a_step(await lease_invoice(store)))

    assert ([], None) == await leased(store, now=START + 365 * 86400 * SECOND)


async def test_many_steps_of_one_transaction_are_written_each_for_itself(store, database):
    """Steps that are committed together keep their own state, instant and event."""
    for number in range(6):
        await store.accept(an_invoice(f"i{number}"))
    due = await store.lease_invoices(LeaseRound(START, START + LEASE, 9))
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
            for invoice, (status, due_at, event) in zip(due.invoices, wanted, strict=True)
        )
    )

    assert [True] * 6 == taken
    rows, told, written = await everything(database)
    assert [(status, due_at, 1 if event else 0) for status, due_at, event in wanted] == [
        (row["status"], row["due_at"], row["event_count"])
        for row in sorted(rows, key=lambda row: row["id"])
    ]
    assert ["a", "b", "c"] == sorted(event["description"] for event in told)
    assert ["msg_a", "msg_c"] == [delivery["id"] for delivery in written]


# Leases that passed on, and moves that are none


async def test_a_stale_lease_writes_nothing(store, database):
    """A collector that outlived its lease changes nothing, and whoever has the lease does."""
    await store.accept(an_invoice())
    stale = await lease_invoice(store)
    held = await lease_invoice(store, now=START + LEASE)
    before = await everything(database)

    assert not await take_step(store, a_step(stale, FAILED, event=an_event("Late", paid=False)))
    assert before == await everything(database)

    assert await take_step(store, a_step(held, event=an_event()))
    assert PAID == (await store.find_invoice("dev", "1"))["status"]


async def test_a_lease_that_ran_out_unnoticed_still_writes(store):
    """As long as nobody else took the invoice, a late step is as good as any."""
    await store.accept(an_invoice())
    late = await lease_invoice(store)

    assert await take_step(store, a_step(late, event=an_event(at=START + 9 * LEASE)))


async def test_a_lease_is_good_for_one_step(store, database):
    """Writing a step gives up the lease: the same one writes no second."""
    await store.accept(an_invoice())
    invoice = await lease_invoice(store)
    await take_step(store, a_step(invoice, SENT, due_at=START + SECOND))
    before = await everything(database)

    assert not await take_step(store, a_step(invoice, event=an_event()))

    assert before == await everything(database)


async def test_a_stale_step_beside_a_valid_one_is_refused_alone(store, database):
    """Two holders that write in one transaction are told apart."""
    await store.accept(an_invoice())
    stale = await lease_invoice(store)
    held = await lease_invoice(store, now=START + LEASE)

    given = await asyncio.gather(
        take_step(store, a_step(stale, FAILED, event=an_event("Late", paid=False))),
        take_step(store, a_step(held, event=an_event())),
    )

    assert [False, True] == given
    (row,), told, _ = await everything(database)
    assert (PAID, ["Invoice paid"]) == (row["status"], [event["description"] for event in told])


@pytest.mark.parametrize(
    ("before", "after"), [(SENT, RECEIVED), (PAID, FAILED), (FAILED, PAID), (PAID, PAID)]
)
async def test_an_illegal_move_changes_nothing(store, database, before, after):
    """A move that is not in the table writes no state, no event and no delivery."""
    await store.accept(an_invoice())
    invoice = await lease_invoice(store)
    # Due although it may be final, so that it can be leased once more.
    await take_step(store, a_step(invoice, before, due_at=START, event=an_event()))
    invoice = await lease_invoice(store)
    written = await everything(database)

    assert not await take_step(
        store, a_step(invoice, after, event=an_event("Illegal", delivery_id="msg_2"))
    )

    assert written[1:] == (await everything(database))[1:]
    assert before == (await store.find_invoice("dev", "1"))["status"]


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
async def test_a_step_wakes_who_has_something_to_do(store, event, due_at, wakes):
    """After the commit, the loops are told whose turn it may be, and nobody else is."""
    await store.accept(an_invoice())
    invoice = await lease_invoice(store)
    store.invoices_due.clear()

    await take_step(store, a_step(invoice, SENT, due_at=due_at, event=event))

    assert wakes == (store.invoices_due.is_set(), store.deliveries_due.is_set())


async def test_a_stale_step_wakes_nobody(store):
    """Where nothing was written there is nothing to do."""
    await store.accept(an_invoice())
    stale = await lease_invoice(store)
    await lease_invoice(store, now=START + LEASE)
    store.invoices_due.clear()

    await take_step(store, a_step(stale, SENT, due_at=START, event=an_event()))

    assert (False, False) == (store.invoices_due.is_set(), store.deliveries_due.is_set())
