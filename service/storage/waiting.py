"""
Which receivers have deliveries pending, since when one is due, and until when a receiver rests.

There may be millions of pending deliveries and tens of thousands of receivers. So the receivers are
looked at a few at a time; the next one is found by one index lookup, whose cost does not depend on
how many deliveries are pending for it. Nothing here is written or locked.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Integer,
    RowMapping,
    ScalarSelect,
    Select,
    Text,
    bindparam,
    case,
    func,
    literal,
    literal_column,
    select,
)

from service.database.bulk import Given, given
from service.domain.delivery import account_of
from service.storage.gates import is_closed
from service.storage.tables import EPOCH, deliveries, microseconds, origins, receivers
from service.values import value

ACCOUNTS_MAX = 1_000
"""Accounts that are found in one read."""

# A literal and not a parameter: otherwise a database does not use the index of pending deliveries.
PENDING: ColumnElement[str] = literal_column("'pending'")
is_pending = deliveries.c.status == PENDING

_BEHIND_ACCOUNT = "!"
"""What makes a text behind all receivers of an account, which have a blank there, of its name."""

_BEHIND_ALL = literal("~", Text())
"""Behind all receivers: account ids begin with a letter."""


@value()
class Chain:
    """
    Up to *look* receivers of an account, in their order.

    They begin at *start* and end before *end*; where these are empty, at the account's first
    receiver, and with its last one.
    """

    account_id: str
    start: str
    end: str
    look: int


@value()
class Waiting:
    """
    A receiver with pending deliveries.

    *first_due_at* is when the first of them is or was due, *next_due_at* when the first of those
    that are not due yet. Before *resting_until* none is attempted, except those that were asked for
    by hand, if *has_asked*. While it *is_closed* none is attempted at all.
    """

    receiver: str
    origin: str
    first_due_at: datetime
    next_due_at: datetime | None
    resting_until: datetime | None
    has_asked: bool
    is_closed: bool = False


def next_receiver(
    after: ColumnElement[str], end: ColumnElement[str] = _BEHIND_ALL, *, is_included: bool = False
) -> ScalarSelect[str]:
    """
    The first receiver with pending deliveries behind *after* and before *end*.

    It is found by one index lookup. If *is_included*, it may be *after* itself.
    """
    pending = deliveries.alias("pending").c.receiver
    begins = pending >= after if is_included else pending > after
    status = pending.table.c.status
    return (
        select(func.min(pending)).where(status == PENDING, begins, pending < end).scalar_subquery()
    )


def bounds_of(account_id: str) -> tuple[str, str]:
    """Two texts between which all receivers of an account are, and no others."""
    return f"{account_id} ", account_id + _BEHIND_ACCOUNT


def find_accounts(tx: Connection, after: str) -> Sequence[str]:
    """Up to `ACCOUNTS_MAX` accounts with pending deliveries, in their order, behind *after*."""
    behind = after and after + _BEHIND_ACCOUNT
    return [account_of(one) for one in tx.scalars(_accounts, {"after": behind})]


def look_along(tx: Connection, chains: Sequence[Chain], now: datetime) -> Sequence[Waiting]:
    """The receivers with pending deliveries along *chains*."""
    rows = [
        {
            "start": one.start or one.account_id,
            "stop": one.end or one.account_id + _BEHIND_ACCOUNT,
            "look": one.look,
        }
        for one in chains
    ]
    return _look(tx, _along, rows, now)


def names_along(tx: Connection, account_id: str, after: str, look: int) -> Sequence[str]:
    """Up to *look* receivers of an account with pending deliveries, in their order, after one."""
    _, end = bounds_of(account_id)
    rows = [{"start": f"{after or account_id} ", "stop": end, "look": look}]
    return tx.scalars(_names, given(rows)).all()


def look_at(
    tx: Connection,
    names: Sequence[str],
    now: datetime,
    begins: Mapping[str, datetime] | None = None,
) -> Sequence[Waiting]:
    """
    Those of the receivers *names* that have pending deliveries.

    *begins* has an instant for some of them, before which no delivery is looked for.
    """
    known = begins or {}
    rows = [{"receiver": one, "begin": microseconds(known.get(one, EPOCH))} for one in names]
    return _look(tx, _named, rows, now)


def _look(
    tx: Connection, query: Select[Any], rows: Sequence[dict[str, Any]], now: datetime
) -> Sequence[Waiting]:
    found = tx.execute(query, {**given(rows), "now": now}).mappings()
    waiting = (_waiting(row, now) for row in found if row["first_due_at"])
    return sorted(waiting, key=attrgetter("receiver"))


def _waiting(row: RowMapping, now: datetime) -> Waiting:
    ends = (row["cooldown_until"], row["held_until"], row["origin_until"])
    return Waiting(
        row["receiver"],
        row["origin"],
        row["first_due_at"],
        row["next_due_at"],
        max((one for one in ends if one and one > now), default=None),
        bool(row["has_asked"]),
        bool(row["is_closed"]),
    )


def _account_chain() -> Select[Any]:
    first = select(next_receiver(bindparam("after", type_=Text())).label("receiver"), literal(1))
    here = first.cte("found", recursive=True)
    receiver, number = here.c
    of_receiver = (
        select(deliveries.c.account_id)
        .where(is_pending, deliveries.c.receiver == receiver)
        .limit(1)
        .correlate(here)
        .scalar_subquery()
    )
    # A receiver that is only a blank stands for all that an older version has stored.
    account = case((receiver == " ", ""), else_=of_receiver)
    following = select(next_receiver(account.concat(_BEHIND_ACCOUNT)), number + 1)
    here = here.union_all(following.where(receiver.is_not(None), number < ACCOUNTS_MAX))
    return select(here.c[0]).where(here.c[0].is_not(None))


def _receiver_chains() -> CTE:
    chains = Given(start=Text(), stop=Text(), look=Integer())
    first = select(
        next_receiver(chains.c.start, chains.c.stop, is_included=True).label("receiver"),
        chains.c.stop,
        chains.c.look,
    )
    here = first.cte("waiting", recursive=True)
    following = select(next_receiver(here.c.receiver, here.c.stop), here.c.stop, here.c.look - 1)
    return here.union_all(following.where(here.c.receiver.is_not(None), here.c.look > 1))


def _details(named: Any) -> Select[Any]:
    """What `Waiting` needs of each receiver that is *named*."""
    begin = (deliveries.c.due_at >= named.c.begin,) if "begin" in named.c else ()

    def of_receiver(column: ColumnElement[Any], *conditions: ColumnElement[bool]) -> Select[Any]:
        of_named = deliveries.c.receiver == named.c.receiver
        return select(column).where(is_pending, of_named, *begin, *conditions).correlate(named)

    def of_state(column: ColumnElement[Any]) -> ScalarSelect[Any]:
        return select(column).where(receivers.c.receiver == named.c.receiver).scalar_subquery()

    origin = of_receiver(deliveries.c.origin).limit(1).scalar_subquery()
    first_due_at = func.min(deliveries.c.due_at)
    asked = deliveries.alias("asked")
    return select(
        named.c.receiver,
        origin.label("origin"),
        of_receiver(first_due_at).scalar_subquery().label("first_due_at"),
        of_receiver(first_due_at, deliveries.c.due_at > bindparam("now"))
        .scalar_subquery()
        .label("next_due_at"),
        of_state(receivers.c.cooldown_until).label("cooldown_until"),
        of_state(receivers.c.held_until).label("held_until"),
        of_state(is_closed).label("is_closed"),
        select(origins.c.held_until)
        .where(origins.c.origin == origin)
        .scalar_subquery()
        .label("origin_until"),
        # With a limit: otherwise PostgreSQL reads all that was asked for.
        select(literal(1))
        .where(asked.c.receiver == named.c.receiver, asked.c.is_asked)
        .limit(1)
        .correlate(named)
        .scalar_subquery()
        .label("has_asked"),
    ).where(named.c.receiver.is_not(None))


_accounts = _account_chain()
_chain = _receiver_chains()
_names = select(_chain.c.receiver).where(_chain.c.receiver.is_not(None))
_along = _details(_receiver_chains())
_named = _details(Given(receiver=Text(), begin=deliveries.c.due_at.type))
