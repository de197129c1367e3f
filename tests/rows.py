"""Databases in a folder, and rows for tests."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

from sqlalchemy import select

from service.database.sqlite import SqliteDatabase
from service.domain.delivery import (
    Attempt,
    Dead,
    Delivered,
    Delivery,
    ReceiverState,
    Retry,
    receiver_of,
)
from service.domain.invoice import EvaluatedCallback, Event, Invoice, Step
from service.domain.listening import listener_origin
from service.domain.outcomes import AttemptOutcome
from service.domain.states import DeadReason, DeliveryStatus, InvoiceStatus
from service.storage.deliveries import LeaseRound
from service.storage.leases import LeaseRound as InvoiceRound
from service.storage.schema import migrate
from service.storage.waiting import Chain
from tests.clock import START
from tests.memory import Tables

CALLBACK = "invoice_notification"
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


def an_invoice(id_="1", *, account_id="dev", origin=ONE, path="", at=START, **changes):
    """A new invoice for a receiver at *path* of *origin*; without a callback if that is None."""
    values = {
        "account_id": account_id,
        "id": id_,
        "title": None,
        "customer": "Mr. Richie Rich",
        "customer_email": None,
        "total_minor": 999900,
        "currency": "USD",
        "decimals": 2,
        "created_at": at,
        "callback_url": origin and origin + path,
        "callbacks": (a_callback(origin, id_, path=path),) if origin else (),
        "request_id": f"request of {id_}",
    }
    return Invoice(**{**values, **changes})


def a_callback(origin, id_="1", name=CALLBACK, path=""):
    """An evaluated callback for the invoice *id_*."""
    base = f"{origin}{path}"
    return EvaluatedCallback(name, f"{base}/invoices/{id_}", origin, base)


LISTENER_URL = "http://127.0.0.1:8080/listen/"
"""What the callback URLs of listeners begin with, with default settings."""


def for_listener(name, id_="1"):
    """What an invoice *id_* has whose callbacks go to the listener *name*."""
    base = LISTENER_URL + name
    evaluated = EvaluatedCallback(CALLBACK, f"{base}/invoices/{id_}", listener_origin(name), base)
    return {"callback_url": base, "callbacks": (evaluated,)}


def a_receiver(origin=ONE, path="", *, account_id="dev"):
    """The receiver of an account at *path* of *origin*."""
    return receiver_of(account_id, origin + path)


def an_event(description="Invoice paid", *, paid=True, at=START, delivery_id="msg_1"):
    """An event with a callback for a delivery of that id; without an id, it has no callback."""
    return Event(
        description=description,
        paid=paid,
        at=at,
        collector="sandbox",
        callbacks=(CALLBACK,) if delivery_id else (),
        content=Content(description, paid, delivery_id),
    )


@dataclass(frozen=True)
class Content:
    """The content of an event for its callback, and the id of its delivery."""

    description: str
    paid: bool
    delivery_id: str | None


def a_step(invoice, status=InvoiceStatus.PAID, *, due_at=None, event=None):
    """The result of collecting a leased *invoice*."""
    return Step(invoice=invoice, status=status, due_at=due_at, event=event)


def a_delivery(step, *, delivery_id=None, callback=0, leased_until=None):
    """A new delivery of the event of *step*."""
    invoice, event, evaluated = step.invoice, step.event, step.invoice.callbacks[callback]
    body = b'{"description":"%s","paid":%s}' % (
        event.description.encode(),
        b"true" if event.paid else b"false",
    )
    return Delivery(
        id=delivery_id or event.content.delivery_id,
        account_id=invoice.account_id,
        invoice_key=invoice.key,
        invoice_id=invoice.id,
        sequence=invoice.event_count + 1,
        collector=event.collector,
        callback=evaluated.callback,
        url=evaluated.url,
        origin=evaluated.origin,
        receiver=receiver_of(invoice.account_id, evaluated.base),
        body=body,
        accepted_at=invoice.created_at,
        created_at=event.at,
        leased_until=leased_until,
        lease_token=1,
        request_id=invoice.request_id,
        traceparent=invoice.traceparent,
    )


async def take_step(store, step, *, leased_until=None):
    """
    Write *step* with the delivery of its event; returns False if the lease is stale.

    If the store has a dispatcher, the dispatcher writes it, as for the collection.
    """
    has_delivery = step.event and step.event.callbacks and step.invoice.callbacks
    if dispatcher := getattr(store, "dispatcher", None):
        if has_delivery:
            store.ids.next.append(step.event.content.delivery_id.removeprefix("msg_"))
        return await dispatcher.record(step)
    new = [a_delivery(step, leased_until=leased_until)] if has_delivery else []
    return await store.take_step(step, new) is not None


async def lease_invoice(store, *, now=START, until=None, limit=100):
    """Lease the one invoice that is due."""
    due = await store.lease_invoices(InvoiceRound(now, until or now + LEASE, limit))
    (invoice,) = due.invoices
    return invoice


async def add_delivery(store, id_="1", *, at=START, delivery_id=None, **receiver):
    """Add a paid invoice with a delivery, by default `msg_{id}`, that is due at *at*."""
    await store.accept(an_invoice(id_, at=at, **receiver))
    invoice = await lease_invoice(store, now=at)
    event = an_event(at=at, delivery_id=delivery_id or f"msg_{id_}")
    assert await take_step(store, a_step(invoice, event=event))


async def add_two_events(store, id_="1", *, at=START, **receiver):
    """Add an invoice that was sent and paid, with the deliveries `msg_{id}a` and `msg_{id}b`."""
    await store.accept(an_invoice(id_, at=at, **receiver))
    sent = an_event("Invoice sent", paid=False, at=at, delivery_id=f"msg_{id_}a")
    invoice = await lease_invoice(store, now=at)
    assert await take_step(store, a_step(invoice, InvoiceStatus.SENT, due_at=at, event=sent))
    paid = an_event(at=at, delivery_id=f"msg_{id_}b")
    assert await take_step(store, a_step(await lease_invoice(store, now=at), event=paid))


async def waiting_receivers(store, *, now=START):
    """What every receiver with pending deliveries waits for, in the order of the database."""
    chains = [Chain(one, "", "", 10_000) for one in await store.find_accounts("")]
    found = await store.look_along(chains, now) if chains else []
    return sorted(found, key=lambda one: one.receiver)


async def lease_due(store, *, now=START, until=None, limit=100):
    """Lease up to *limit* due deliveries of each receiver that does not rest."""
    looked = await waiting_receivers(store, now=now)
    limits = {one.receiver: limit for one in looked if not one.resting_until}
    asked = [one.receiver for one in looked if one.has_asked]
    return await store.lease_deliveries(LeaseRound(now, until or now + LEASE, limits, asked))


async def lease_deliveries(store, **changes):
    """The deliveries that one round leases, in order."""
    return list((await lease_due(store, **changes)).deliveries)


async def lease_delivery(store, **changes):
    """The one delivery that is due."""
    (delivery,) = await lease_deliveries(store, **changes)
    return delivery


def an_attempt(delivery, outcome, decision, *, status_code=200, at=START, **changes):
    """An attempt for a leased *delivery*."""
    values = {
        "delivery": delivery,
        "number": delivery.attempt_count + 1,
        "started_at": at,
        "ended_at": at,
        "duration_ms": 12,
        "status_code": status_code,
        "response_body": '{"ok": true}',
        "outcome": outcome,
        "decision": decision,
    }
    return Attempt(**{**values, **changes})


def delivered(delivery, *, at=START):
    """An attempt with the declared answer."""
    return an_attempt(delivery, AttemptOutcome.DELIVERED, Delivered(), at=at)


def failed(
    delivery,
    *,
    status=DeliveryStatus.PENDING,
    reason=DeadReason.EXHAUSTED,
    at=START,
    due_at=None,
    held_until=None,
):
    """An attempt that was refused; the next one is due at *due_at*, unless *status* is dead."""
    is_pending = status is DeliveryStatus.PENDING
    decision = Retry((due_at or at) - at) if is_pending else Dead(reason)
    state = a_failing_state(delivery, at=at, held_until=held_until) if held_until else None
    held = {"held_until": held_until, "receiver_state": state}
    return an_attempt(delivery, AttemptOutcome.REFUSED, decision, status_code=500, at=at, **held)


def a_failing_state(delivery, *, at=START, **until):
    """The state of a receiver that has failed."""
    known = {"receiver": delivery.receiver, "origin": delivery.origin}
    return ReceiverState(**known, answered_at=None, failing_since=at, **until)


async def read_all(store, account_id="dev", *, after=None, limit=200):
    """All items of a feed behind a cursor, page by page, and the cursor of the last page."""
    items = []
    while True:
        page = await store.history.feed(account_id, after=after, limit=limit)
        if not page.items:
            return items, str(page.next)
        items += page.items
        after = str(page.next)


async def rows_of(database, table):
    """Every row of *table*, as committed, in the order of its key."""
    return await database.read(lambda tx: rows_in(tx, table))


def rows_in(tx, table):
    """Every row of *table* that *tx* sees, in the order of its key."""
    if isinstance(tx, Tables):
        return tx.rows_of(table)
    return [dict(row) for row in tx.execute(_all_rows(table)).mappings()]


@cache
def _all_rows(table):
    """The statement that reads every row of *table*: making it takes longer than running it."""
    return select(table).order_by(*table.primary_key)
