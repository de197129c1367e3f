"""
The collection of invoices: leased when due, advanced by one step at a time, and reports about them.

A step or a report writes the new state of the invoice, the event and the deliveries of that event
in one transaction: none of them ever exists without the others. The same goes for the mail that a
step commits, and for the attempt at a mail that a report records.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache, partial
from itertools import islice, starmap
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Integer,
    Text,
    Update,
    and_,
    case,
    func,
    insert,
    literal_column,
    null,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from service.database.at_once import AtOnce, Found
from service.database.bulk import Given, given_rows, insert_rows, inserted_from, row_names
from service.database.compiled import as_json, text_for_driver
from service.domain.delivery import Delivery
from service.domain.invoice import Event, Invoice, Step
from service.domain.states import COLLECTING, INVOICE_MOVES
from service.storage import leases, mails
from service.storage.deliveries import insert as insert_deliveries
from service.storage.deliveries import new_rows
from service.storage.feed import stored_callbacks
from service.storage.invoices import as_invoice
from service.storage.receivers import is_resting
from service.storage.tables import deliveries, events, invoices, microseconds
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
    new_mails = [step.mail for step, *_ in items if step.mail]
    if new_mails:
        mails.insert(tx, new_mails)
    return [*insert_events(tx, items)]


def insert_events(
    tx: Connection, items: Sequence[StepToTake], *, unless_known: bool = False
) -> list[Sequence[Delivery]]:
    """
    Insert the events of steps, and the deliveries of these; see `deliveries.insert`.

    Runs inside *tx* and never commits it.

    Returns:
        For each step its deliveries as they were inserted.
    """
    rows, new = list[tuple[Any, ...]](), list[Delivery]()
    for step, new_of_step, _ in items:
        if step.event:
            sequence = step.invoice.event_count + 1
            rows.append(_event_row(step.invoice, step.event, sequence, new_of_step))
            new += new_of_step
    insert_rows(tx, events, rows, unless_known=unless_known)
    inserted = insert_deliveries(tx, new, items[0][2], unless_known=unless_known)
    if len(items) == 1:
        return [inserted]
    ordered = iter(inserted)
    return [list(islice(ordered, len(new_of_step))) for _, new_of_step, _ in items]


def take_steps_at_once(items: Sequence[StepToTake]) -> AtOnce | None:
    """The statement that does `take_steps` where no mail is to be written."""
    if any(step.mail for step, *_ in items):
        return None
    rows = [{**_move(step), **event_columns(step, new)} for step, new, _ in items]
    return leases.given_up_at_once(
        _taking_at_once(), rows, new_deliveries(items), results=partial(_taken, items, rows)
    )


def new_deliveries(items: Sequence[StepToTake]) -> str:
    """The rows of the deliveries of steps, as `telling_at_once` takes them."""
    rows = new_rows([one for _, new, _ in items for one in new], items[0][2])
    names = row_names(deliveries)
    return as_json([dict(zip(names, row, strict=True)) for row in rows])


def _taken(
    items: Sequence[StepToTake], rows: Sequence[Mapping[str, Any]], found: Found
) -> list[Sequence[Delivery] | None]:
    """The result of each step; *found* has the steps, and the deliveries without a lease."""
    steps = [(account_id, key) for account_id, key, is_step in found if is_step]
    waiting = {key for _, key, is_step in found if not is_step}
    are_taken = leases.are_among(rows, steps)
    return [
        as_inserted(new, waiting) if is_taken else None
        for (_, new, _), is_taken in zip(items, are_taken, strict=True)
    ]


def as_inserted(new: Sequence[Delivery], waiting: set[str]) -> Sequence[Delivery]:
    """The *new* deliveries; those whose ids are in *waiting* have no lease."""
    if not waiting:
        return new
    return [replace(one, leased_until=None) if one.id in waiting else one for one in new]


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
    return insert_deliveries(
        tx, [replace(one, sequence=row.event_count) for one in new], process_id
    )


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

_CHANGES = {
    "status": Text(),
    "due_at": invoices.c.due_at.type,
    "new_event_count": Integer(),
}
OF_EVENT = row_names(events)[2:]
"""What is written of an event, besides the account and the invoice."""


def _moving_of(moved: Given) -> Update:
    return (
        leases.giving_up(invoices, moved)
        .where(
            leases.is_legal(
                invoices, moved, {one: INVOICE_MOVES[one] | {_AS_IT_IS} for one in COLLECTING}
            )
        )
        .values(
            status=case((moved.c.status == _AS_IT_IS, invoices.c.status), else_=moved.c.status),
            due_at=moved.c.due_at,
            event_count=invoices.c.event_count + moved.c.new_event_count,
        )
    )


_moving = _moving_of(leases.held(**_CHANGES))


@cache
def _taking_at_once() -> str:
    """
    Gives up leases, and writes the events and deliveries of the leases that were still held.

    It returns these leases, and the deliveries that were inserted without a lease.
    """
    rows = leases.held(**_CHANGES, **{name: events.c[name].type for name in OF_EVENT})
    moved = (
        _moving_of(rows)
        .returning(rows.c.account_id, rows.c.key, *(rows.c[name] for name in OF_EVENT))
        .cte("moved")
    )
    return telling_at_once(moved)


def telling_at_once(moved: CTE) -> str:
    """
    The statement that inserts the events and the deliveries of the invoices *moved*.

    *moved* has the columns `OF_EVENT` of each; the deliveries are the second parameter of the
    statement, see `new_deliveries`. It returns the invoices, and the deliveries without a lease.
    """
    event = {"invoice_key": moved.c.key, **dict(moved.c.items())}
    names, values = inserted_from(events, "postgresql", event)
    told = insert(events).from_select(names, values.where(moved.c.sequence.is_not(None)))
    made = _inserting(moved)
    found = union_all(
        select(moved.c.account_id, moved.c.key, literal_column("true")),
        select(*made.c, literal_column("false")),
    )
    return text_for_driver(found.add_cte(told.cte("told")))


def _inserting(moved: CTE) -> CTE:
    """Inserts deliveries of the invoices *moved*; selects those that are not leased."""
    new = given_rows(deliveries, 2)
    of_moved = and_(new.c.account_id == moved.c.account_id, new.c.invoice_key == moved.c.key)
    rests = is_resting(new.c.receiver, new.c.origin, new.c.created_at)
    due = select(*new.c, rests.label("rests")).join_from(new, moved, of_moved).cte("due")
    leased = {
        "leased_until": case((~due.c.rests, due.c.leased_until)),
        "lease_token": case((due.c.rests, 0), else_=due.c.lease_token),
        "leased_by": case((~due.c.rests, due.c.leased_by)),
    }
    names, values = inserted_from(deliveries, "postgresql", {**dict(due.c.items()), **leased})
    made = (
        insert(deliveries)
        .from_select(names, values)
        .returning(deliveries.c.account_id, deliveries.c.id, deliveries.c.leased_until)
        .cte("made")
    )
    waiting = select(made.c.account_id, made.c.id).where(made.c.leased_until.is_(None))
    return waiting.cte("waiting")


def event_columns(step: Step, new: Sequence[Delivery]) -> dict[str, Any]:
    """The columns `OF_EVENT` of the event of *step*, if it has one."""
    if step.event is None:
        return {}
    row = _event_row(step.invoice, step.event, step.invoice.event_count + 1, new)
    return dict(zip(OF_EVENT, row[2:], strict=True))


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
