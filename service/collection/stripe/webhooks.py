"""
What Stripe sends: verified, remembered, and turned into a look at what it is about.

Nothing that a webhook says is believed but its ids: Stripe is asked, so that it does not matter in
which order webhooks come, how often, and whether at all.
"""

import logging
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import orjson

from service.storage.store import Store
from service.storage.webhooks import Webhook

log = logging.getLogger("invoices.collection")

TOLERANCE = timedelta(minutes=5)
"""How far the time of a signature may be from ours: an old one is somebody's copy."""

TYPE_MAX = 100
"""Characters of the type of an event, in the log."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,255}", re.ASCII)
"""An id of Stripe, or of ours."""

_ABOUT_PAYMENTS = frozenset({"charge", "refund", "dispute"})
"""Objects that say something new about a payment that was received."""

_TIME = re.compile(r"(?:^|,)t=([0-9]{1,15})(?=,|$)", re.ASCII)


def is_recent(signature: str, now: datetime) -> bool:
    """Whether the header *signature* was made about *now*; one that has no time was not."""
    times = _TIME.findall(signature)
    return len(times) == 1 and abs(now.timestamp() - int(times[0])) <= TOLERANCE.total_seconds()


async def take(store: Store, account_id: str, body: bytes, now: datetime) -> None:
    """Have Stripe asked about what the webhook *body* is about; one that is known does nothing."""
    webhook = _read(body)
    if webhook is None:
        return
    is_new = await store.money.take_webhook(account_id, webhook, now)
    fields = {"account_id": account_id, "event_id": webhook.id, "type": webhook.type}
    log.info("webhook.taken" if is_new else "webhook.repeated", extra={"fields": fields})


def _read(body: bytes) -> Webhook | None:
    """The ids in a webhook; None if it is about nothing of ours."""
    try:
        event = orjson.loads(body)
        about = event["data"]["object"]
        kind, id_ = str(event["type"]), str(event["id"])
        names = _ids(about)
    except (orjson.JSONDecodeError, AttributeError, LookupError, TypeError):
        return None
    if not _ID.fullmatch(id_) or not names:
        return None
    return Webhook(id=id_, type=kind[:TYPE_MAX], **names)


def _ids(about: Mapping[str, Any]) -> dict[str, str]:
    """The ids of *about* by which our checkout or payment is found."""
    metadata = about.get("metadata") or {}
    kind = about.get("object")
    found = {
        "checkout_id": about.get("client_reference_id") or metadata.get("reference"),
        "payment_intent": about.get("payment_intent") if kind in _ABOUT_PAYMENTS else None,
        "dispute_id": about["id"] if kind == "dispute" else None,
    }
    return {
        name: text for name, text in found.items() if isinstance(text, str) and _ID.fullmatch(text)
    }
