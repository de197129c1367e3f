"""
The collection of invoices: leased when due, advanced by one step at a time.

A step writes the new state of the invoice, the event and the deliveries of that event in one
transaction: none of them ever exists without the others.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice, starmap
from typing import Any

import orjson
from sqlalchemy import Connection, Integer, RowMapping, Text, bindparam, func, select, update

from service.database.bulk import Given, given, insert_rows
from service.domain.delivery import Delivery
from service.domain.invoice import Event, Invoice, Step
from service.domain.states import INVOICE_MOVES, InvoiceStatus
from service.storage import leases
from service.storage.deliveries import insert
from service.storage.invoices import evaluated_callback
from service.storage.tables import events, invoices, microseconds
from service.values import value

StepToTake = tuple[Step, Sequence[Delivery], int | None]
"""A step, the deliveries of its event, and the id of the process that has their leases."""


@value()
class DueInvoices:
    """The result of a lease round; *next_due_at* is when the next one may find more, if ever."""

    invoices: Sequence[Invoice]
    next_due_at: datetime | None


@value()
class LeaseRound:
    """Lease up to *limit* invoices that are due at *now*, until *until*, to *process_id*."""

    now: datetime
    until: datetime
    limit: int
    process_id: int | None = None


_due = (
    select(*(invoices.c[name] for name in Invoice.__dataclass_fields__))
    .where(invoices.c.due_at <= bindparam("now"), leases.is_free(invoices))
    .order_by(invoices.c.due_at)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_taking = leases.taking(invoices, Given(account_id=Text(), key=Text()))
_next_due = select(func.min(invoices.c.due_at)).where(invoices.c.due_at > bindparam("now"))


def lease_due(tx: Connection, rounds: Sequence[LeaseRound]) -> list[DueInvoices]:
    """
    Lease invoices that are due, the longest due first.

    Runs inside *tx* and never commits it.
    """
    return [_lease_due(tx, one) for one in rounds]


def _lease_due(tx: Connection, round_: LeaseRound) -> DueInvoices:
    rows = tx.execute(_due, {"now": round_.now, "limit": round_.limit}).mappings().all()
    if rows:
        leased = [{"account_id": row["account_id"], "key": row["key"]} for row in rows]
        at = {"until": round_.until, "process_id": round_.process_id}
        tx.execute(_taking, {**given(leased), **at})
    is_last = len(rows) < round_.limit
    next_due_at = tx.scalar(_next_due, {"now": round_.now}) if is_last else round_.now
    return DueInvoices([_leased_invoice(row) for row in rows], next_due_at)


def _leased_invoice(row: RowMapping) -> Invoice:
    evaluated = orjson.loads(row["callbacks"] or "[]")
    changes = {
        "callbacks": tuple(evaluated_callback(one, row["callback_url"]) for one in evaluated),
        "status": InvoiceStatus(row["status"]),
        "lease_token": row["lease_token"] + 1,
    }
    return Invoice(**{**row, **changes})


def take_steps(tx: Connection, items: Sequence[StepToTake]) -> list[Sequence[Delivery] | None]:
    """
    Write steps and give up their leases: state, event and deliveries together.

    Runs inside *tx* and never commits it.

    Returns:
        For each step its deliveries as they were inserted, leased or not; None if its lease was
        no longer held, and nothing was written.

    Raises:
        Undecided: if some of several leases were no longer held; see `leases`.
    """
    if not leases.give_up(tx, _moving, starmap(_move, items)):
        return [None]
    rows, new = list[tuple[Any, ...]](), list[Delivery]()
    for step, new_of_step, _ in items:
        if step.event:
            rows.append(_event_row(step.invoice, step.event, step.invoice.event_count + 1))
            new += new_of_step
    insert_rows(tx, events, rows)
    process_id = items[0][2]
    inserted = insert(tx, new, process_id)
    if len(items) == 1:
        return [inserted]
    ordered = iter(inserted)
    return [list(islice(ordered, len(new_of_step))) for _, new_of_step, _ in items]


def record_events(tx: Connection, items: Sequence[StepToTake]) -> list[Sequence[Delivery]]:
    """
    Write events and their deliveries without holding the leases of the invoices.

    The invoice loses its lease: a step of its collection in progress would otherwise give its event
    the same sequence number. The invoice is then leased again.

    Runs inside *tx* and never commits it.

    Returns:
        For each event its deliveries as they were inserted, leased or not.
    """
    return [_record_event(tx, *item) for item in items]


def _record_event(
    tx: Connection, step: Step, new: Sequence[Delivery], process_id: int | None
) -> Sequence[Delivery]:
    counting = (
        update(invoices)
        .where(invoices.c.account_id == step.invoice.account_id, invoices.c.key == step.invoice.key)
        .values(
            event_count=invoices.c.event_count + 1,
            lease_token=invoices.c.lease_token + 1,
            leased_until=None,
            leased_by=None,
        )
        .returning(invoices.c.event_count)
    )
    sequence = tx.execute(counting).scalar_one()
    if step.event:
        insert_rows(tx, events, [_event_row(step.invoice, step.event, sequence)])
    if sequence > 1:
        # It has to wait for the deliveries of the earlier events.
        new = [replace(one, leased_until=None) for one in new]
    return insert(tx, [replace(one, sequence=sequence) for one in new], process_id)


_moved = leases.held(status=Text(), due_at=invoices.c.due_at.type, new_event_count=Integer())
_moving = (
    leases.giving_up(invoices, _moved)
    .where(leases.is_legal(invoices, _moved, INVOICE_MOVES))
    .values(
        status=_moved.c.status,
        due_at=_moved.c.due_at,
        event_count=invoices.c.event_count + _moved.c.new_event_count,
    )
)


def _move(step: Step, *_: object) -> dict[str, Any]:
    return {
        "account_id": step.invoice.account_id,
        "key": step.invoice.key,
        "token": step.invoice.lease_token,
        "status": step.status and step.status.value,
        "due_at": microseconds(step.due_at),
        "new_event_count": 1 if step.event else 0,
    }


def _event_row(invoice: Invoice, event: Event, sequence: int) -> tuple[Any, ...]:
    return (
        invoice.account_id,  # account_id
        invoice.key,  # invoice_key
        sequence,  # sequence
        event.description,  # description
        event.paid,  # paid
        event.collector,  # collector
        microseconds(event.at),  # at
    )
