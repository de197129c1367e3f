"""
The operations of the console on the stored data, besides those of the store.

Everything that it reads is bounded: by the rows that a count looks at, by the receivers that are
asked, and by the results of checks that are kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, Text, delete, func, insert, or_, select

from service.database.bulk import Given, given
from service.database.engine import Database
from service.domain.states import DeliveryStatus
from service.storage import history, redelivery, sessions, waiting
from service.storage.history import DeliveryFilter
from service.storage.invoices import find_key
from service.storage.receiver_hours import HOUR_COUNT
from service.storage.sessions import Link, Session
from service.storage.tables import (
    accounts,
    deliveries,
    receiver_checks,
    receiver_hours,
)
from service.storage.waiting import Chain, Waiting

P = ParamSpec("P")
T = TypeVar("T")

CHECKS_MAX = 20
"""URLs of one account whose last result of a check is kept, the newest."""

RECEIVERS_MAX = 1_000
"""Receivers of an account that are asked for the oldest due delivery."""


@dataclass(frozen=True, slots=True)
class Counted:
    """How many rows match, and the last row that was looked at; None where no more are left."""

    count: int
    after: str | None


@dataclass(frozen=True, slots=True)
class HourCounts:
    """What the attempts within an hour from *hour* on came to."""

    hour: datetime
    delivered: int
    failed: int


class ConsoleStore:
    """
    What the console reads and writes.

    Each method that writes returns after its commit. It raises StorageUnavailable if the database
    cannot be written to; nothing was stored then.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_link(self, link: Link, now: datetime) -> None:
        """Store *link*."""
        await self._database.write(sessions.add_link, link, now)

    async def find_link(self, hash_: bytes, now: datetime) -> Link | None:
        """The link with that hash, if it can be taken."""
        return await self._database.read(sessions.find_link, hash_, now)

    async def take_link(self, link: Link, session: Session) -> bool:
        """Exchange *link* for *session*; False if it was taken meanwhile."""
        return await self._database.write(sessions.take_link, link, session)

    async def add_session(self, session: Session) -> None:
        """Store *session*."""
        await self._database.write(sessions.add, session)

    async def find_session(self, hash_: bytes, now: datetime) -> Session | None:
        """The session with that hash, if it has not ended."""
        return await self._database.read(sessions.find, hash_, now)

    async def end_session(self, hash_: bytes) -> None:
        """Remove a session."""
        await self._database.write(sessions.end, hash_)

    async def is_account(self, account_id: str) -> bool:
        """Whether there is an account of that id, disabled or not."""
        return await self._browse(_is_account, account_id)

    async def body_of(self, account_id: str, delivery_id: str) -> bytes | None:
        """The bytes that a delivery sends; None if the account has none of that id."""
        return await self._browse(_body_of, account_id, delivery_id)

    async def find_called(
        self, account_id: str, origin: str, urls: Sequence[str], limit: int
    ) -> list[str]:
        """The ids of the newest deliveries to *origin* at one of *urls* or below, in `SCAN_MAX`."""
        return await self._browse(_find_called, account_id, origin, urls, limit)

    async def count_deliveries(
        self, account_id: str, wanted: DeliveryFilter, after: str | None = None
    ) -> Counted:
        """Count the *wanted* deliveries among the next `SCAN_MAX` after *after*, newest first."""
        return await self._browse(_count_deliveries, account_id, wanted, after)

    async def count_redeliverable(
        self, account_id: str, wanted: DeliveryFilter, after: str | None = None
    ) -> Counted:
        """As `count_deliveries`, without those that a redelivery of all of them leaves out."""
        return await self._browse(_count_redeliverable, account_id, wanted, after)

    async def count_dead_since(self, account_id: str, since: datetime) -> Counted:
        """Count the deliveries that died *since*, among the newest `SCAN_MAX` dead ones."""
        return await self._browse(_count_dead_since, account_id, since)

    async def waiting_receivers(self, account_id: str, now: datetime) -> list[Waiting]:
        """The first `RECEIVERS_MAX` receivers of an account with pending deliveries."""
        return await self._browse(_waiting_receivers, account_id, now)

    async def hours_of(
        self, receivers: Sequence[str], now: datetime
    ) -> dict[str, list[HourCounts]]:
        """The attempts of each of *receivers*, or accounts, of the last 24 hours, by hour."""
        return await self._browse(_hours_of, receivers, now)

    async def hours_of_account(self, account_id: str, now: datetime) -> list[HourCounts]:
        """The attempts of all receivers of an account, as `hours_of`."""
        return (await self.hours_of([account_id], now))[account_id]

    async def keep_check(self, row: dict[str, Any]) -> None:
        """Keep a *row* of `receiver_checks` in place of the last one of its URL."""
        await self._database.write(_keep_check, row)

    async def checks_of(self, account_id: str) -> list[dict[str, Any]]:
        """The kept results of an account, newest first."""
        return await self._browse(_checks_of, account_id)

    async def _browse(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        return await self._database.browse(query, *args, **options)


def _is_account(tx: Connection, account_id: str) -> bool:
    query = select(accounts.c.id).where(accounts.c.id == account_id)
    return tx.scalar(query) is not None


def _body_of(tx: Connection, account_id: str, delivery_id: str) -> bytes | None:
    query = select(deliveries.c.body).where(
        deliveries.c.account_id == account_id, deliveries.c.id == delivery_id
    )
    body: bytes | None = tx.scalar(query)
    return body


def _find_called(
    tx: Connection, account_id: str, origin: str, urls: Sequence[str], limit: int
) -> list[str]:
    wanted, url = DeliveryFilter(origin=origin), deliveries.c.url
    is_called = or_(*(or_(url == one, url.startswith(f"{one}/", autoescape=True)) for one in urls))
    query = select(deliveries.c.id).where(
        deliveries.c.account_id == account_id, *history.conditions_of(wanted), is_called
    )
    if end := history.end_of_scan(tx, account_id, wanted, None):
        query = query.where(deliveries.c.id >= end)
    return list(tx.scalars(query.order_by(deliveries.c.id.desc()).limit(limit)))


def _count_deliveries(
    tx: Connection, account_id: str, wanted: DeliveryFilter, after: str | None
) -> Counted:
    if wanted.invoice_id is not None:
        key = find_key(tx, account_id, wanted.invoice_id)
        matching = _matching(account_id, wanted, deliveries.c.invoice_key == key)
        return Counted(tx.scalar(matching) or 0, None)
    return _count_scanned(tx, account_id, wanted, after)


def _count_redeliverable(
    tx: Connection, account_id: str, wanted: DeliveryFilter, after: str | None
) -> Counted:
    return _count_scanned(tx, account_id, wanted, after, redelivery.is_not_cancelled)


def _count_dead_since(tx: Connection, account_id: str, since: datetime) -> Counted:
    dead = DeliveryFilter(status=DeliveryStatus.DEAD)
    return _count_scanned(tx, account_id, dead, None, deliveries.c.settled_at >= since)


def _count_scanned(
    tx: Connection,
    account_id: str,
    wanted: DeliveryFilter,
    after: str | None,
    *conditions: ColumnElement[bool],
) -> Counted:
    """Count those that meet all conditions among the next `SCAN_MAX` deliveries after *after*."""
    end = history.end_of_scan(tx, account_id, wanted, after)
    if end is not None and wanted == DeliveryFilter() and not conditions:
        return Counted(history.SCAN_MAX, end)
    query = _matching(account_id, wanted, *history.bounds_of(wanted), *conditions)
    if after is not None:
        query = query.where(deliveries.c.id < after)
    if end is not None:
        query = query.where(deliveries.c.id >= end)
    return Counted(tx.scalar(query) or 0, end)


def _matching(
    account_id: str, wanted: DeliveryFilter, *conditions: ColumnElement[bool]
) -> Select[Any]:
    return (
        select(func.count())
        .select_from(deliveries)
        .where(deliveries.c.account_id == account_id, *history.conditions_of(wanted), *conditions)
    )


def _waiting_receivers(tx: Connection, account_id: str, now: datetime) -> list[Waiting]:
    return list(waiting.look_along(tx, [Chain(account_id, "", "", RECEIVERS_MAX)], now))


_named = Given(receiver=Text())
_hours = select(
    receiver_hours.c.receiver,
    receiver_hours.c.hour,
    receiver_hours.c.delivered_count,
    receiver_hours.c.failed_count,
).join_from(_named, receiver_hours, receiver_hours.c.receiver == _named.c.receiver)


def _hours_of(tx: Connection, names: Sequence[str], now: datetime) -> dict[str, list[HourCounts]]:
    found: dict[str, dict[datetime, HourCounts]] = {name: {} for name in names}
    if names:
        for row in tx.execute(_hours, given([{"receiver": one} for one in names])):
            found[row[0]][row[1]] = HourCounts(*row[1:])
    return {name: _of_a_day(known, now) for name, known in found.items()}


def _of_a_day(known: Mapping[datetime, HourCounts], now: datetime) -> list[HourCounts]:
    """The last 24 hours in order, also those of which nothing is *known*."""
    since = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOUR_COUNT - 1)
    wanted = (since + timedelta(hours=number) for number in range(HOUR_COUNT))
    return [known.get(at) or HourCounts(at, 0, 0) for at in wanted]


def _keep_check(tx: Connection, row: dict[str, Any]) -> None:
    of_account = receiver_checks.c.account_id == row["account_id"]
    tx.execute(delete(receiver_checks).where(of_account, receiver_checks.c.url == row["url"]))
    oldest = (
        select(receiver_checks.c.url)
        .where(of_account)
        .order_by(receiver_checks.c.checked_at.desc())
        .offset(CHECKS_MAX - 1)
    )
    if too_many := tx.scalars(oldest).all():
        tx.execute(delete(receiver_checks).where(of_account, receiver_checks.c.url.in_(too_many)))
    tx.execute(insert(receiver_checks), row)


def _checks_of(tx: Connection, account_id: str) -> list[dict[str, Any]]:
    query = select(receiver_checks).where(receiver_checks.c.account_id == account_id)
    newest_first = query.order_by(receiver_checks.c.checked_at.desc(), receiver_checks.c.url)
    return [dict(row) for row in tx.execute(newest_first).mappings()]
