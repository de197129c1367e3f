"""
The collection of invoices: leased when due, advanced by one step at a time, and reports about them.

A step or a report writes the new state of the invoice, the event and the deliveries of that event
in one transaction: none of them ever exists without the others. The same goes for the mail that a
step commits, and for the attempt at a mail that a report records.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice, starmap
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Text,
    case,
    func,
    null,
    true,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from service.database.bulk import insert_rows
from service.domain.delivery import Delivery
from service.domain.invoice import Event, Invoice, Step
from service.domain.mail import Mail
from service.domain.states import COLLECTING, INVOICE_MOVES
from service.storage import leases, mails
from service.storage.deliveries import insert
from service.storage.feed import stored_callbacks
from service.storage.invoices import as_invoice
from service.storage.tables import events, invoices, microseconds
from service.values import value

StepToTake = tuple[Step, Sequence[Delivery], int | None]
"""A step, the deliveries of its event, and the id of the process that has their leases."""


@value()
class DueInvoices:
    """The result of a lease round; *next_due_at* is when the next one may find more, if ever."""

    invoices: Sequence[Invoice]
    next_due_at: datetime | None


_due = leases.DueRows(invoices, Invoice.__dataclass_fields__)


def lease_due(tx: Connection, rounds: Sequence[leases.LeaseRound]) -> list[DueInvoices]:
    """
    Lease invoices that are due, the longest due first.

    Runs inside *tx* and never commits it.
    """
    found = [_due.lease(tx, one) for one in rounds]
    return [
        DueInvoices([as_invoice(row) for row in rows], next_due_at) for rows, next_due_at in found
    ]


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
    rows, new, new_mails = list[tuple[Any, ...]](), list[Delivery](), list[Mail]()
    for step, new_of_step, _ in items:
        if step.event:
            sequence = step.invoice.event_count + 1
            rows.append(_event_row(step.invoice, step.event, sequence, new_of_step))
            new += new_of_step
        if step.mail:
            new_mails.append(step.mail)
    insert_rows(tx, events, rows)
    if new_mails:
        mails.insert(tx, new_mails)
    process_id = items[0][2]
    inserted = insert(tx, new, process_id)
    if len(items) == 1:
        return [inserted]
    ordered = iter(inserted)
    return [list(islice(ordered, len(new_of_step))) for _, new_of_step, _ in items]


def report(tx: Connection, items: Sequence[StepToTake]) -> list[Sequence[Delivery] | None]:
    """
    Write reports, without holding the leases of the invoices: see `Step`.

    With an event the invoice loses its lease: a step of its collection in progress would otherwise
    give its event the same sequence number. The invoice is then leased again.

    Runs inside *tx* and never commits it.

    Returns:
        For each report its deliveries as they were inserted, leased or not; None if the move was
        not legal, or the lease of the mail no longer held, and the invoice is as it was.
    """
    return [report_one(tx, *item) for item in items]


def report_one(
    tx: Connection, step: Step, new: Sequence[Delivery], process_id: int | None
) -> Sequence[Delivery] | None:
    """Write one report, as `report` does; an attempt at a mail is recorded in either case."""
    if step.mail_attempt and mails.settle(tx, [step.mail_attempt]) == [False]:
        return None
    row = tx.execute(_reporting(step)).one_or_none()
    if row is None:
        return None
    if step.event is None:
        return []
    insert_rows(tx, events, [_event_row(step.invoice, step.event, row.event_count, new)])
    if row.event_count > 1:
        # It has to wait for the deliveries of the earlier events.
        new = [replace(one, leased_until=None) for one in new]
    return insert(tx, [replace(one, sequence=row.event_count) for one in new], process_id)


def _reporting(step: Step) -> ReturningUpdate[tuple[int]]:
    """The statement that changes the invoice of *step*, if that is legal."""
    changes: dict[str, Any] = {}
    is_legal: ColumnElement[bool] = true()
    if step.status:
        sources = [
            source.value for source, targets in INVOICE_MOVES.items() if step.status in targets
        ]
        is_legal = invoices.c.status.in_(sources)
        changes["status"] = step.status.value
        if step.status not in COLLECTING:
            changes["due_at"] = null()
    if step.event or "due_at" in changes:
        changes["lease_token"] = invoices.c.lease_token + 1
        changes["leased_until"] = changes["leased_by"] = null()
    if step.event:
        changes["event_count"] = invoices.c.event_count + 1
    for column, added in (
        (invoices.c.amount_refunded_minor, step.refunded_minor),
        (invoices.c.overpaid_minor, step.overpaid_minor),
    ):
        if added:
            changes[column.name] = func.coalesce(column, 0) + added
    if step.is_mismatch:
        changes["mismatch"] = True
    of_invoice = (
        invoices.c.account_id == step.invoice.account_id,
        invoices.c.key == step.invoice.key,
    )
    return (
        update(invoices)
        .where(*of_invoice, is_legal)
        .values(changes)
        .returning(invoices.c.event_count)
    )


_AS_IT_IS = "as it is"
"""Stands for the status in which an invoice was leased: its mail may have made it `sent` since."""

_moved = leases.held(status=Text(), due_at=invoices.c.due_at.type, new_event_count=Integer())
_moving = (
    leases.giving_up(invoices, _moved)
    .where(
        leases.is_legal(
            invoices, _moved, {one: INVOICE_MOVES[one] | {_AS_IT_IS} for one in COLLECTING}
        )
    )
    .values(
        status=case((_moved.c.status == _AS_IT_IS, invoices.c.status), else_=_moved.c.status),
        due_at=_moved.c.due_at,
        event_count=invoices.c.event_count + _moved.c.new_event_count,
    )
)


def _move(step: Step, *_: object) -> dict[str, Any]:
    return {
        "account_id": step.invoice.account_id,
        "key": step.invoice.key,
        "token": step.invoice.lease_token,
        "status": _AS_IT_IS if step.status is step.invoice.status else str(step.status),
        "due_at": microseconds(step.due_at),
        "new_event_count": 1 if step.event else 0,
    }


def _event_row(
    invoice: Invoice, event: Event, sequence: int, new: Sequence[Delivery]
) -> tuple[Any, ...]:
    return (
        invoice.account_id,  # account_id
        invoice.key,  # invoice_key
        sequence,  # sequence
        event.description,  # description
        event.paid,  # paid
        event.collector,  # collector
        microseconds(event.at),  # at
        stored_callbacks(event, new),  # callbacks
    )
