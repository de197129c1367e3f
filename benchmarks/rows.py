"""Fills a database with pending deliveries, faster than invoices could be sent in."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert

from service.app import DEV_ACCOUNT, announce
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.storage.engine import Database
from service.storage.schema import migrate
from service.storage.tables import deliveries, events, invoices

BATCH = 5_000


async def fill(database_url: str, count: int, receiver_url: str) -> None:
    """Bring the database to its schema and add *count* invoices that are due at *receiver_url*."""
    database = Database(database_url)
    try:
        await migrate(database)
        for start in range(1, count + 1, BATCH):
            await database.write(_adder(start, min(count + 1, start + BATCH), receiver_url))
    finally:
        await database.close()


def _adder(start: int, end: int, receiver_url: str) -> Any:
    def add(tx: Connection) -> None:
        at = datetime.now(UTC)
        rows = list(_rows(range(start, end), receiver_url, at))
        for table, column in ((invoices, 0), (events, 1), (deliveries, 2)):
            tx.execute(insert(table), [row[column] for row in rows])

    return add


def _rows(numbers: range, receiver_url: str, at: datetime) -> Iterator[tuple[dict[str, Any], ...]]:
    common = {"callback": INVOICE_NOTIFICATION.name, "origin": receiver_url}
    for number in numbers:
        url = f"{receiver_url}/invoices/pending-{number}"
        announced = announce(INVOICE_NOTIFICATION.name, "Invoice paid", True)
        invoice = {
            "key": number,
            "account_id": DEV_ACCOUNT,
            "id": f"pending-{number}",
            "customer": "Mr. Richie Rich",
            "total_minor": 999900,
            "currency": "USD",
            "status": "paid",
            "created_at": at,
            "callback_url": receiver_url,
            "url": url,
            "event_count": 1,
            "lease_token": 1,
            **common,
        }
        event = {"description": "Invoice paid", "paid": True, "collector": "sandbox", "at": at}
        delivery = {
            "id": announced.id,
            "account_id": DEV_ACCOUNT,
            "url": url,
            "body": announced.body,
            "status": "pending",
            "attempt_count": 0,
            "failure_count": 0,
            "created_at": at,
            "due_at": at,
            "lease_token": 0,
            **common,
        }
        place = {"invoice_key": number, "sequence": 1}
        yield invoice, {**event, **place}, {**delivery, **place}
