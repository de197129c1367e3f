"""Databases in a folder, and the rows that tests start from."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta

from sqlalchemy import select

from service.database.sqlite import SqliteDatabase
from service.domain.states import Cause, DeliveryStatus, InvoiceStatus
from service.storage.deliveries import LeaseRound
from service.storage.invoices import Call, NewInvoice
from service.storage.schema import migrate
from service.storage.settlements import AttemptOutcome, AttemptRecord, Settlement
from service.storage.steps import LeaseRound as InvoiceRound
from service.storage.steps import NewDelivery, NewEvent, Step
from tests.clock import START
from tests.memory import Tables

ONE, TWO, THREE = (f"https://{name}.example:443" for name in ("one", "two", "three"))
LEASE = timedelta(seconds=30)
SECOND = timedelta(seconds=1)


@asynccontextmanager
async def a_database(folder, kind=SqliteDatabase):
    """A database on the newest schema in *folder*, closed at the end."""
    database = kind(f"sqlite:///{folder}/invoices.db")
    try:
        await migrate(database)
        yield database
    finally:
        await database.close()


def an_invoice(id_="1", *, account_id="dev", origin=ONE, at=START, **changes):
    """A new invoice; nobody is called for it if *origin* is None."""
    values = {
        "account_id": account_id,
        "id": id_,
        "title": None,
        "customer": "Mr. Richie Rich",
        "customer_email": None,
        "total_minor": 999900,
        "currency": "USD",
        "created_at": at,
        "callback_url": origin,
        "call": origin and Call("invoice_notification", f"{origin}/invoices/{id_}", origin),
        "request_id": f"request of {id_}",
    }
    return NewInvoice(**{**values, **changes})


def an_event(description="Invoice paid", *, paid=True, at=START, delivery_id="msg_1"):
    """An event with the delivery that tells of it, or without one."""
    body = b'{"description":"%s","paid":%s}' % (
        description.encode(),
        b"true" if paid else b"false",
    )
    return NewEvent(
        description=description,
        paid=paid,
        at=at,
        delivery=NewDelivery(delivery_id, body) if delivery_id else None,
    )


def a_step(invoice, status=InvoiceStatus.PAID, *, due_at=None, event=None):
    """What the collection of a leased *invoice* came to."""
    return Step(invoice=invoice, status=status, due_at=due_at, collector="sandbox", event=event)


async def lease_invoice(store, *, now=START, until=None, limit=100):
    """Lease the one invoice that is due."""
    due = await store.lease_invoices(InvoiceRound(now, until or now + LEASE, limit))
    (invoice,) = due.invoices
    return invoice


async def add_delivery(store, id_="1", *, account_id="dev", origin=ONE, at=START, delivery_id=None):
    """An invoice that is paid, and its delivery, `msg_{id}` unless told, due at *at*."""
    await store.accept(an_invoice(id_, account_id=account_id, origin=origin, at=at))
    invoice = await lease_invoice(store, now=at)
    event = an_event(at=at, delivery_id=delivery_id or f"msg_{id_}")
    assert await store.take_step(a_step(invoice, event=event))


async def add_two_events(store, id_="1", *, origin=ONE, at=START):
    """An invoice that was sent and paid, with a delivery for each: `msg_{id}a` and `msg_{id}b`."""
    await store.accept(an_invoice(id_, origin=origin, at=at))
    sent = an_event("Invoice sent", paid=False, at=at, delivery_id=f"msg_{id_}a")
    invoice = await lease_invoice(store, now=at)
    assert await store.take_step(a_step(invoice, InvoiceStatus.SENT, due_at=at, event=sent))
    paid = an_event(at=at, delivery_id=f"msg_{id_}b")
    assert await store.take_step(a_step(await lease_invoice(store, now=at), event=paid))


def a_round(*, now=START, until=None, limit=100, origin_limit=100, leased_counts=None):
    """One round of leasing deliveries."""
    rooms = {name: origin_limit - count for name, count in (leased_counts or {}).items()}
    return LeaseRound(now, until or now + LEASE, limit, origin_limit, rooms)


async def lease_deliveries(store, **changes):
    """The deliveries that one round leases, in order."""
    return list((await store.lease_deliveries(a_round(**changes))).deliveries)


async def lease_delivery(store, **changes):
    """The one delivery that is due."""
    (delivery,) = await lease_deliveries(store, **changes)
    return delivery


def a_record(
    number=1,
    outcome=AttemptOutcome.DELIVERED,
    *,
    status_code=200,
    at=START,
    cause=Cause.EVENT,
):
    """An attempt, as it is kept."""
    return AttemptRecord(
        number=number,
        started_at=at,
        duration_ms=12,
        status_code=status_code,
        outcome=outcome,
        detail=None,
        response_body='{"ok": true}',
        cause=cause,
    )


def delivered(delivery, *, at=START):
    """The settlement of an attempt that was answered as declared."""
    return Settlement(
        account_id=delivery.account_id,
        delivery_id=delivery.id,
        lease_token=delivery.lease_token,
        attempt=a_record(delivery.attempt_count + 1, at=at, cause=delivery.cause),
        status=DeliveryStatus.DELIVERED,
        at=at,
        origin=delivery.origin,
    )


def failed(delivery, *, status=DeliveryStatus.PENDING, at=START, **changes):
    """The settlement of an attempt that was refused; it stays pending unless *status* says so."""
    record = a_record(
        delivery.attempt_count + 1,
        AttemptOutcome.REFUSED,
        status_code=500,
        at=at,
        cause=delivery.cause,
    )
    return Settlement(
        account_id=delivery.account_id,
        delivery_id=delivery.id,
        lease_token=delivery.lease_token,
        attempt=record,
        status=status,
        at=at,
        origin=delivery.origin,
        **changes,
    )


async def rows_of(database, table):
    """Every row of *table*, as committed, in the order of its key."""
    return await database.read(lambda tx: rows_in(tx, table))


def rows_in(tx, table):
    """Every row of *table* that *tx* sees, in the order of its key."""
    if isinstance(tx, Tables):
        return tx.rows_of(table)
    query = select(table).order_by(*table.primary_key)
    return [dict(row) for row in tx.execute(query).mappings()]
