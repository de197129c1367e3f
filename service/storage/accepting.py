"""
Invoices that are accepted with the first step of their collection, in one transaction.

A collector often knows what that step is without asking anybody. Written by itself, it would take a
commit more for each invoice, and the callback would wait for that.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

from sqlalchemy import Connection, and_, select
from sqlalchemy.dialects import postgresql

from service.database.at_once import AtOnce, Found
from service.database.bulk import given_rows, inserted_from, row_names
from service.database.compiled import as_json
from service.domain.delivery import Delivery
from service.domain.invoice import Step
from service.domain.states import Acceptance
from service.storage.invoices import insert_new, new_row
from service.storage.steps import (
    OF_EVENT,
    StepToTake,
    as_inserted,
    event_columns,
    insert_events,
    new_deliveries,
    telling_at_once,
)
from service.storage.tables import events, invoices

Accepted = tuple[Acceptance, Sequence[Delivery] | None]
"""What became of an invoice; the deliveries of its event as they were inserted, if it is stored."""


def accept(tx: Connection, items: Sequence[StepToTake]) -> list[Accepted]:
    """
    Store new invoices as their first steps leave them: state, event and deliveries together.

    An id that is known is treated as `invoices.accept` does; nothing of its step is written.

    Runs inside *tx* and never commits it.
    """
    rows = [_row(step) for step, *_ in items]
    acceptances = insert_new(tx, [step.invoice for step, *_ in items], rows)
    pairs = zip(items, acceptances, strict=True)
    stored = [item for item, acceptance in pairs if acceptance is Acceptance.STORED]
    # `accept_at_once` may have stored some of them a moment ago, with their events.
    inserted = iter(insert_events(tx, stored, unless_known=True) if stored else ())
    return [(one, next(inserted) if one is Acceptance.STORED else None) for one in acceptances]


def accept_at_once(items: Sequence[StepToTake]) -> AtOnce:
    """The statement that does `accept` where all ids are new; otherwise it does not say enough."""
    ordered = sorted(items, key=_account_and_id)
    names = row_names(invoices)
    rows = [
        {**dict(zip(names, _row(step), strict=True)), **_prefixed(event_columns(step, new))}
        for step, new, _ in ordered
    ]
    return AtOnce(
        _accepting_at_once(),
        (as_json(rows), new_deliveries(items)),
        partial(_accepted, items),
    )


def _accepted(items: Sequence[StepToTake], found: Found) -> Sequence[Accepted] | None:
    """The result of each item; *found* has the new invoices, and the deliveries without a lease."""
    waiting = {key for _, key, is_invoice in found if not is_invoice}
    if len(found) - len(waiting) < len(items):
        return None
    return [(Acceptance.STORED, as_inserted(new, waiting)) for _, new, _ in items]


@cache
def _accepting_at_once() -> str:
    """
    Stores the invoices whose ids are new, and their events and deliveries.

    It returns these invoices, and the deliveries that were inserted without a lease.
    """
    of_event = _prefixed({name: events.c[name].type for name in OF_EVENT})
    rows = select(*given_rows(invoices, **of_event).c).cte("rows")
    names, values = inserted_from(invoices, "postgresql", dict(rows.c.items()))
    stored = (
        postgresql.insert(invoices)
        .from_select(names, values)
        .on_conflict_do_nothing()
        .returning(invoices.c.account_id, invoices.c.key)
        .cte("stored")
    )
    is_stored = and_(stored.c.account_id == rows.c.account_id, stored.c.key == rows.c.key)
    columns = [rows.c[f"event_{name}"].label(name) for name in OF_EVENT]
    begun = (
        select(rows.c.account_id, rows.c.key, *columns).join_from(rows, stored, is_stored)
    ).cte("begun")
    return telling_at_once(begun)


def _row(step: Step) -> tuple[Any, ...]:
    event_count = 1 if step.event else 0
    return new_row(step.invoice, step.status or step.invoice.status, event_count, step.due_at)


def _account_and_id(item: StepToTake) -> tuple[str, str]:
    invoice = item[0].invoice
    return invoice.account_id, invoice.id


def _prefixed(columns: dict[str, Any]) -> dict[str, Any]:
    """*columns* of an event under names that the columns of an invoice do not have."""
    return {f"event_{name}": value for name, value in columns.items()}
