"""Reports: what becomes of an invoice outside its collection."""

import asyncio
from dataclasses import replace

import pytest

from service.domain.states import INVOICE_MOVES, InvoiceStatus
from service.storage.invoices import as_invoice
from service.storage.tables import deliveries, invoices
from tests.clock import START
from tests.rows import (
    LEASE,
    a_delivery,
    a_step,
    an_event,
    an_invoice,
    lease_invoice,
    rows_of,
    take_step,
)

RECEIVED, SENT = InvoiceStatus.RECEIVED, InvoiceStatus.SENT
PAID, FAILED, VOID = InvoiceStatus.PAID, InvoiceStatus.PAYMENT_FAILED, InvoiceStatus.VOID
REFUNDED, PARTLY = InvoiceStatus.REFUNDED, InvoiceStatus.PARTIALLY_REFUNDED
UNTIL = START + LEASE


def a_report(invoice, status=PAID, *, delivery_id="msg_1", **changes):
    """A report with an event."""
    event = an_event(f"now {status}", paid=status is PAID, delivery_id=delivery_id)
    return replace(a_step(invoice, status, event=event), is_report=True, **changes)


async def report(store, step):
    """Write a report with its delivery; returns whether it was recorded."""
    return await store.report(step, [a_delivery(step)] if step.event else []) is not None


@pytest.fixture
async def invoice(store):
    """An invoice that was received."""
    await store.accept(an_invoice())
    return await lease_invoice(store)


async def found(store):
    """The state of the invoice and the descriptions of its events."""
    row = await store.history.find_invoice("dev", "1")
    return row["status"], [event["description"] for event in row["events"]]


@pytest.mark.parametrize("source", INVOICE_MOVES)
@pytest.mark.parametrize("target", INVOICE_MOVES)
async def test_a_report_is_recorded_if_its_move_is_legal(store, database, invoice, source, target):
    """A report moves an invoice along the table of moves, or changes nothing and has no event."""
    for number, status in enumerate(_way_to(source)):
        assert await report(store, a_report(invoice, status, delivery_id=f"msg_way{number}"))
    before = await rows_of(database, invoices), await rows_of(database, deliveries)

    is_recorded = await report(store, a_report(invoice, target))

    assert (target in INVOICE_MOVES[source]) is is_recorded
    status, events = await found(store)
    assert ((target, f"now {target}") if is_recorded else source) == (
        (status, events[-1]) if is_recorded else status
    )
    after = await rows_of(database, invoices), await rows_of(database, deliveries)
    assert is_recorded or before == after


def _way_to(target):
    """The moves that lead from `received` to *target*."""
    ways, frontier = {RECEIVED: []}, [RECEIVED]
    while frontier:
        status = frontier.pop(0)
        for following in sorted(INVOICE_MOVES[status]):
            if following not in ways:
                ways[following] = [*ways[status], following]
                frontier.append(following)
    return ways[target]


async def test_of_two_reports_of_one_payment_one_is_recorded(store, elsewhere, invoice):
    """A webhook and a poll that learn of one payment at the same time make one event."""
    reports = [
        report(one, a_report(invoice, delivery_id=f"msg_{number}"))
        for number, one in enumerate((store, elsewhere))
    ]

    assert [False, True] == sorted(await asyncio.gather(*reports))
    assert (PAID, ["now paid"]) == await found(store)


@pytest.mark.parametrize("status", [PAID, FAILED, VOID])
async def test_a_report_that_ends_the_collection_fences_its_step(store, database, invoice, status):
    """After a report of the end, the step in progress changes nothing, and no other one is due."""
    assert await report(store, a_report(invoice, status))

    assert not await take_step(store, a_step(invoice, PAID, event=an_event(delivery_id="msg_2")))
    assert (status, [f"now {status}"]) == await found(store)
    (row,) = await rows_of(database, invoices)
    assert (None, None) == (row["due_at"], row["leased_until"])


async def test_a_report_of_sending_leaves_the_collection(store, invoice):
    """An invoice becomes sent while its collection is in progress, and the step still counts."""
    assert await report(store, replace(a_step(invoice, SENT), is_report=True))

    assert (SENT, []) == await found(store)
    assert await take_step(store, a_step(invoice, PAID, event=an_event()))
    assert (PAID, ["Invoice paid"]) == await found(store)


async def test_amounts_are_added(store, database, invoice):
    """Refunds and overpayments add up in the invoice; a mismatch stays."""
    await report(store, a_report(invoice, PAID, delivery_id="msg_0"))
    parts = [(PARTLY, 100, 0), (PARTLY, 20, 5), (REFUNDED, 3, 7)]
    for number, (status, refunded_minor, overpaid_minor) in enumerate(parts, start=1):
        amounts = {"refunded_minor": refunded_minor, "overpaid_minor": overpaid_minor}
        step = a_report(invoice, status, delivery_id=f"msg_{number}", **amounts)
        assert await report(store, replace(step, is_mismatch=number == 1))

    (row,) = await rows_of(database, invoices)
    assert (123, 12, True) == (
        row["amount_refunded_minor"],
        row["overpaid_minor"],
        bool(row["mismatch"]),
    )


async def test_amounts_are_recorded_without_a_move(store, database, invoice):
    """Money for a void invoice is recorded although its state does not change."""
    await report(store, a_report(invoice, VOID))

    assert await report(store, replace(a_step(invoice, None), overpaid_minor=999900))

    (row,) = await rows_of(database, invoices)
    assert (VOID, 999900) == (row["status"], row["overpaid_minor"])


async def test_an_invoice_is_found_by_its_key(store, invoice):
    """The row under a key makes the value of the invoice; another account has nothing under it."""
    row = await store.invoice_by_key("dev", invoice.key)

    assert replace(invoice, lease_token=row["lease_token"]) == as_invoice(row)
    assert None is await store.invoice_by_key("other", invoice.key)
