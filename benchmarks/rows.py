"""
Fills a database with invoices that have their event and delivery, faster than they could be sent.

One row of each table is written down here; the database makes all others of it by counting. A
number stands where rows have to differ, and instants lie apart as if the rows had come in turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import (
    CTE,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Insert,
    Table,
    Text,
    cast,
    func,
    insert,
    literal,
    select,
)

from benchmarks.errors import BenchmarkError
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.database.opening import open_database
from service.development import DEV_ACCOUNT
from service.errors import StorageUnavailable
from service.storage.schema import migrate
from service.storage.tables import attempts, deliveries, events, invoices, microseconds

NUMBER = "{number}"
DIGITS = 10
KEY = "0" * (32 - DIGITS) + NUMBER
"""As long as the keys of the service, and earlier than all of them."""

SPACING = timedelta(milliseconds=10)
BATCH = 20_000


@dataclass(frozen=True, slots=True)
class Rows:
    """
    *count* paid invoices of the development account, whose ids begin with *run*.

    Each has an event and its delivery to *receiver_url*: delivered by one attempt, or pending and
    due since a moment ago. With *due_at*, all are due at that very instant.
    """

    run: str
    count: int
    receiver_url: str
    is_delivered: bool = False
    due_at: datetime | None = None


def fill(database_url: str, rows: Rows) -> None:
    """
    Bring the database to its schema and add *rows*.

    Raises:
        BenchmarkError: if the database cannot take them.
    """
    try:
        asyncio.run(_fill(database_url, rows))
    except (StorageUnavailable, OSError) as error:
        raise BenchmarkError(f"the database could not be filled: {error}") from error


async def _fill(database_url: str, rows: Rows) -> None:
    database = open_database(database_url)
    models = _models(rows)
    try:
        await migrate(database)
        for start in range(1, rows.count + 1, BATCH):
            numbers = range(start, min(rows.count + 1, start + BATCH))
            await database.write(_add, models, rows, numbers)
    finally:
        await database.close()


def _add(
    tx: Connection, models: Mapping[Table, Mapping[str, Any]], rows: Rows, numbers: range
) -> None:
    for table, model in models.items():
        tx.execute(_insertion(table, model, rows, numbers))


def _insertion(table: Table, model: Mapping[str, Any], rows: Rows, numbers: range) -> Insert:
    """The statement that inserts the *numbers* of *rows*, made of *model*, into *table*."""
    counting = _counting(numbers)
    number = counting.c.number
    values = [_value(table.c[name], value, number, rows) for name, value in model.items()]
    return insert(table).from_select(list(model), select(*values).select_from(counting))


def _counting(numbers: range) -> CTE:
    first = select(literal(numbers.start, BigInteger).label("number"))
    counting = first.cte("counting", recursive=True)
    following = select(counting.c.number + 1).where(counting.c.number < numbers.stop - 1)
    return counting.union_all(following)


def _value(
    column: Column[Any], value: Any, number: ColumnElement[int], rows: Rows
) -> ColumnElement[Any]:
    """*value*, or what becomes of it in the row with *number*."""
    if isinstance(value, str) and NUMBER in value:
        before, _, after = value.partition(NUMBER)
        digits = func.substr(cast(number + 10**DIGITS, Text), 2)
        return literal(before, Text) + digits + literal(after, Text)
    if isinstance(value, datetime) and not rows.due_at:
        apart = SPACING // timedelta(microseconds=1)
        return literal(microseconds(value), BigInteger) - (rows.count - number) * apart
    return literal(value, column.type)


def _models(rows: Rows) -> dict[Table, dict[str, Any]]:
    """One row of each table, in the order in which they can be inserted."""
    at, url = rows.due_at or datetime.now(UTC), f"{rows.receiver_url}/invoices/{rows.run}-{NUMBER}"
    event = {"description": "Invoice paid", "paid": True}
    account = {"account_id": DEV_ACCOUNT}
    place = {**account, "invoice_key": KEY, "sequence": 1}
    callback = {"callback": INVOICE_NOTIFICATION.name, "url": url, "origin": rows.receiver_url}
    models = {
        invoices: {
            **account,
            "key": KEY,
            "id": f"{rows.run}-{NUMBER}",
            "title": "Expensive invoice",
            "customer": "Mr. Richie Rich",
            "total_minor": 999900,
            "currency": "USD",
            "status": "paid",
            "created_at": at,
            "callback_url": rows.receiver_url,
            "callbacks": orjson.dumps([list(callback.values())]).decode(),
            "event_count": 1,
            "lease_token": 1,
            "request_id": KEY,
        },
        events: {
            **place,
            **event,
            "collector": "sandbox",
            "at": at,
        },
        deliveries: {
            **place,
            **callback,
            "id": f"msg_{KEY}",
            "body": INVOICE_NOTIFICATION.render(event),
            "status": "pending",
            "attempt_count": 0,
            "failure_count": 0,
            "created_at": at,
            "due_at": at,
            "lease_token": 0,
            "cause": "event",
        },
    }
    if rows.is_delivered:
        settled = {"status": "delivered", "attempt_count": 1, "settled_at": at, "lease_token": 1}
        models[deliveries].update(settled)
        models[attempts] = {
            **account,
            "delivery_id": f"msg_{KEY}",
            "number": 1,
            "started_at": at,
            "duration_ms": 2,
            "status_code": 200,
            "outcome": "delivered",
            "response_body": '{"ok": true}',
            "cause": "event",
        }
    return models
