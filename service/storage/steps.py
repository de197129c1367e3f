"""
The collection of invoices, as rows: leased when due, moved on by one step at a time.

A step writes the invoice's new state, the event that tells of it and the delivery of that event
in one transaction: there is no moment at which one of them exists without the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, Text, bindparam, func, select

from service.database.given import Given, given
from service.database.rows import insert_rows
from service.domain.states import INVOICE_MOVES, Cause, DeliveryStatus, InvoiceStatus
from service.storage import leases
from service.storage.deliveries import LeasedDelivery
from service.storage.holds import held_origins
from service.storage.invoices import Call, NewInvoice
from service.storage.tables import deliveries, events, invoices, microseconds
from service.values import value


@value(kw_only=True)
class LeasedInvoice:
    """An invoice that we alone may move on, until its lease runs out."""

    key: str
    account_id: str
    id: str
    customer: str
    customer_email: str | None
    total_minor: int
    currency: str
    status: InvoiceStatus
    call: Call | None
    event_count: int
    created_at: datetime
    lease_token: int
    request_id: str
    traceparent: str | None


@value()
class NewDelivery:
    """What is to bring an event to the receiver: *body* holds the exact bytes of every attempt."""

    id: str
    body: bytes


@value(kw_only=True)
class NewEvent:
    """Something that happened to an invoice; *delivery* is None where nobody is called."""

    description: str
    paid: bool
    at: datetime
    delivery: NewDelivery | None


@value(kw_only=True)
class Step:
    """What the collection of one leased invoice came to."""

    invoice: LeasedInvoice
    status: InvoiceStatus
    due_at: datetime | None
    """When to look at the invoice again; None once there is nothing left to collect."""
    collector: str
    event: NewEvent | None


@value()
class StepToTake:
    """A step to be written; with *leased_until* its delivery is born leased, see `handover`."""

    step: Step
    leased_until: datetime | None = None


@value()
class StepTaken:
    """
    Whether a step was written, and the delivery that was born leased with it.

    A step is not written if the lease had already passed on: whoever leased the invoice next
    decides.
    """

    is_taken: bool
    delivery: LeasedDelivery | None = None


@value()
class DueInvoices:
    """One round of leasing. *next_due_at* is when the next round may find more, if ever."""

    invoices: Sequence[LeasedInvoice]
    next_due_at: datetime | None


@value()
class LeaseRound:
    """Lease up to *limit* invoices that are due at *now*, until *until*."""

    now: datetime
    until: datetime
    limit: int


_LEASED = [
    invoices.c[name]
    for name in ("callback", "url", "origin", *LeasedInvoice.__dataclass_fields__)
    if name in invoices.c
]

_due = (
    select(*_LEASED)
    .where(invoices.c.due_at <= bindparam("now"), leases.is_free(invoices))
    .order_by(invoices.c.due_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_taking = leases.taking(invoices, Given(account_id=Text(), key=Text()))
_next_due = select(func.min(invoices.c.due_at)).where(invoices.c.due_at > bindparam("now"))


def born_leased(invoice: NewInvoice) -> LeasedInvoice:
    """*invoice* as the collection takes it, after it was accepted with a lease."""
    return LeasedInvoice(
        key=invoice.key,
        account_id=invoice.account_id,
        id=invoice.id,
        customer=invoice.customer,
        customer_email=invoice.customer_email,
        total_minor=invoice.total_minor,
        currency=invoice.currency,
        status=InvoiceStatus.RECEIVED,
        call=invoice.call,
        event_count=0,
        created_at=invoice.created_at,
        lease_token=1,
        request_id=invoice.request_id,
        traceparent=invoice.traceparent,
    )


def lease_due(tx: Connection, rounds: Sequence[LeaseRound]) -> list[DueInvoices]:
    """
    Lease invoices that are due, those that have waited longest first.

    Runs inside *tx* and never commits it.
    """
    return [_lease_due(tx, one) for one in rounds]


def _lease_due(tx: Connection, round_: LeaseRound) -> DueInvoices:
    rows = tx.execute(_due, {"now": round_.now, "limit": round_.limit}).mappings().all()
    if rows:
        leased = [{"account_id": row["account_id"], "key": row["key"]} for row in rows]
        tx.execute(_taking, {**given(leased), "until": round_.until})
    is_last = len(rows) < round_.limit
    next_due_at = tx.scalar(_next_due, {"now": round_.now}) if is_last else round_.now
    return DueInvoices([_leased(row) for row in rows], next_due_at)


def _leased(row: Any) -> LeasedInvoice:
    values = dict(row)
    callback, url, origin = values.pop("callback"), values.pop("url"), values.pop("origin")
    values["call"] = Call(callback, url, origin) if callback else None
    values["status"] = InvoiceStatus(values["status"])
    values["lease_token"] += 1
    return LeasedInvoice(**values)


def take_steps(tx: Connection, items: Sequence[StepToTake]) -> list[StepTaken]:
    """
    Write steps and give up their leases: state, event and delivery together.

    Runs inside *tx* and never commits it.

    Raises:
        Undecided: if some of several leases had passed on; see `leases`.
    """
    if not _move(tx, [item.step for item in items]):
        return [StepTaken(is_taken=False)]
    told = [(item.step, item.step.event) for item in items if item.step.event]
    insert_rows(tx, events, [_event_row(step, event) for step, event in told])
    born = _bear_deliveries(tx, items)
    return [StepTaken(True, born.get(item.step.invoice.key)) for item in items]


def _bear_deliveries(tx: Connection, items: Sequence[StepToTake]) -> dict[str, LeasedDelivery]:
    """Insert the deliveries of *items*; those that are born leased, by the invoice's key."""
    births = list(_births(items))
    if not births:
        return {}
    held = held_origins(tx, [one.call.origin for one in births], births[0].event.at)
    births = [replace(one, until=None) if one.call.origin in held else one for one in births]
    insert_rows(tx, deliveries, [_delivery_row(one) for one in births])
    return {one.step.invoice.key: _leased_delivery(one, one.until) for one in births if one.until}


@value()
class _Birth:
    """A delivery to be written, and until when it is leased."""

    step: Step
    call: Call
    event: NewEvent
    delivery: NewDelivery
    until: datetime | None


def _births(items: Sequence[StepToTake]) -> Iterator[_Birth]:
    for item in items:
        step, call, event = item.step, item.step.invoice.call, item.step.event
        if call and event and event.delivery:
            yield _Birth(step, call, event, event.delivery, item.leased_until)


_moved = leases.held(status=Text(), due_at=invoices.c.due_at.type, told_count=Integer())
_moving = (
    leases.giving_up(invoices, _moved)
    .where(leases.is_legal(invoices, _moved, INVOICE_MOVES))
    .values(
        status=_moved.c.status,
        due_at=_moved.c.due_at,
        event_count=invoices.c.event_count + _moved.c.told_count,
    )
)


def _move(tx: Connection, steps: Sequence[Step]) -> bool:
    return leases.give_up(tx, _moving, [_move_of(step) for step in steps])


def _move_of(step: Step) -> dict[str, Any]:
    return {
        "account_id": step.invoice.account_id,
        "key": step.invoice.key,
        "token": step.invoice.lease_token,
        "status": step.status.value,
        "due_at": microseconds(step.due_at),
        "told_count": 1 if step.event else 0,
    }


def _event_row(step: Step, event: NewEvent) -> tuple[Any, ...]:
    return (
        step.invoice.account_id,
        step.invoice.key,
        step.invoice.event_count + 1,
        event.description,
        event.paid,
        step.collector,
        microseconds(event.at),
    )


def _delivery_row(birth: _Birth) -> tuple[Any, ...]:
    invoice, at = birth.step.invoice, microseconds(birth.event.at)
    return (
        invoice.account_id,
        birth.delivery.id,
        invoice.key,
        invoice.event_count + 1,
        birth.call.callback,
        birth.call.url,
        birth.call.origin,
        birth.delivery.body,
        DeliveryStatus.PENDING.value,
        None,
        0,
        0,
        at,
        at,
        None,
        microseconds(birth.until),
        1 if birth.until else 0,
        Cause.EVENT.value,
    )


def _leased_delivery(birth: _Birth, until: datetime) -> LeasedDelivery:
    invoice = birth.step.invoice
    return LeasedDelivery(
        id=birth.delivery.id,
        account_id=invoice.account_id,
        invoice_id=invoice.id,
        collector=birth.step.collector,
        callback=birth.call.callback,
        url=birth.call.url,
        origin=birth.call.origin,
        body=birth.delivery.body,
        attempt_count=0,
        failure_count=0,
        cause=Cause.EVENT,
        accepted_at=invoice.created_at,
        created_at=birth.event.at,
        leased_until=until,
        lease_token=1,
        request_id=invoice.request_id,
        traceparent=invoice.traceparent,
    )
