"""The webhooks of Stripe: each is taken once, and makes due what it is about."""

from datetime import datetime

from sqlalchemy import Connection, delete, select

from service.database.bulk import insert_rows
from service.storage import checkouts, payments
from service.storage.tables import microseconds, stripe_events
from service.values import value

BATCH = 500
"""Rows that one transaction removes."""


@value(kw_only=True)
class Webhook:
    """The ids in a webhook: its own, and those of what it is about."""

    id: str
    type: str
    checkout_id: str | None = None
    payment_intent: str | None = None
    dispute_id: str | None = None


def take(tx: Connection, account_id: str, webhook: Webhook, now: datetime) -> bool:
    """
    Remember *webhook*, and make due what it is about; False if it was taken before.

    Runs inside *tx* and never commits it.
    """
    about = webhook.payment_intent, webhook.dispute_id
    row = (account_id, webhook.id, *about, microseconds(now))
    if not insert_rows(tx, stripe_events, [row], unless_known=True):
        return False
    if webhook.checkout_id:
        checkouts.make_due(tx, account_id, webhook.checkout_id, now)
    if webhook.payment_intent:
        payments.make_intent_due(tx, account_id, webhook.payment_intent, webhook.dispute_id, now)
    return True


def remove_old(tx: Connection, before: datetime) -> bool:
    """Remove some of the webhooks that were taken before *before*; False if none is left."""
    old = select(stripe_events.c.account_id, stripe_events.c.id)
    rows = tx.execute(old.where(stripe_events.c.received_at < before).limit(BATCH)).all()
    for account_id, id_ in rows:
        is_it = (stripe_events.c.account_id == account_id, stripe_events.c.id == id_)
        tx.execute(delete(stripe_events).where(*is_it))
    return len(rows) == BATCH
