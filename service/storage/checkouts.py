"""
Checkouts: one at most of an invoice can be paid, and each is looked at until it has ended.

Keeps invariant 9, with a unique index. All that is written about a checkout is a fact that the
collector has told, and statuses only advance: a lease is therefore no more than a later `due_at`.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, insert, select, update

from service.domain.invoice import Invoice
from service.domain.payment import ACTIVE, Checkout, CheckoutStatus
from service.domain.states import PAYABLE, InvoiceStatus
from service.storage.fairly import lease_fairly
from service.storage.invoices import as_invoice
from service.storage.tables import checkouts, invoices
from service.values import value


@value()
class DueCheckout:
    """A checkout that is due, and its invoice."""

    checkout: Checkout
    invoice: Invoice


def begin(tx: Connection, new: Checkout) -> Checkout | None:
    """
    The checkout of the invoice that can be paid: the one it has, or *new*.

    Runs inside *tx* and never commits it.

    Returns:
        None if the invoice cannot be paid in the state in which it is.
    """
    status, has_mismatch = locked(tx, new.account_id, new.invoice_key)
    active = find_active(tx, new.account_id, new.invoice_key)
    if active:
        return active
    if status not in PAYABLE or has_mismatch:
        return None
    tx.execute(insert(checkouts), {name: getattr(new, name) for name in _NAMES})
    return new


def locked(tx: Connection, account_id: str, invoice_key: str) -> tuple[InvoiceStatus, bool]:
    """The status of an invoice, and whether it has a mismatch; its row is locked from then on."""
    row = tx.execute(
        select(invoices.c.status, invoices.c.mismatch)
        .where(invoices.c.account_id == account_id, invoices.c.key == invoice_key)
        .with_for_update()
    ).one()
    return InvoiceStatus(row.status), bool(row.mismatch)


def find_active(tx: Connection, account_id: str, invoice_key: str) -> Checkout | None:
    """The checkout of an invoice that has not ended; None if there is none."""
    of_invoice = (checkouts.c.account_id == account_id, checkouts.c.invoice_key == invoice_key)
    row = tx.execute(select(*_COLUMNS).where(*of_invoice, is_active)).one_or_none()
    return _checkout(row._mapping) if row else None


def find(tx: Connection, account_id: str, checkout_id: str) -> Checkout | None:
    """One checkout; None if there is none of that id."""
    row = tx.execute(select(*_COLUMNS).where(_is(account_id, checkout_id))).one_or_none()
    return _checkout(row._mapping) if row else None


def lease_due(tx: Connection, now: datetime, until: datetime, limit: int) -> list[DueCheckout]:
    """
    Lease checkouts that are due until *until*, fairly among accounts: that is their due time then.

    Runs inside *tx* and never commits it.
    """
    leased = lease_fairly(tx, checkouts, now, until, limit)
    return [_found(tx, account_id, checkout_id) for account_id, checkout_id in leased]


def opened(
    tx: Connection, known: Checkout, session_id: str, url: str | None, due_at: datetime
) -> Checkout | None:
    """
    Record that the collector has *known*, where it is paid, and when it is asked about it.

    Returns:
        The checkout as it is then; None if it is not known.
    """
    tx.execute(
        update(checkouts)
        .where(_is(known.account_id, known.id), checkouts.c.status == CheckoutStatus.CREATING)
        .values(
            status=CheckoutStatus.OPEN,
            session_id=session_id,
            url=url,
            due_at=due_at,
            failing_since=None,
        )
    )
    return find(tx, known.account_id, known.id)


def failed(tx: Connection, known: Checkout) -> None:
    """Record that a failure is stored for the idempotency key of *known*."""
    tx.execute(
        update(checkouts)
        .where(_is(known.account_id, known.id), checkouts.c.failure_count == known.failure_count)
        .values(failure_count=known.failure_count + 1)
    )


def change(tx: Connection, known: Checkout, changes: Mapping[str, Any]) -> bool:
    """Change a checkout, unless it was paid: False then."""
    is_it = (_is(known.account_id, known.id), checkouts.c.status != CheckoutStatus.PAID)
    return bool(tx.execute(update(checkouts).where(*is_it).values(changes)).rowcount)


def close(tx: Connection, known: Checkout, due_at: datetime | None = None) -> None:
    """End a checkout without money; with *due_at*, the collector is asked about it once more."""
    change(tx, known, {"status": CheckoutStatus.CLOSED, "due_at": due_at, "failing_since": None})


def is_declined(tx: Connection, known: Checkout) -> bool:
    """Whether an attempt to pay a checkout was declined."""
    stored = find(tx, known.account_id, known.id)
    return stored is not None and stored.is_declined


def is_processing(tx: Connection, known: Checkout) -> None:
    """Record that the customer has finished, and that the money is on its way."""
    tx.execute(
        update(checkouts)
        .where(_is(known.account_id, known.id), checkouts.c.status == CheckoutStatus.OPEN)
        .values(status=CheckoutStatus.PROCESSING, url=None)
    )


def looked_at(
    tx: Connection, known: Checkout, due_at: datetime | None, failing_since: datetime | None
) -> None:
    """
    Record when the collector is asked about *known* next, unless it was made due meanwhile.

    *failing_since* is since when it gives no answer; None if it has.
    """
    tx.execute(
        update(checkouts)
        .where(_is(known.account_id, known.id), checkouts.c.due_at == known.due_at)
        .values(due_at=due_at, failing_since=failing_since)
    )


def make_due(tx: Connection, account_id: str, checkout_id: str, now: datetime) -> None:
    """Have the collector asked about a checkout at once, also about one that has ended unpaid."""
    is_it = (_is(account_id, checkout_id), checkouts.c.status != CheckoutStatus.PAID)
    tx.execute(update(checkouts).where(*is_it).values(due_at=now))


# As literals: with parameters, no plan can use the index of active checkouts.
is_active = checkouts.c.status.in_(
    bindparam("active", sorted(map(str, ACTIVE)), expanding=True, literal_execute=True)
)
"""The condition that a checkout has not ended."""

_NAMES = tuple(Checkout.__dataclass_fields__)
_COLUMNS = tuple(checkouts.c[name] for name in _NAMES)


def _checkout(row: Any) -> Checkout:
    return Checkout(**{**row, "status": CheckoutStatus(row["status"])})


def _is(account_id: str, checkout_id: str) -> ColumnElement[bool]:
    return and_(checkouts.c.account_id == account_id, checkouts.c.id == checkout_id)


def _found(tx: Connection, account_id: str, checkout_id: str) -> DueCheckout:
    checkout = find(tx, account_id, checkout_id)
    assert checkout is not None  # noqa: S101 -- it was leased in this transaction
    is_it = (invoices.c.account_id == account_id, invoices.c.key == checkout.invoice_key)
    row = tx.execute(select(invoices).where(*is_it)).mappings().one()
    return DueCheckout(checkout, as_invoice(dict(row)))
