from datetime import UTC, datetime, timedelta

import pytest

from service.app.assembling import assemble
from service.app.edges import Edges
from service.app.process import DEVELOPMENT
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.collection.sandbox import Sandbox
from service.loops import running_loops
from service.settings import Settings
from service.storage.history import DeliveryFilter
from service.storage.schema import migrate
from tests.clock import PATIENCE_SECONDS
from tests.fakes import FakeReceivers
from tests.mails import FakeTransport
from tests.rows import ONE
from tests.storage.older import REVISIONS, insert_rows, up


def an_invoice_row(number, status, *, origin=ONE, **changes):
    """A row of `invoices` on the first schema, due for collection."""
    values = {
        **{"key": f"{number:032x}", "account_id": "dev", "id": f"i{number}", "title": None},
        **{"customer": "Ms. A", "customer_email": None, "total_minor": 1, "currency": "USD"},
        **{"status": status, "created_at": 1, "callback_url": origin},
        **{"callback": INVOICE_NOTIFICATION.name, "url": f"{origin}/invoices/i{number}"},
        **{"origin": origin, "event_count": 0, "due_at": 1, "leased_until": None},
        "lease_token": 0,
    }
    if origin is None:
        values |= {"callback": None, "url": None}
    return {**values, **changes}


def a_delivery_row(number, status, **changes):
    """A row of `deliveries` on the first schema, for the first event of the invoice *number*."""
    return {
        **{"id": f"msg_{number}", "account_id": "dev", "invoice_key": f"{number:032x}"},
        **{"sequence": 1, "callback": INVOICE_NOTIFICATION.name},
        **{"url": f"{ONE}/invoices/i{number}", "origin": ONE, "body": b'{"old": %d}' % number},
        **{"status": status, "reason": None, "attempt_count": 0, "failure_count": 0},
        **{"created_at": 1, "due_at": 1, "settled_at": None, "leased_until": None},
        **{"lease_token": 0, **changes},
    }


def an_event_row(number):
    """The first event of the invoice *number*."""
    return {
        **{"invoice_key": f"{number:032x}", "sequence": 1, "description": "Invoice sent"},
        **{"paid": False, "collector": "sandbox", "at": 1},
    }


ROWS = {
    "invoices": [
        an_invoice_row(1, "received"),
        an_invoice_row(2, "received", origin=None),
        an_invoice_row(3, "sent", event_count=1, leased_until=2, lease_token=1),
        an_invoice_row(4, "paid", event_count=1, due_at=None, lease_token=1),
    ],
    "events": [an_event_row(3), an_event_row(4)],
    "deliveries": [
        a_delivery_row(3, "pending", leased_until=2, lease_token=1),
        a_delivery_row(4, "dead", reason="gone", attempt_count=1, failure_count=1, settled_at=2),
    ],
    "attempts": [
        {"delivery_id": "msg_4", "number": 1, "started_at": 1, "duration_ms": 12}
        | {"status_code": 410, "outcome": "refused", "detail": "d", "response_body": None}
    ],
}
"""
Rows that a process of an older version left: one invoice with a callback and one without, both
just accepted; an invoice whose collection and first delivery had begun; and a dead delivery.
"""


def paid(invoice_id):
    """The body of the event of a paid invoice."""
    return b'{"description":"Invoice paid","paid":true,"invoice_id":"%s"}' % invoice_id.encode()


@pytest.mark.parametrize("revision", REVISIONS)
async def test_rows_of_an_older_version_are_processed(empty, revision):
    """Rows of an older version are leased, collected, delivered and redelivered."""
    await up(empty, revision)
    await empty.write(insert_rows, ROWS)
    receivers = FakeReceivers()
    edges = Edges(
        database=empty,
        sender=receivers,
        collector=Sandbox(timedelta(0)),
        mail_transport=FakeTransport(),
    )

    await migrate(empty)
    service = assemble(Settings(), DEVELOPMENT, edges)
    await service.store.redeliver("dev", "msg_4", datetime.now(UTC))
    loops = service.collection, service.dispatcher
    async with running_loops(loops, drain_seconds=PATIENCE_SECONDS):
        await receivers.answered.reaches(4)

    invoices, _ = await service.store.history.list_invoices("dev", status=None, after=None, limit=9)
    assert {"i1": "paid", "i2": "paid", "i3": "paid", "i4": "paid"} == {
        one["id"]: one["status"] for one in invoices
    }
    sent = {}
    for request in receivers.requests.entries:
        sent.setdefault(request.url, []).append(request.body)
    assert {
        f"{ONE}/invoices/i1": [paid("i1")],
        f"{ONE}/invoices/i3": [b'{"old": 3}', paid("i3")],
        f"{ONE}/invoices/i4": [b'{"old": 4}'],
    } == sent
    listed, _ = await service.store.history.list_deliveries(
        "dev", DeliveryFilter(), after=None, limit=9
    )
    found = [await service.store.history.find_delivery("dev", one["id"]) for one in listed]
    assert {
        ("i1", 1): ("delivered", ["delivered"]),
        ("i3", 1): ("delivered", ["lost", "delivered"]),
        ("i3", 2): ("delivered", ["delivered"]),
        ("i4", 1): ("delivered", ["refused", "delivered"]),
    } == {
        (one["invoice_id"], one["sequence"]): (
            one["status"],
            [attempt["outcome"] for attempt in one["attempts"]],
        )
        for one in found
    }
