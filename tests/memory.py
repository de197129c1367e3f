"""
A database in memory with the same guarantees as the real ones.

The functions of storage are implemented here over plain dictionaries, and `Memory` runs them
instead of those of the service. All code above the database is that of the service. Nothing waits
or runs outside the event loop, so that a test controls the order of events.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import fields, replace
from datetime import timedelta
from enum import Enum

import orjson
from sqlalchemy import Index, UniqueConstraint

from service.database import group_commit
from service.domain import attempt_counts, test_events
from service.domain.attempt_counts import COUNTS, Hour, no_counts
from service.domain.delivery import Delivery, ReceiverState, account_of
from service.domain.explanation import EarlierDelivery
from service.domain.ids import lower_bound, new_id
from service.domain.invoice import FIRST_LEASE_TOKEN, Invoice
from service.domain.listening import is_for_listener
from service.domain.mail import Mail
from service.domain.notices import (
    FAILING_AFTER,
    STILL_FAILING_AFTER,
    Notice,
    NoticeKind,
)
from service.domain.outcomes import AttemptOutcome
from service.domain.receivers import KnownReceiver, id_of
from service.domain.states import (
    COLLECTING,
    INVOICE_MOVES,
    SETTLED,
    Acceptance,
    Cause,
    DeadReason,
    DeliveryStatus,
    InvoiceStatus,
)
from service.domain.waiting import Waits
from service.errors import NotFound, StorageUnavailable, UnknownCursor
from service.storage import (
    accepting,
    accounts,
    attempts,
    backlog,
    checkouts,
    deliveries,
    explaining,
    gates,
    history,
    invoices,
    listen_keys,
    listeners,
    mails,
    notices,
    observations,
    payments,
    receiver_hours,
    receiver_list,
    receivers,
    redelivery,
    retention,
    steps,
    stripe_keys,
    tables,
    transmissions,
    waiting,
    webhooks,
)
from service.storage.accounts import PayKey
from service.storage.backlog import Backlog
from service.storage.deliveries import DueDeliveries
from service.storage.feed import stored_callbacks
from service.storage.mails import DueMails
from service.storage.steps import DueInvoices
from service.storage.store import Store
from tests import memory_money
from tests.clock import PATIENCE_SECONDS

PENDING = DeliveryStatus.PENDING.value

_CONTENT = (
    "title",
    "customer",
    "customer_email",
    "total_minor",
    "currency",
    "callback_url",
    "locale",
)


class Loss(Enum):
    """When the connection of a commit is lost."""

    BEFORE = "nothing was written"
    AFTER = "all was written, without a response"


class Memory:
    """
    Implements `service.database.engine.Database`; several stores may share one.

    Tests may delay its writes, make it unavailable and lose commits: each write takes one of
    *losses*, and None among them is a commit that succeeds.
    """

    def __init__(self, *, has_one_writer=True):
        self.has_one_writer = has_one_writer
        self.writes_at_once = False
        self.is_shared = False
        self.tables = Tables()
        self.losses: deque[Loss | None] = deque()
        self.is_away = False
        self._listening = []
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._is_reached = asyncio.Event()

    async def write(self, work, *args, **options):
        """Run *work* on the tables, as a transaction."""
        self._is_reached.set()
        await self._is_open.wait()
        loss = self.losses.popleft() if self.losses else None
        if self.is_away or loss is Loss.BEFORE:
            raise StorageUnavailable("the memory is away")
        with self.tables:
            result = run(work, self.tables, *args, **options)
        if loss is Loss.AFTER:
            raise StorageUnavailable("the memory was lost during the commit")
        return result

    async def read(self, work, *args, **options):
        """Run *work* on the tables."""
        if self.is_away:
            raise StorageUnavailable("the memory is away")
        return run(work, self.tables, *args, **options)

    browse = read

    async def check(self):
        """Return if the memory is available."""
        if self.is_away:
            raise StorageUnavailable("the memory is away")

    def listen(self, signals):
        """Set the signal of a name at each notification of that name, and once at the start."""
        self._listening.append(signals)
        for signal in signals.values():
            signal.set()

    def notify(self, name, details=()):
        """Set the signal of *name* of every listener."""
        for signals in self._listening:
            signals[name].set_for(details)

    async def close(self):
        """Do nothing."""

    def shut(self):
        """From now on, writes wait."""
        self._is_open.clear()
        self._is_reached.clear()

    def open(self):
        """Writes continue."""
        self._is_open.set()

    async def reached(self):
        """Wait until a write waits."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._is_reached.wait()


def run(work, tx, *args, **options):
    """Run the function of this module that replaces *work*."""
    if work is group_commit.run_batch:
        (batch,) = args
        return [WORK[one](tx, items) for one, items in batch.items()]
    return WORK.get(work, work)(tx, *args, **options)


def memory_store(memory):
    """The store of one process on *memory*."""
    return Store(memory)


class Tables:
    """All rows; a `with` block that fails restores the rows as they were before."""

    def __init__(self):
        self._undo = []
        self._named = {table: Rows(table, self._undo) for table in tables.metadata.sorted_tables}
        self.invoices = self._named[tables.invoices]
        self.events = self._named[tables.events]
        self.deliveries = self._named[tables.deliveries]
        self.attempts = self._named[tables.attempts]
        self.receivers = self._named[tables.receivers]
        self.origins = self._named[tables.origins]
        self.receiver_hours = self._named[tables.receiver_hours]
        self.accounts = self._named[tables.accounts]
        self.account_keys = self._named[tables.account_keys]
        self.account_secrets = self._named[tables.account_secrets]
        self.account_pay_keys = self._named[tables.account_pay_keys]
        self.mails = self._named[tables.mails]
        self.mail_attempts = self._named[tables.mail_attempts]
        self.account_stripe_keys = self._named[tables.account_stripe_keys]
        self.checkouts = self._named[tables.checkouts]
        self.payments = self._named[tables.payments]
        self.refunds = self._named[tables.refunds]
        self.stripe_events = self._named[tables.stripe_events]
        self.listeners = self._named[tables.listeners]
        self.listener_attempts = self._named[tables.listener_attempts]
        self.listen_keys = self._named[tables.listen_keys]

    def __enter__(self):
        return self

    def __exit__(self, error_type, *_):
        if error_type:
            for undo in reversed(self._undo):
                undo()
        self._undo.clear()

    @property
    def has_changed(self):
        """Whether the running transaction has written anything."""
        return bool(self._undo)

    def rows_of(self, table):
        """Copies of all rows of *table*, in the order of its key."""
        return [dict(row) for _, row in sorted(self._named[table].by_key.items())]

    def earlier_of(self, row):
        """The deliveries of earlier events by the same callback of the same invoice."""
        ordered = self.deliveries.by("account_id", "invoice_key", "callback", "sequence")
        key = row["account_id"], row["invoice_key"], row["callback"]
        for sequence in range(1, row["sequence"]):
            if earlier := ordered.get((*key, sequence)):
                yield earlier

    def is_held(self, receiver, now):
        """Whether *receiver* has asked for a hold that ends after *now*."""
        state = self.receivers.get(receiver)
        return bool(state and state["held_until"] and state["held_until"] > now)

    def is_paused(self, receiver):
        """Whether *receiver* gets no attempts until it is resumed."""
        state = self.receivers.get(receiver)
        return bool(state and state["paused_at"])

    def rests_until(self, row, now):
        """Until when the receiver of a delivery gets no attempts, if *now* is before that."""
        state, origin = self.receivers.get(row["receiver"]), self.origins.get(row["origin"])
        ends = [origin and origin["held_until"]]
        ends += [state[name] for name in ("cooldown_until", "held_until")] if state else []
        return max((at for at in ends if at and at > now), default=None)


class Rows:
    """The rows of one table in the order of their insertion, under each of its unique keys."""

    def __init__(self, table, undo):
        self._name = table.name
        self._required = [column.name for column in table.columns if not column.nullable]
        self._by = {names: {} for names in _unique_keys(table)}
        self.by_key = next(iter(self._by.values()))
        self._undo = undo

    def __iter__(self):
        return iter(self.by_key.values())

    def get(self, *key):
        """The row with that primary key, if there is one."""
        return self.by_key.get(key)

    def by(self, *names):
        """All rows by another of the unique keys."""
        return self._by[names]

    def insert(self, row):
        """Add *row*, unless the table's constraints forbid it."""
        if missing := [name for name in self._required if row[name] is None]:
            raise ValueError(f"{self._name} cannot be without {missing}")
        for names, rows in self._by.items():
            key = tuple(row[name] for name in names)
            if key in rows:
                raise ValueError(f"{names} of {self._name} are unique, and {key} is there")
            rows[key] = row
            self._undo.append(lambda rows=rows, key=key: rows.pop(key))

    def remove(self, row):
        """Remove *row* under each of its keys."""
        for names, rows in self._by.items():
            key = tuple(row[name] for name in names)
            del rows[key]
            self._undo.append(lambda rows=rows, key=key: rows.update({key: row}))

    def change(self, row, **changes):
        """Change values of *row* that are not part of a key."""
        before = {name: row[name] for name in changes}
        self._undo.append(lambda: row.update(before))
        row.update(changes)


def _unique_keys(table):
    """
    The columns of the primary key, then those of every other unique key.

    An index on a part of the rows is none here: `memory_money` keeps the one that there is.
    """
    unique = [one for one in table.constraints if isinstance(one, UniqueConstraint)]
    indexes = [one for one in table.indexes if isinstance(one, Index) and one.unique]
    unique += [one for one in indexes if one.dialect_options["sqlite"]["where"] is None]
    return [tuple(one.columns.keys()) for one in (table.primary_key, *unique)]


# Leases


def _is_free(row, now):
    return row["leased_until"] is None or row["leased_until"] <= now


def _holds(row, token):
    """Whether *token* is the token of the current lease on *row*."""
    return row is not None and row["lease_token"] == token and row["leased_until"] is not None


# Invoices


def _accept(tx, items):
    return [_accept_one(tx, *item) for item in items]


def _accept_one(tx, invoice, leased_until, process_id):
    known = tx.invoices.by("account_id", "id").get((invoice.account_id, invoice.id))
    if known:
        is_same = all(known[name] == getattr(invoice, name) for name in _CONTENT)
        return Acceptance.REPLAYED if is_same else Acceptance.CONFLICT
    tx.invoices.insert(
        {
            **{one.name: getattr(invoice, one.name) for one in fields(invoice)},
            "status": invoice.status.value,
            "callbacks": invoices.stored_callbacks(invoice),
            "due_at": invoice.created_at,
            "leased_until": leased_until,
            "lease_token": FIRST_LEASE_TOKEN if leased_until else 0,
            "leased_by": process_id if leased_until else None,
            "amount_refunded_minor": None,
            "overpaid_minor": None,
            "mismatch": None,
        }
    )
    return Acceptance.STORED


def _accept_begun(tx, items):
    return [_accept_begun_one(tx, step, new) for step, new, _ in items]


def _accept_begun_one(tx, step, new):
    acceptance = _accept_one(tx, step.invoice, None, None)
    if acceptance is not Acceptance.STORED:
        return acceptance, None
    row = tx.invoices.get(step.invoice.account_id, step.invoice.key)
    event_count = 1 if step.event else 0
    tx.invoices.change(row, status=step.status.value, due_at=step.due_at, event_count=event_count)
    if step.event:
        _insert_event(tx, step, 1, new)
    return acceptance, [_insert_delivery(tx, one) for one in new]


def _lease_invoices(tx, rounds):
    return [_lease_invoices_of(tx, one) for one in rounds]


def _lease_invoices_of(tx, round_):
    now = round_.now
    waiting = [row for row in tx.invoices if row["due_at"]]
    due = [row for row in waiting if row["due_at"] <= now and _is_free(row, now)]
    leased = sorted(due, key=_due_at)[: round_.limit]
    for row in leased:
        _lease(tx.invoices, row, round_.until)
    later = min((row["due_at"] for row in waiting if row["due_at"] > now), default=None)
    next_due_at = later if len(leased) < round_.limit else now
    return DueInvoices([_leased_invoice(row) for row in leased], next_due_at)


def _lease(rows, row, until, **changes):
    rows.change(row, leased_until=until, lease_token=row["lease_token"] + 1, **changes)


def _due_at(row):
    return row["due_at"]


def _leased_invoice(row):
    values = {one.name: row[one.name] for one in fields(Invoice)}
    values["status"] = InvoiceStatus(row["status"])
    values["callbacks"] = tuple(
        invoices.evaluated_callback(one, row["callback_url"])
        for one in orjson.loads(row["callbacks"] or "[]")
    )
    return Invoice(**values)


# Steps


def _take_steps(tx, items):
    return [_take_step(tx, step, new) for step, new, _ in items]


def _take_step(tx, step, new):
    row = tx.invoices.get(step.invoice.account_id, step.invoice.key)
    status = _status_after(row, step)
    is_known = status == row["status"] or status in INVOICE_MOVES[row["status"]]
    is_legal = row["status"] in COLLECTING and is_known
    if not _holds(row, step.invoice.lease_token) or not is_legal:
        return None
    tx.invoices.change(
        row,
        status=status,
        due_at=step.due_at,
        leased_until=None,
        event_count=row["event_count"] + (1 if step.event else 0),
    )
    if step.event:
        _insert_event(tx, step, step.invoice.event_count + 1, new)
    if step.mail:
        _insert_mail(tx, step.mail)
    return [_insert_delivery(tx, one) for one in new]


def _status_after(row, step):
    """The status after a step; one to the status that was leased moves nothing."""
    return row["status"] if step.status is step.invoice.status else step.status.value


def _report(tx, items):
    return [_report_one(tx, step, new) for step, new, _ in items]


def _report_one(tx, step, new):
    if step.mail_attempt and not _settle_mail(tx, step.mail_attempt):
        return None
    row = tx.invoices.get(step.invoice.account_id, step.invoice.key)
    if step.status and step.status not in INVOICE_MOVES[row["status"]]:
        return None
    sequence = row["event_count"] + (1 if step.event else 0)
    tx.invoices.change(row, event_count=sequence, **_reported(row, step))
    if step.event is None:
        return []
    _insert_event(tx, step, sequence, new)
    if sequence > 1:
        new = [replace(one, leased_until=None) for one in new]
    return [_insert_delivery(tx, replace(one, sequence=sequence)) for one in new]


def _settle_money(tx, item):
    return memory_money.settle(tx, item, _report_one)


def _insert_event(tx, step, sequence, new):
    tx.events.insert(
        {
            "account_id": step.invoice.account_id,
            "invoice_key": step.invoice.key,
            "sequence": sequence,
            "description": step.event.description,
            "paid": step.event.paid,
            "collector": step.event.collector,
            "at": step.event.at,
            "callbacks": stored_callbacks(step.event, new),
            "position": len(tx.events.by_key) + 1,
        }
    )


def _insert_delivery(tx, delivery):
    """Insert a delivery, without its lease if the receiver rests; returns it as inserted."""
    names = {"receiver": delivery.receiver, "origin": delivery.origin}
    if tx.rests_until(names, delivery.created_at) or tx.is_paused(delivery.receiver):
        delivery = replace(delivery, leased_until=None)
    tx.deliveries.insert(
        {
            "account_id": delivery.account_id,
            "id": delivery.id,
            "invoice_key": delivery.invoice_key,
            "sequence": delivery.sequence,
            "callback": delivery.callback,
            "url": delivery.url,
            "origin": delivery.origin,
            "body": delivery.body,
            "status": PENDING,
            "reason": None,
            "attempt_count": 0,
            "failure_count": 0,
            "created_at": delivery.created_at,
            "due_at": delivery.created_at,
            "settled_at": None,
            "leased_until": delivery.leased_until,
            "lease_token": FIRST_LEASE_TOKEN if delivery.leased_until else 0,
            "leased_by": None,
            "cause": Cause.EVENT.value,
            "receiver": delivery.receiver,
            "is_asked": delivery.is_asked,
        }
    )
    return delivery


def _insert_deliveries(tx, new):
    return [_insert_delivery(tx, one) for one in new]


def _reported(row, step):
    """What a report changes in the row of its invoice, besides the count of its events."""
    amounts = {
        "amount_refunded_minor": step.refunded_minor,
        "overpaid_minor": step.overpaid_minor,
    }
    changes = {name: (row[name] or 0) + added for name, added in amounts.items() if added}
    is_collected = step.status is not None and step.status not in COLLECTING
    if step.status:
        changes["status"] = step.status.value
    if is_collected:
        changes["due_at"] = None
    if step.event or is_collected:
        changes |= {"leased_until": None, "lease_token": row["lease_token"] + 1}
    return {**changes, "mismatch": True} if step.is_mismatch else changes


# Mails


def _insert_mail(tx, mail):
    values = {one.name: getattr(mail, one.name) for one in fields(mail)}
    lease = {"due_at": mail.created_at, "settled_at": None, "leased_until": None}
    lease["leased_by"] = None
    tx.mails.insert({**values, "status": PENDING, **lease})


def _has_mail(tx, account_id, invoice_key):
    return any(
        (row["account_id"], row["invoice_key"]) == (account_id, invoice_key) for row in tx.mails
    )


def _has_mail_attempt(tx, attempt):
    wanted = (attempt.mail.account_id, attempt.mail.id, attempt.number, attempt.started_at)
    names = ("account_id", "mail_id", "number", "started_at")
    return any(wanted == tuple(row[name] for name in names) for row in tx.mail_attempts)


def _lease_mails(tx, rounds):
    return [_lease_mails_of(tx, one) for one in rounds]


def _lease_mails_of(tx, round_):
    now = round_.now
    waiting = [row for row in tx.mails if row["status"] == PENDING]
    due = [row for row in waiting if row["due_at"] <= now and _is_free(row, now)]
    counts, turns = Counter(round_.held), {}
    for row in sorted(due, key=_due_at):
        turns[row["id"]] = counts[row["account_id"]]
        counts[row["account_id"]] += 1
    # SQLite goes along the accounts.
    leased = sorted(due, key=lambda row: (turns[row["id"]], row["due_at"], row["account_id"]))
    leased = leased[: round_.limit]
    for row in leased:
        _lease(tx.mails, row, round_.until)
    later = min((row["due_at"] for row in waiting if row["due_at"] > now), default=None)
    found = [Mail(**{one.name: row[one.name] for one in fields(Mail)}) for row in leased]
    return DueMails(found, later if len(leased) < round_.limit else now)


def _settle_mails(tx, items):
    return [_settle_mail(tx, one) for one in items]


def _settle_mail(tx, made):
    row = tx.mails.get(made.mail.account_id, made.mail.id)
    if not _holds(row, made.mail.lease_token):
        return False
    is_pending = made.status.value == PENDING
    tx.mails.change(
        row,
        status=made.status.value,
        attempt_count=made.number,
        due_at=made.due_at or row["due_at"],
        settled_at=None if is_pending else made.ended_at,
        body=row["body"] if is_pending else None,
        leased_until=None,
    )
    tx.mail_attempts.insert(
        {
            "account_id": made.mail.account_id,
            "mail_id": made.mail.id,
            "number": made.number,
            "started_at": made.started_at,
            "outcome": made.outcome.value,
            "code": made.code,
            "detail": made.detail,
        }
    )
    return True


def _release_mails(tx, items):
    return [_release_mail(tx, one) for one in items]


def _release_mail(tx, mail):
    row = tx.mails.get(mail.account_id, mail.id)
    if not _holds(row, mail.lease_token):
        return False
    tx.mails.change(row, leased_until=None)
    return True


def _mails_of_invoice(tx, account_id, invoice_id):
    key = _find_invoice(tx, account_id, invoice_id)["key"]
    rows = [row for row in tx.mails if (row["account_id"], row["invoice_key"]) == (account_id, key)]
    return [
        {
            **{name: of for name, of in row.items() if name != "body"},
            "attempts": [dict(one) for one in tx.mail_attempts if one["mail_id"] == row["id"]],
        }
        for row in _newest(rows, "id")
    ]


# Deliveries


def _lease_deliveries(tx, rounds):
    return [_lease_deliveries_of(tx, one) for one in rounds]


def _lease_deliveries_of(tx, round_):
    pending = _pending_by_receiver(tx)
    found = []
    for receiver in round_.asked:
        if tx.is_paused(receiver):
            continue
        asked = [row for row in pending.get(receiver, ()) if row["is_asked"]]
        found += _free(tx, asked, round_.now)[: deliveries.ASKED_MAX]
    for receiver, limit in round_.limits.items():
        if tx.is_held(receiver, round_.now) or tx.is_paused(receiver):
            continue
        begin = round_.begins.get(receiver)
        due = [
            row
            for row in _due(tx, pending.get(receiver, ()), round_.now)
            if row not in found and (not begin or row["due_at"] >= begin)
        ]
        found += sorted(due, key=_due_at)[:limit]
    lost_count = sum(1 for row in found if row["leased_until"])
    return DueDeliveries([_lease_delivery(tx, row, round_) for row in found], lost_count)


def _pending_by_receiver(tx):
    pending = {}
    for row in tx.deliveries:
        if row["status"] == PENDING:
            pending.setdefault(row["receiver"], []).append(row)
    return pending


def _find_accounts(tx, after):
    found = sorted({account_of(one) for one in _pending_by_receiver(tx)})
    return [one for one in found if one > after][: waiting.ACCOUNTS_MAX]


def _look_along(tx, chains, now):
    pending, looked = _pending_by_receiver(tx), []
    for chain in chains:
        names = sorted(
            one
            for one in pending
            if account_of(one) == chain.account_id
            and one >= chain.start
            and (not chain.end or one < chain.end)
        )
        looked += names[: chain.look]
    return [_waiting(tx, pending[one], now) for one in sorted(looked)]


def _look_at(tx, names, now, begins=None):
    pending, known = _pending_by_receiver(tx), begins or {}
    looked = [(pending[one], known.get(one)) for one in sorted(names) if one in pending]
    return [
        _waiting(tx, rows, now, begin)
        for rows, begin in looked
        if not begin or any(row["due_at"] >= begin for row in rows)
    ]


def _waiting(tx, rows, now, begin=None):
    return waiting.Waiting(
        rows[0]["receiver"],
        rows[0]["origin"],
        min(row["due_at"] for row in rows if not begin or row["due_at"] >= begin),
        min((row["due_at"] for row in rows if row["due_at"] > now), default=None),
        tx.rests_until(rows[0], now),
        any(row["is_asked"] for row in rows),
        tx.is_paused(rows[0]["receiver"]),
    )


def _due(tx, rows, now):
    """The *rows* that may be leased: due, not leased, and the first of their invoice."""
    return [row for row in _free(tx, rows, now) if row["due_at"] <= now]


def _free(tx, rows, now):
    return [row for row in rows if _is_free(row, now) and _is_first_of_its_invoice(tx, row)]


def _is_first_of_its_invoice(tx, row):
    return all(one["status"] != PENDING for one in tx.earlier_of(row))


def _lease_delivery(tx, row, round_):
    lost_at, number = row["leased_until"], row["attempt_count"] + 1
    if lost_at:
        _insert_lost_attempt(tx, row, round_.now, deliveries.ENDED)
        tx.deliveries.change(row, attempt_count=number)
    _lease(tx.deliveries, row, round_.until)
    return _leased_delivery(tx, row)


def _insert_lost_attempt(tx, row, now, detail):
    tx.attempts.insert(
        {
            "account_id": row["account_id"],
            "delivery_id": row["id"],
            "number": row["attempt_count"] + 1,
            "started_at": min(row["leased_until"], now),
            "duration_ms": 0,
            "status_code": None,
            "outcome": AttemptOutcome.LOST.value,
            "detail": detail,
            "response_body": None,
            "cause": row["cause"],
            "transmission": None,
        }
    )


def _leased_delivery(tx, row):
    values = {one.name: row[one.name] for one in fields(Delivery) if one.name in row}
    event = _event_of(tx, row)
    invoice = _invoice_of(tx, row)
    return Delivery(
        **{**values, "cause": Cause(row["cause"])},
        invoice_id=invoice["id"],
        accepted_at=invoice["created_at"],
        request_id=invoice["request_id"],
        traceparent=invoice["traceparent"],
        collector=event["collector"],
    )


def _invoice_of(tx, row):
    """The invoice of a delivery; a test event has none."""
    return tx.invoices.get(row["account_id"], row["invoice_key"]) or {
        "id": row["invoice_key"],
        "created_at": row["created_at"],
        "request_id": row["id"],
        "traceparent": None,
    }


def _event_of(tx, row):
    """The event of a delivery; a test event has none that is stored."""
    return tx.events.get(row["account_id"], row["invoice_key"], row["sequence"]) or {
        "description": test_events.DESCRIPTION,
        "paid": test_events.IS_PAID,
        "collector": test_events.COLLECTOR,
    }


def _release(tx, leased):
    return [_release_one(tx, one, due_at) for one, due_at in leased]


def _release_one(tx, leased, due_at):
    row = tx.deliveries.get(leased.account_id, leased.id)
    if not _holds(row, leased.lease_token):
        return False
    tx.deliveries.change(row, leased_until=None, due_at=due_at or row["due_at"])
    return True


def _settle(tx, made):
    return [_settle_one(tx, one) for one in made]


def _settle_one(tx, attempt):
    delivery, decision = attempt.delivery, attempt.decision
    row = tx.deliveries.get(delivery.account_id, delivery.id)
    if not _holds(row, delivery.lease_token) or row["status"] != PENDING:
        return False
    is_pending = decision.status is DeliveryStatus.PENDING
    reason = getattr(decision, "reason", None)
    tx.deliveries.change(
        row,
        status=decision.status.value,
        reason=reason and reason.value,
        due_at=attempt.ended_at + decision.delay if is_pending else row["due_at"],
        settled_at=None if is_pending else attempt.ended_at,
        leased_until=None,
        attempt_count=row["attempt_count"] + 1,
        failure_count=row["failure_count"] + (decision.status is not DeliveryStatus.DELIVERED),
        cause=Cause.RETRY.value,
        is_asked=False,
    )
    tx.attempts.insert(
        {
            "account_id": delivery.account_id,
            "delivery_id": delivery.id,
            "number": attempt.number,
            "started_at": attempt.started_at,
            "duration_ms": attempt.duration_ms,
            "status_code": attempt.status_code,
            "outcome": attempt.outcome.value,
            "detail": attempt.detail,
            "response_body": attempt.response_body,
            "cause": delivery.cause.value,
            "transmission": transmissions.encoded(attempt),
        }
    )
    _remember(tx, attempt)
    for number in range(1, attempt.number - history.BODIES_MAX + 1):
        if (older := tx.attempts.get(delivery.account_id, delivery.id, number)) is None:
            continue
        if number <= attempt.number - history.ATTEMPTS_MAX:
            tx.attempts.remove(older)
        else:
            tx.attempts.change(older, response_body=None, transmission=None)
    return True


def _remember(tx, attempt):
    if state := attempt.receiver_state:
        new = {one.name: getattr(state, one.name) for one in fields(state)}
        new |= {
            "id": id_of(state.receiver),
            "reason": receivers.reason_of(attempt) if state.failing_since else None,
            "failed_at": state.failing_since,
            "answering_since": state.answered_at,
        }
        known = tx.receivers.get(state.receiver)
        if known is None:
            tx.receivers.insert(new | {"paused_at": None, "notice": None})
        else:
            holds = [at for at in (known["held_until"], new["held_until"]) if at]
            since = new["failing_since"] and (known["failing_since"] or new["failing_since"])
            answering = None if known["failing_since"] else known["answering_since"]
            changes = {
                **new,
                "held_until": max(holds, default=None),
                "failing_since": since,
                "failed_at": new["failed_at"] or known["failed_at"],
                "answering_since": new["answered_at"] and (answering or new["answered_at"]),
            }
            tx.receivers.change(known, **changes)
    if state := attempt.origin_state:
        known = tx.origins.get(state.origin)
        if known is None:
            tx.origins.insert({"origin": state.origin, "held_until": state.cooldown_until})
        else:
            tx.origins.change(known, held_until=state.cooldown_until)


def _observe(tx, observed):
    hours = [hour for one in observed for hour in one.hours]
    for hour in (*hours, *receiver_hours.sums_of_accounts(hours)):
        _add_hour(tx, hour)
    for one in observed:
        known = tx.receivers.get(one.receiver)
        if one.failed_at:
            _observe_failing(tx, one, known)
        elif one.answered_at and known and known["failing_since"]:
            at = {"answered_at": one.answered_at, "answering_since": one.answered_at}
            if (known["failed_at"] or known["failing_since"]) < one.answered_at:
                tx.receivers.change(known, failing_since=None, reason=None, **at)


def _observe_failing(tx, one, known):
    failing = {"failed_at": one.failed_at, "reason": one.reason, "id": id_of(one.receiver)}
    if known is None:
        tx.receivers.insert(
            _new_receiver(one.receiver, one.origin, failing_since=one.failing_since, **failing)
        )
    elif known["answered_at"] is None or known["answered_at"] < one.failed_at:
        failing["failed_at"] = max(known["failed_at"] or one.failed_at, one.failed_at)
        failing["failing_since"] = known["failing_since"] or one.failing_since
        tx.receivers.change(known, answering_since=None, **failing)


def _new_receiver(receiver, origin, **values):
    row = dict.fromkeys(column.name for column in tables.receivers.columns)
    return {**row, "receiver": receiver, "origin": origin, "id": id_of(receiver), **values}


def _add_hour(tx, hour):
    counts = dict(zip(COUNTS, hour.counts, strict=True))
    known = tx.receiver_hours.get(hour.receiver, hour.hour)
    if known is None:
        tx.receiver_hours.insert({"receiver": hour.receiver, "hour": hour.hour, **counts})
    else:
        tx.receiver_hours.change(known, **{name: known[name] + counts[name] for name in COUNTS})


def _remove_old_hours(tx, now):
    oldest = min((row["hour"] for row in tx.receiver_hours), default=now)
    if oldest >= now - receiver_hours.KEPT:
        return False
    rows = [row for row in tx.receiver_hours if row["hour"] == oldest]
    rows.sort(key=lambda row: row["receiver"])
    for row in rows[: receiver_hours.BATCH]:
        tx.receiver_hours.remove(row)
    return True


# Receivers by hand


def _pause(tx, receiver, origin, now):
    known = tx.receivers.get(receiver)
    if known is None:
        tx.receivers.insert(_new_receiver(receiver, origin, paused_at=now))
    elif known["paused_at"]:
        return False
    else:
        tx.receivers.change(known, paused_at=now, id=id_of(receiver))
    return True


def _resume(tx, receiver):
    is_paused = tx.is_paused(receiver)
    if is_paused:
        tx.receivers.change(tx.receivers.get(receiver), paused_at=None)
    return is_paused


def _receiver_names(tx, account_id):
    names = {row["receiver"] for row in tx.receivers} | set(_pending_by_receiver(tx))
    return sorted(name for name in names if account_of(name) == account_id)


def _known_receiver(tx, name, now):
    pending = _pending_by_receiver(tx).get(name, ())
    stored = tx.receivers.get(name)
    row = stored or _new_receiver(name, pending[0]["origin"])
    origin = tx.origins.get(row["origin"]) or {"held_until": None}
    ends = [at for at in (row["cooldown_until"], origin["held_until"]) if at]
    shown = ("answered_at", "answering_since", "failing_since", "failed_at", "reason")
    counts = [one.counts for one in _series(tx, name, now)]
    return KnownReceiver(
        receiver=name,
        origin=row["origin"],
        **{one: row[one] for one in (*shown, "held_until", "paused_at")},
        resting_until=max((at for at in ends if stored or at > now), default=None),
        oldest_due_at=min(map(_due_at, pending), default=None),
        counts=attempt_counts.added(counts) if any(map(any, counts)) else (),
    )


def _series(tx, name, now):
    last = now.replace(minute=0, second=0, microsecond=0)
    hours = [last - timedelta(hours=23 - number) for number in range(24)]
    known = [tx.receiver_hours.get(name, hour) for hour in hours]
    return [
        Hour(name, hour, [row[one] for one in COUNTS] if row else no_counts())
        for hour, row in zip(hours, known, strict=True)
    ]


def _find_receiver(tx, account_id, receiver_id, now):
    for name in _receiver_names(tx, account_id):
        if id_of(name) == receiver_id:
            return _known_receiver(tx, name, now)
    raise NotFound(f"There is no receiver {receiver_id!r}.")


def _find_series(tx, account_id, receiver_id, now):
    known = _find_receiver(tx, account_id, receiver_id, now)
    return known, _series(tx, known.receiver, now)


def _list_receivers(tx, account_id, now, *, after, limit):
    names = _receiver_names(tx, account_id)
    if after:
        if after not in map(id_of, names):
            raise UnknownCursor
        names = names[[id_of(one) for one in names].index(after) + 1 :]
    known = [_known_receiver(tx, name, now) for name in names[:limit]]
    return known, id_of(names[limit - 1]) if len(names) > limit else None


def _due_notices(tx, now):
    found = []
    for kind in NoticeKind:
        is_recovery = kind is NoticeKind.RECOVERED
        name = "answering_since" if is_recovery else "failing_since"
        rows = [row for row in tx.receivers if row[name] and _is_notice_due(row, kind, now)]
        rows.sort(key=lambda row: row[name])
        found += [
            Notice(
                kind=kind,
                receiver=row["receiver"],
                origin=row["origin"],
                since=row[name],
                told=row["notice"] and NoticeKind(row["notice"]),
                reason=row["reason"],
                email=(tx.accounts.get(account_of(row["receiver"])) or {}).get("email"),
            )
            for row in rows[: notices.BATCH]
        ]
    return found


def _is_notice_due(row, kind, now):
    if kind is NoticeKind.RECOVERED:
        is_over = row["answering_since"] <= now - FAILING_AFTER
        return bool(row["notice"] and is_over and not row["failing_since"])
    told, after = (
        (None, FAILING_AFTER)
        if kind is NoticeKind.FAILING
        else (NoticeKind.FAILING.value, STILL_FAILING_AFTER)
    )
    is_over = row["failing_since"] <= now - after
    return is_over and row["notice"] == told and not row["paused_at"]


def _give_notices(tx, items):
    given = []
    for notice, mail in items:
        row = tx.receivers.get(notice.receiver)
        is_recovery = notice.kind is NoticeKind.RECOVERED
        name = "answering_since" if is_recovery else "failing_since"
        if row and (row["notice"], row[name]) == (notice.told, notice.since):
            tx.receivers.change(row, notice=None if is_recovery else notice.kind.value)
            given.append(notice)
            if mail:
                _insert_mail(tx, mail)
    return given


def _answered(tx, since):
    states = [row for row in tx.receivers if row["answered_at"] and row["answered_at"] > since]
    states.sort(key=lambda row: row["answered_at"], reverse=True)
    names = ("receiver", "origin", "answered_at")
    return [ReceiverState(**{name: row[name] for name in names}) for row in states]


# Redelivery and retention


def _redeliver(tx, account_id, delivery_id, now):
    row = tx.deliveries.get(account_id, delivery_id)
    if row is None or (row["status"] == PENDING and not _is_free(row, now)):
        return None
    _redeliver_row(tx, row, now, is_asked=True)
    return row["receiver"]


def _cancel(tx, account_id, delivery_id, now):
    row = tx.deliveries.get(account_id, delivery_id)
    if row is None or row["status"] != PENDING:
        return None
    lost_at = row["leased_until"]
    if lost_at:
        detail = redelivery.INTERRUPTED if lost_at > now else deliveries.ENDED
        _insert_lost_attempt(tx, row, now, detail)
    tx.deliveries.change(
        row,
        status=DeliveryStatus.DEAD.value,
        reason=DeadReason.CANCELLED.value,
        settled_at=now,
        is_asked=False,
        attempt_count=row["attempt_count"] + (1 if lost_at else 0),
        leased_until=None,
        lease_token=row["lease_token"] + 1,
    )
    return row["receiver"]


def _redeliver_batch(tx, account_id, wanted, now, *, after):
    behind = [
        row
        for row in sorted(tx.deliveries, key=lambda row: row["id"])
        if row["account_id"] == account_id and row["id"] > after and row["status"] == wanted.status
    ]
    looked = behind[: redelivery.BATCH]
    chosen = [
        row
        for row in looked
        if row["status"] in SETTLED
        and row["reason"] != DeadReason.CANCELLED
        and _is_wanted(_shown_delivery(tx, row), wanted)
    ]
    for row in chosen:
        _redeliver_row(tx, row, now)
    return redelivery.Redelivered(
        len(chosen), looked[-1]["id"] if len(looked) == redelivery.BATCH else None
    )


def _redeliver_row(tx, row, now, *, is_asked=False):
    tx.deliveries.change(
        row,
        status=PENDING,
        reason=None,
        failure_count=0,
        due_at=now,
        settled_at=None,
        cause=Cause.REDELIVERY.value,
        is_asked=is_asked,
    )


def _sweep(tx, position, settled_before):
    limit = f"msg_{lower_bound(settled_before)}"
    ids = sorted(
        row["id"]
        for row in tx.deliveries
        if row["account_id"] == position.account_id and position.after < row["id"] < limit
    )
    looked = ids[: retention.BATCH]
    old = [
        id_
        for id_ in looked
        if _is_old(tx.deliveries.get(position.account_id, id_), settled_before)
    ]
    for id_ in old:
        _remove_delivery(tx, position.account_id, id_)
    if len(looked) == retention.BATCH:
        return retention.Swept(len(old), retention.SweepPosition(position.account_id, looked[-1]))
    accounts_left = {row["account_id"] for row in tx.deliveries}
    following = min((one for one in accounts_left if one > position.account_id), default=None)
    return retention.Swept(len(old), following and retention.SweepPosition(following))


def _is_old(row, settled_before):
    return row["status"] in SETTLED and row["settled_at"] < settled_before


def _remove_delivery(tx, account_id, id_):
    for number in range(tx.deliveries.get(account_id, id_)["attempt_count"]):
        tx.attempts.remove(tx.attempts.get(account_id, id_, number + 1))
    tx.deliveries.remove(tx.deliveries.get(account_id, id_))


def _remove_states(tx, kind, after, over_before):
    rows = getattr(tx, kind)
    behind = sorted(name for (name,) in rows.by_key if name > after)
    looked = behind[: retention.BATCH]
    waited_for = _pending_by_receiver(tx)
    for name in looked:
        row = rows.get(name)
        shown = ("answered_at", "failing_since", "cooldown_until", "held_until")
        ends = [row[one] for one in shown if row.get(one)]
        is_used = name in waited_for or row.get("paused_at")
        if not is_used and all(end < over_before for end in ends):
            rows.remove(row)
    return looked[-1] if len(looked) == retention.BATCH else None


# Accounts


def _add_account(tx, account, new):
    if _find_account(tx, account.name):
        return False
    tx.accounts.insert({one.name: getattr(account, one.name) for one in fields(account)})
    _add_credentials(tx, account.id, new, account.created_at)
    return True


def _add_first_account(tx, account, new):
    return not any(tx.accounts) and _add_account(tx, account, new)


def _rotate(tx, account_id, new, *, now, until):
    for rows, added in ((tx.account_keys, new.key), (tx.account_secrets, new.secret_ciphertext)):
        for row in rows if added is not None else ():
            is_lasting = row["expires_at"] is None or row["expires_at"] > until
            if row["account_id"] == account_id and is_lasting:
                rows.change(row, expires_at=until)
    _add_credentials(tx, account_id, new, now)


def _add_credentials(tx, account_id, new, now):
    row = {"account_id": account_id, "created_at": now, "expires_at": None}
    if new.key:
        tx.account_keys.insert({**row, "prefix": new.key.prefix, "hash": new.key.hash})
    if new.secret_ciphertext is not None:
        tx.account_secrets.insert({**row, "id": new_id(), "ciphertext": new.secret_ciphertext})


def _disable_account(tx, account_id, now):
    row = tx.accounts.get(account_id)
    if row and row["disabled_at"] is None:
        tx.accounts.change(row, disabled_at=now)


def _set_email(tx, account_id, email):
    tx.accounts.change(tx.accounts.get(account_id), email=email)


def _find_account(tx, name):
    row = tx.accounts.by("name").get((name,))
    return accounts.Account(**row) if row else None


def _list_accounts(tx, now):
    by_prefix = sorted(_valid(tx.account_keys, now), key=lambda row: row["prefix"])
    keys = _newest(by_prefix, "created_at")
    return [
        {**row, "key_prefixes": [key["prefix"] for key in keys if key["account_id"] == row["id"]]}
        for row in sorted(tx.accounts, key=lambda row: row["name"])
    ]


def _find_key(tx, prefix, now):
    row = tx.account_keys.get(prefix)
    if row not in _valid(tx.account_keys, now) or tx.accounts.get(row["account_id"])["disabled_at"]:
        return None
    return accounts.StoredKey(row["account_id"], row["hash"], row["expires_at"])


def _secrets_of(tx, account_id, now):
    rows = [row for row in _valid(tx.account_secrets, now) if row["account_id"] == account_id]
    newest = sorted(rows, key=lambda row: (row["created_at"], row["id"]), reverse=True)
    return [(row["ciphertext"], row["expires_at"]) for row in newest]


def _all_secrets(tx, now):
    valid = [*_valid(tx.account_secrets, now), *tx.account_pay_keys]
    return [row["ciphertext"] for row in valid]


def _valid(rows, now):
    return [row for row in rows if row["expires_at"] is None or row["expires_at"] > now]


# Reading


def _find_invoice(tx, account_id, invoice_id):
    row = tx.invoices.by("account_id", "id").get((account_id, invoice_id))
    if row is None:
        raise NotFound(f"There is no invoice {invoice_id!r}.")
    return _shown_invoice(tx, row)


def _shown_invoice(tx, row):
    key = row["account_id"], row["key"]
    events = [tx.events.get(*key, number + 1) for number in range(row["event_count"])]
    return {**row, "events": [dict(event) for event in events]}


def _list_invoices(tx, account_id, *, status, after, limit, invoice_id=None):
    rows = [
        row
        for row in tx.invoices
        if row["account_id"] == account_id
        and status in (None, row["status"])
        and invoice_id in (None, row["id"])
    ]
    if after is not None:
        first = tx.invoices.by("account_id", "id").get((account_id, after))
        if first is None:
            raise UnknownCursor
        rows = [row for row in rows if row["key"] < first["key"]]
    return _page([_shown_invoice(tx, row) for row in _newest(rows, "key")], limit)


def _newest(rows, name):
    return sorted(rows, key=lambda row: row[name], reverse=True)


def _page(shown, limit):
    """The first of *shown*, and the cursor of the next page."""
    return shown[:limit], shown[limit - 1]["id"] if len(shown) > limit else None


def _find_delivery(tx, account_id, delivery_id):
    row = tx.deliveries.get(account_id, delivery_id)
    if row is None:
        raise NotFound(f"There is no delivery {delivery_id!r}.")
    return _shown_delivery(tx, row)


def _shown_delivery(tx, row):
    invoice, event = _invoice_of(tx, row), _event_of(tx, row)
    made = [
        dict(tx.attempts.get(row["account_id"], row["id"], number + 1))
        for number in range(row["attempt_count"])
        if number >= row["attempt_count"] - history.ATTEMPTS_MAX
    ]
    for attempt in made[: -history.BODIES_MAX]:
        attempt["response_body"] = attempt["transmission"] = None
    made = [transmissions.told(one, row["url"]) for one in made]
    shown = {name: value for name, value in row.items() if name != "body"}
    state = tx.receivers.get(row["receiver"]) or _new_receiver(row["receiver"], row["origin"])
    origin = tx.origins.get(row["origin"]) or {"held_until": None}
    hold = state["held_until"]
    is_held = hold is not None and not row["is_asked"]
    cooldowns = [at for at in (state["cooldown_until"], origin["held_until"]) if at]
    listener = tx.listeners.get(row["account_id"], row["origin"])
    beat_at = listener["beat_at"] if listener else None
    waits = Waits(
        is_first=_is_first_of_its_invoice(tx, row),
        is_asked=row["is_asked"],
        due_at=row["due_at"],
        leased_until=row["leased_until"],
        held_until=hold,
        cooldown_until=max(cooldowns, default=None),
        is_paused=state["paused_at"] is not None,
        is_for_listener=is_for_listener(row["origin"]),
        beat_at=beat_at,
    )
    due_at = max(row["due_at"], hold) if is_held else row["due_at"]
    return {
        **shown,
        "beat_at": beat_at,
        "invoice_id": invoice["id"],
        "due_at": due_at if row["status"] == PENDING else None,
        "waits": waits if row["status"] == PENDING else None,
        "event": {"description": event["description"], "paid": event["paid"]},
        "attempts": made,
    }


def _delivery_facts(tx, account_id, delivery_id):
    row = tx.deliveries.get(account_id, delivery_id)
    if row is None:
        raise NotFound(f"There is no delivery {delivery_id!r}.")
    state = tx.receivers.get(row["receiver"]) or {}
    origin = tx.origins.get(row["origin"]) or {}
    waiting = [one for one in tx.earlier_of(row) if one["status"] == PENDING]
    told = {
        **row,
        "invoice_id": _invoice_of(tx, row)["id"],
        "description": _description_of(tx, row),
        "is_first": not waiting,
        "held_until": state.get("held_until"),
        "cooldown_until": state.get("cooldown_until"),
        "failing_since": state.get("failing_since"),
        "paused_at": state.get("paused_at"),
        "beat_at": (tx.listeners.get(account_id, row["origin"]) or {}).get("beat_at"),
        "origin_until": origin.get("held_until"),
    }
    earlier = [
        EarlierDelivery(
            id=one["id"], description=_description_of(tx, one), attempt_count=one["attempt_count"]
        )
        for one in waiting[:1]
    ]
    last = tx.attempts.get(account_id, delivery_id, row["attempt_count"])
    return explaining.delivery_facts_of(told, last, *earlier or [None])


def _description_of(tx, row):
    return _event_of(tx, row)["description"]


def _invoice_facts(tx, account_id, invoice_id):
    row = _find_invoice(tx, account_id, invoice_id)
    key = row["key"]
    rows = [one for one in tx.deliveries if one["invoice_key"] == key]
    rows.sort(key=lambda row: (*_matters(row), row["id"]))
    delivery = _delivery_facts(tx, account_id, rows[0]["id"]) if rows else None
    mail = max((one for one in tx.mails if one["invoice_key"] == key), key=_id_of, default=None)
    last = tx.events.get(account_id, key, row["event_count"])
    checkout = memory_money.find_active(tx, account_id, key)
    return explaining.invoice_facts_of(row, mail, last and last["at"], delivery, checkout)


def _matters(row):
    if row["status"] == PENDING:
        return 0, row["sequence"]
    return 1 if row["status"] == DeliveryStatus.DEAD else 2, -row["sequence"]


def _id_of(row):
    return row["id"]


def _deliveries_of_invoice(tx, account_id, invoice_id, *, after, limit):
    _find_invoice(tx, account_id, invoice_id)
    wanted = history.DeliveryFilter(invoice_id=invoice_id)
    return _page_of_deliveries(tx, account_id, wanted, after=after, limit=limit)


def _list_deliveries(tx, account_id, wanted, *, after, limit):
    shown, cursor = _page_of_deliveries(tx, account_id, wanted, after=after, limit=limit)
    for one in shown:
        one["attempts"] = one["attempts"][-1:]
        for attempt in one["attempts"]:
            for name in ("response_body", "transmission", *transmissions.UNKNOWN):
                del attempt[name]
    return shown, cursor


def _page_of_deliveries(tx, account_id, wanted, *, after, limit):
    if after is not None and tx.deliveries.get(account_id, after) is None:
        raise UnknownCursor
    rows = [
        row
        for row in tx.deliveries
        if row["account_id"] == account_id and (after is None or row["id"] < after)
    ]
    shown = [_shown_delivery(tx, row) for row in _newest(rows, "id")]
    return _page([one for one in shown if _is_wanted(one, wanted)], limit)


def _is_wanted(shown, wanted):
    return (
        wanted.status in (None, shown["status"])
        and wanted.invoice_id in (None, shown["invoice_id"])
        and wanted.origin in (None, shown["origin"])
        and (wanted.since is None or shown["created_at"] >= wanted.since)
        and (wanted.until is None or shown["created_at"] < wanted.until)
    )


def _find_pay_key(tx, account_id):
    row = tx.account_pay_keys.get(account_id)
    return PayKey(row["account_id"], row["prefix"], row["ciphertext"]) if row else None


def _find_pay_key_by_prefix(tx, prefix):
    row = tx.account_pay_keys.by("prefix").get((prefix,))
    return PayKey(row["account_id"], row["prefix"], row["ciphertext"]) if row else None


def _add_pay_key(tx, new, now):
    if not tx.account_pay_keys.get(new.account_id):
        values = {"account_id": new.account_id, "prefix": new.prefix, "ciphertext": new.ciphertext}
        tx.account_pay_keys.insert({**values, "created_at": now})
    return _find_pay_key(tx, new.account_id)


def _invoice_by_key(tx, account_id, key):
    row = tx.invoices.get(account_id, key)
    return dict(row) if row else None


# Keys of Stripe


def _put_stripe_keys(tx, account_id, ciphertext, now):
    known = tx.account_stripe_keys.get(account_id)
    if known:
        tx.account_stripe_keys.change(known, ciphertext=ciphertext, created_at=now)
    else:
        row = {"account_id": account_id, "ciphertext": ciphertext, "created_at": now}
        tx.account_stripe_keys.insert(row)


def _find_stripe_keys(tx, account_id):
    known = tx.account_stripe_keys.get(account_id)
    return known and known["ciphertext"]


def _all_stripe_keys(tx):
    return [row["ciphertext"] for row in tx.account_stripe_keys]


# Figures


def _measure_backlog(tx, now):
    free = [
        row
        for row in tx.deliveries
        if row["status"] == PENDING and _is_free(row, now) and _is_first_of_its_invoice(tx, row)
    ]
    due = [
        row
        for row in free
        if row["due_at"] <= now
        and not tx.is_held(row["receiver"], now)
        and not tx.is_paused(row["receiver"])
    ]
    due = [row for row in due if _is_reachable(tx, row, now)]
    collections = [
        row for row in tx.invoices if row["due_at"] and row["due_at"] <= now and _is_free(row, now)
    ]
    mails_due = [
        row
        for row in tx.mails
        if row["status"] == PENDING and row["due_at"] <= now and _is_free(row, now)
    ]
    return Backlog(
        deliveries_due=len(due),
        deliveries_waiting=len(free) - len(due),
        due_receivers=len({row["receiver"] for row in due}),
        oldest_due_delivery_age_seconds=_oldest_age_seconds(due, now),
        collections_due=len(collections),
        oldest_due_collection_age_seconds=_oldest_age_seconds(collections, now),
        oldest_unanswered_payment_age_seconds=0,
        mails_due=len(mails_due),
        oldest_due_mail_age_seconds=_oldest_age_seconds(mails_due, now),
    )


def _is_reachable(tx, row, now):
    listener = tx.listeners.get(row["account_id"], row["origin"])
    is_connected = listener is not None and listeners.is_working(listener["beat_at"], now)
    return is_connected or not is_for_listener(row["origin"])


def _count_open(tx, account_id, most):
    pending = [
        row for row in tx.deliveries if (row["account_id"], row["status"]) == (account_id, PENDING)
    ]
    return min(len(pending), most)


def _oldest_age_seconds(rows, now):
    return (now - min(map(_due_at, rows), default=now)).total_seconds()


# Listeners


def _connect(tx, new, now, replaces):
    for one in list(tx.listener_attempts):
        if one["deadline_at"] < now - listeners.KEPT:
            tx.listener_attempts.remove(one)
    before = tx.listeners.get(new.account_id, new.origin)
    has_displaced = (
        before is not None
        and before["token"] != replaces
        and listeners.is_working(before["beat_at"], now)
    )
    changes = {"token": new.token, "beat_at": now, "seen_count": 0}
    if before:
        tx.listeners.change(before, **changes)
    else:
        tx.listeners.insert({"account_id": new.account_id, "origin": new.origin, **changes})
    return has_displaced


def _connection(tx, account_id, origin, token):
    row = tx.listeners.get(account_id, origin)
    return row if row and row["token"] == token else None


def _disconnect(tx, account_id, origin, token):
    if row := _connection(tx, account_id, origin, token):
        tx.listeners.remove(row)


def _beat(tx, rows, now):
    for one in rows:
        if row := _connection(tx, one.account_id, one.origin, one.token):
            tx.listeners.change(row, beat_at=now)


def _look_at_listeners(tx, rows):
    found = [tx.listeners.get(one.account_id, one.origin) for one in rows]
    names = listeners.ListenerRow.__dataclass_fields__
    return [listeners.ListenerRow(**{name: row[name] for name in names}) for row in found if row]


def _note_seen(tx, seen):
    row = _connection(tx, seen.account_id, seen.origin, seen.token)
    if row:
        tx.listeners.change(row, seen_count=max(row["seen_count"], seen.seen_count))
    return row is not None


def _listener_attempt(tx, key):
    row = tx.listener_attempts.get(key.account_id, key.delivery_id, key.number)
    return row if row and row["origin"] == key.origin else None


def _give(tx, new):
    for one in new:
        if row := _listener_attempt(tx, one.key):
            tx.listener_attempts.remove(row)
        values = {"deadline_at": one.deadline_at, "answer": None}
        names = one.key.__dataclass_fields__
        tx.listener_attempts.insert({**{name: getattr(one.key, name) for name in names}, **values})
    return [True] * len(new)


def _finish(tx, keys):
    rows = [_listener_attempt(tx, key) for key in keys]
    for row in rows:
        if row:
            tx.listener_attempts.remove(row)
    return [row and row["answer"] for row in rows]


def _answer(tx, key, content, now):
    row = _listener_attempt(tx, key)
    is_open = row is not None and row["answer"] is None and row["deadline_at"] > now
    if is_open:
        tx.listener_attempts.change(row, answer=content)
    return is_open


def _answers_of(tx, keys):
    rows = {key: _listener_attempt(tx, key) for key in keys}
    return {key: row["answer"] for key, row in rows.items() if row and row["answer"] is not None}


def _count_waiting(tx, receiver, most):
    pending = [
        row for row in tx.deliveries if (row["receiver"], row["status"]) == (receiver, PENDING)
    ]
    return min(len(pending), most)


def _add_listen_key(tx, account_id, new, now, expires_at):
    own = sorted(
        (row for row in tx.listen_keys if row["account_id"] == account_id),
        key=lambda row: row["expires_at"],
        reverse=True,
    )
    above = own[listen_keys.KEYS_MAX - 1 :][:1]
    over_at = max([now, *(row["expires_at"] for row in above)])
    for row in own:
        if row["expires_at"] <= over_at:
            tx.listen_keys.remove(row)
    tx.listen_keys.insert(
        {"prefix": new.prefix, "account_id": account_id, "hash": new.hash, "expires_at": expires_at}
    )


def _find_listen_key(tx, prefix, now):
    row = tx.listen_keys.get(prefix)
    if row is None or row["expires_at"] <= now:
        return None
    account = tx.accounts.get(row["account_id"])
    if account and account["disabled_at"]:
        return None
    return accounts.StoredKey(row["account_id"], row["hash"], row["expires_at"])


WORK = {
    listeners.connect: _connect,
    listeners.disconnect: _disconnect,
    listeners.beat: _beat,
    listeners.look: _look_at_listeners,
    listeners.note_seen: _note_seen,
    listeners.give: _give,
    listeners.finish: _finish,
    listeners.answer: _answer,
    listeners.answers_of: _answers_of,
    listeners.count_waiting: _count_waiting,
    listen_keys.add: _add_listen_key,
    listen_keys.find: _find_listen_key,
    invoices.accept: _accept,
    accepting.accept: _accept_begun,
    invoices.find: _find_invoice,
    invoices.list_invoices: _list_invoices,
    steps.lease_due: _lease_invoices,
    steps.take_steps: _take_steps,
    steps.report: _report,
    invoices.by_key: _invoice_by_key,
    mails.has_mail: _has_mail,
    mails.has_attempt: _has_mail_attempt,
    mails.lease_due: _lease_mails,
    mails.settle: _settle_mails,
    mails.release: _release_mails,
    mails.of_invoice: _mails_of_invoice,
    waiting.find_accounts: _find_accounts,
    waiting.look_along: _look_along,
    waiting.look_at: _look_at,
    receivers.answered: _answered,
    deliveries.lease_due: _lease_deliveries,
    deliveries.release: _release,
    deliveries.insert: _insert_deliveries,
    gates.pause: _pause,
    gates.resume: _resume,
    observations.record: _observe,
    notices.find_due: _due_notices,
    notices.give: _give_notices,
    receiver_hours.remove_old: _remove_old_hours,
    receiver_list.find: _find_receiver,
    receiver_list.series_of: _find_series,
    receiver_list.list_receivers: _list_receivers,
    attempts.settle: _settle,
    history.find: _find_delivery,
    history.of_invoice: _deliveries_of_invoice,
    history.list_deliveries: _list_deliveries,
    explaining.delivery_facts: _delivery_facts,
    explaining.invoice_facts: _invoice_facts,
    redelivery.redeliver: _redeliver,
    redelivery.cancel: _cancel,
    redelivery.redeliver_batch: _redeliver_batch,
    retention.sweep: _sweep,
    retention.remove_states: _remove_states,
    accounts.add: _add_account,
    accounts.add_first: _add_first_account,
    accounts.rotate: _rotate,
    accounts.disable: _disable_account,
    accounts.set_email: _set_email,
    accounts.find: _find_account,
    accounts.list_accounts: _list_accounts,
    accounts.find_key: _find_key,
    accounts.secrets_of: _secrets_of,
    accounts.all_secrets: _all_secrets,
    accounts.find_pay_key: _find_pay_key,
    accounts.find_pay_key_by_prefix: _find_pay_key_by_prefix,
    accounts.add_pay_key: _add_pay_key,
    stripe_keys.put: _put_stripe_keys,
    stripe_keys.find: _find_stripe_keys,
    stripe_keys.find_all: _all_stripe_keys,
    checkouts.begin: memory_money.begin,
    checkouts.find_active: memory_money.find_active,
    checkouts.lease_due: memory_money.lease_checkouts,
    checkouts.opened: memory_money.opened,
    checkouts.failed: memory_money.checkout_failed,
    checkouts.is_processing: memory_money.is_processing,
    checkouts.close: memory_money.close,
    checkouts.looked_at: memory_money.checkout_looked_at,
    payments.settle: _settle_money,
    payments.request_refund: memory_money.request_refund,
    payments.failed: memory_money.refund_failed,
    payments.lease_due: memory_money.lease_payments,
    payments.looked_at: memory_money.payment_looked_at,
    webhooks.take: memory_money.take,
    webhooks.remove_old: memory_money.remove_old,
    backlog.measure: _measure_backlog,
    backlog.count_open: _count_open,
}
"""The function of this module that replaces each function of storage."""
