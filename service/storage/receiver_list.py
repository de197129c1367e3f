"""
The receivers of an account, as it reads them: those that had attempts, and those that wait for one.

They are in the order of their URLs. A page costs as much as it has items, however many receivers
and deliveries there are: both kinds are read along an index.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Text, select

from service.database.bulk import Given, given
from service.domain.attempt_counts import Hour
from service.domain.receivers import KnownReceiver, id_of
from service.errors import NotFound, UnknownCursor
from service.storage import receiver_hours
from service.storage.tables import origins, receivers
from service.storage.waiting import Chain, Waiting, bounds_of, look_along, look_at, names_along

SCAN_MAX = 10_000
"""Receivers without an attempt, and without an id, among which one is looked for by its id."""

Page = tuple[list[KnownReceiver], str | None]
"""The receivers of a page, and the cursor of the next one; None on the last."""

_named = Given(receiver=Text())
_SHOWN = (
    *("receiver", "origin", "answered_at", "answering_since", "failing_since", "failed_at"),
    *("reason", "cooldown_until", "held_until", "paused_at"),
)
_origin_until = (
    select(origins.c.held_until).where(origins.c.origin == receivers.c.origin).scalar_subquery()
)
_shown = select(*(receivers.c[name] for name in _SHOWN), _origin_until.label("origin_until"))
_by_name = _shown.join_from(_named, receivers, receivers.c.receiver == _named.c.receiver)


def find(tx: Connection, account_id: str, receiver_id: str, now: datetime) -> KnownReceiver:
    """
    One receiver of *account_id*.

    Raises:
        NotFound: if the account has no receiver of that id.
    """
    name = name_of(tx, account_id, receiver_id)
    if name is None:
        raise NotFound(f"There is no receiver {receiver_id!r}.")
    return _known(tx, [name], look_at(tx, [name], now), now)[0]


def list_receivers(
    tx: Connection, account_id: str, now: datetime, *, after: str | None, limit: int
) -> Page:
    """
    Up to *limit* receivers of *account_id* by their URLs, and the cursor of the next page.

    A page starts after the receiver whose id is *after*.

    Raises:
        UnknownCursor: if the account has no receiver *after*.
    """
    last = name_of(tx, account_id, after) if after else account_id
    if last is None:
        raise UnknownCursor
    begin, end = bounds_of(account_id)
    if after:
        # A blank is before all that a URL may go on with.
        begin = f"{last} "
    stored = (
        select(receivers.c.receiver)
        .where(receivers.c.receiver >= begin, receivers.c.receiver < end)
        .order_by(receivers.c.receiver)
        .limit(limit + 1)
    )
    waiting = look_along(tx, [Chain(account_id, begin, "", limit + 1)], now)
    # Whoever is among the first of both is among the first that wait, if it waits.
    names = sorted({*tx.scalars(stored), *(one.receiver for one in waiting)})[: limit + 1]
    items = _known(tx, names[:limit], waiting, now)
    return items, id_of(names[limit - 1]) if len(names) > limit else None


def series_of(
    tx: Connection, account_id: str, receiver_id: str, now: datetime
) -> tuple[KnownReceiver, Sequence[Hour]]:
    """
    One receiver of *account_id*, and its last 24 hours in order.

    Raises:
        NotFound: if the account has no receiver of that id.
    """
    known = find(tx, account_id, receiver_id, now)
    return known, receiver_hours.series_of(tx, known.receiver, now)


def name_of(tx: Connection, account_id: str, receiver_id: str) -> str | None:
    """
    The receiver of *account_id* with that id; None if there is none.

    Without an attempt yet, it is found among the first `SCAN_MAX` receivers that wait for one.
    """
    begin, end = bounds_of(account_id)
    of_account = (receivers.c.receiver >= begin, receivers.c.receiver < end)
    # The account is compared here: its range would lead a plan to another index.
    for name in tx.scalars(select(receivers.c.receiver).where(receivers.c.id == receiver_id)):
        if begin <= name < end:
            return str(name)
    without_id = select(receivers.c.receiver).where(*of_account, receivers.c.id.is_(None))
    for name in tx.scalars(without_id.limit(SCAN_MAX)):
        if id_of(name) == receiver_id:
            return str(name)
    names = names_along(tx, account_id, "", SCAN_MAX)
    return next((name for name in names if id_of(name) == receiver_id), None)


def _known(
    tx: Connection, names: Sequence[str], waiting: Sequence[Waiting], now: datetime
) -> list[KnownReceiver]:
    """What is stored about each of *names*, all of which are stored or wait."""
    rows = tx.execute(_by_name, given([{"receiver": one} for one in names])).mappings()
    stored = {row["receiver"]: _as_known(row) for row in rows}
    counts = receiver_hours.counts_of(tx, names, now) if names else {}
    waits = {one.receiver: one for one in waiting}
    return [_merged(name, stored, waits, counts) for name in names]


def _merged(
    name: str,
    stored: Mapping[str, KnownReceiver],
    waits: Mapping[str, Waiting],
    counts: Mapping[str, Sequence[int]],
) -> KnownReceiver:
    waiting = waits.get(name)
    known = stored.get(name) or KnownReceiver(
        receiver=name, origin=waits[name].origin, resting_until=waits[name].resting_until
    )
    first_due_at = waiting.first_due_at if waiting else None
    return replace(known, oldest_due_at=first_due_at, counts=counts.get(name, ()))


def _as_known(row: RowMapping) -> KnownReceiver:
    values: dict[str, Any] = dict(row)
    ends = [values.pop(name) for name in ("cooldown_until", "origin_until")]
    resting_until = max((at for at in ends if at), default=None)
    return KnownReceiver(**values, resting_until=resting_until)
