"""
Leases: the exclusive right to work on a row, limited in time and identified by a token.

Keeps invariants 2 and 3. A row is leased exactly while its `leased_until` is in the future and the
process that leased it is not recorded as ended: nothing has to be cleaned up after a process that
was killed. Every lease raises the `lease_token` of the row by one, and a write matches on the token
of its own lease: a holder whose lease has run out, or was taken over from it, changes nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    Table,
    Text,
    Update,
    and_,
    bindparam,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.types import TypeEngine

from service.database.at_once import AtOnce, Found
from service.database.bulk import Given, given
from service.database.compiled import as_json, run_given
from service.storage.tables import deliveries, invoices, mails, processes
from service.values import value


@value()
class LeaseRound:
    """
    Lease up to *limit* rows that are due at *now*, until *until*, to *process_id*.

    *held* has the account of each row that the process has leased already.
    """

    now: datetime
    until: datetime
    limit: int
    process_id: int | None = None
    held: tuple[str, ...] = ()


ACCOUNTS_MAX = 10_000
"""Accounts that are looked at in one round of rows that are shared among accounts."""


Results = Callable[[Found], Sequence[Any] | None]


class Undecided(Exception):
    """
    Some of several leases were no longer held, and one statement cannot say which.

    Nothing was written. Group commit halves the items until each is decided.
    """


def is_free(table: Table) -> ColumnElement[bool]:
    """The condition that a row of *table* is not leased at `:now`."""
    # Not EXISTS: PostgreSQL might read the whole table of processes for that.
    of_holder = select(processes.c.ended_at).where(processes.c.id == table.c.leased_by)
    holder_ended_at = of_holder.correlate(table).scalar_subquery()
    return or_(
        table.c.leased_until.is_(None),
        table.c.leased_until <= bindparam("now"),
        holder_ended_at.is_not(None),
    )


def taking(table: Table, rows: Given) -> Update:
    """The statement that leases the given rows of *table* until `:until`, to `:process_id`."""
    return (
        update(table)
        .where(_is_given(table, rows))
        .values(
            leased_until=bindparam("until", type_=table.c.leased_until.type),
            lease_token=table.c.lease_token + 1,
            leased_by=bindparam("process_id", type_=table.c.leased_by.type),
        )
    )


class DueRows:
    """The rows of *table* that are leased when they are due; *waiting* says which ones ever are."""

    def __init__(self, table: Table, columns: Iterable[str], *waiting: ColumnElement[bool]) -> None:
        due_at = table.c.due_at
        _, self._key = table.primary_key.columns.keys()
        self.due = (
            select(*(table.c[name] for name in columns))
            .where(*waiting, due_at <= bindparam("now"), is_free(table))
            .order_by(due_at)
            .limit(bindparam("limit"))
            .with_for_update(skip_locked=True)
        )
        self._taking = taking(table, Given(account_id=Text(), key=Text()))
        self._next_due = select(func.min(due_at)).where(*waiting, due_at > bindparam("now"))

    def lease(
        self, tx: Connection, round_: LeaseRound
    ) -> tuple[list[dict[str, Any]], datetime | None]:
        """
        Lease rows that are due, the longest due first.

        Runs inside *tx* and never commits it.

        Returns:
            The leased rows, and when the next round may find more, if ever.
        """
        rows = self._find(tx, round_)
        if rows:
            leased = [{"account_id": row["account_id"], "key": row[self._key]} for row in rows]
            at = {"until": round_.until, "process_id": round_.process_id}
            tx.execute(self._taking, {**given(leased), **at})
        is_last = len(rows) < round_.limit
        next_due_at = tx.scalar(self._next_due, {"now": round_.now}) if is_last else round_.now
        return [{**row, "lease_token": row["lease_token"] + 1} for row in rows], next_due_at

    def _find(self, tx: Connection, round_: LeaseRound) -> Sequence[RowMapping]:
        at = {"now": round_.now, "limit": round_.limit}
        return tx.execute(self.due, at).mappings().all()


class SharedDueRows(DueRows):
    """
    The same, shared among accounts: those that have the fewest rows leased come first.

    Each account is found by one index lookup from the one before, and its rows by another one: what
    a round costs depends on the number of accounts, and not on how many rows one of them has.
    """

    def __init__(self, table: Table, columns: Iterable[str], *waiting: ColumnElement[bool]) -> None:
        super().__init__(table, columns, *waiting)
        self._of_account = self.due.where(table.c.account_id == bindparam("account_id"))
        self._accounts = _accounts_with_due(table, *waiting)

    def _find(self, tx: Connection, round_: LeaseRound) -> Sequence[RowMapping]:
        counts = Counter(round_.held)
        at = {"now": round_.now, "limit": round_.limit}
        due = [one for one in tx.execute(self._accounts, at) if one.due_at is not None]
        due.sort(key=lambda one: (counts[one.account_id], one.due_at))
        turns = list[tuple[int, datetime, RowMapping]]()
        for account_id, _ in due[: round_.limit]:
            found = tx.execute(self._of_account, {**at, "account_id": account_id}).mappings()
            turns += [
                (turn, row["due_at"], row) for turn, row in enumerate(found, counts[account_id])
            ]
        return [row for _, _, row in sorted(turns, key=itemgetter(0, 1))[: round_.limit]]


def _accounts_with_due(table: Table, *waiting: ColumnElement[bool]) -> Select[Any]:
    """Up to `ACCOUNTS_MAX` accounts with rows that wait, and since when one of each is due."""
    first = func.min(table.c.account_id)
    # Without a condition on it, a server may plan to walk along the whole index.
    beginning = select(first).where(*waiting, table.c.account_id > literal("", Text()))
    begin = select(beginning.scalar_subquery().label("account_id"), literal(1))
    here = begin.cte("found", recursive=True)
    account_id, number = here.c
    following = select(first).where(*waiting, table.c.account_id > account_id).correlate(here)
    here = here.union_all(
        select(following.scalar_subquery(), number + 1).where(
            account_id.is_not(None), number < ACCOUNTS_MAX
        )
    )
    of_account = (table.c.account_id == here.c.account_id, table.c.due_at <= bindparam("now"))
    since = (
        select(table.c.due_at)
        .where(*waiting, *of_account, is_free(table))
        .order_by(table.c.due_at)
        .limit(1)
        .correlate(here)
        .scalar_subquery()
    )
    return select(here.c.account_id, since.label("due_at")).where(here.c.account_id.is_not(None))


def held(**changes: TypeEngine[Any]) -> Given:
    """Rows whose leases are to be given up: account, key, the lease's token, and *changes*."""
    return Given(account_id=Text(), key=Text(), token=BigInteger(), **changes)


def giving_up(table: Table, rows: Given) -> Update:
    """A statement that gives up leases on *table*, to be extended by other changes."""
    return (
        update(table)
        .where(
            _is_given(table, rows),
            # A lease allows one write, which gives it up. Compared with a given value: a server
            # that has counted no leases would begin with all that are leased, along a whole index.
            case((table.c.leased_until.is_not(None), table.c.lease_token)) == rows.c.token,
        )
        .values(leased_until=None, leased_by=None)
    )


def is_legal(table: Table, rows: Given, moves: Mapping[Any, frozenset[Any]]) -> ColumnElement[bool]:
    """The condition that *moves* lead from the status of a row to the one it is given."""
    # The status is compared with an expression: after a plain comparison, a plan that was made
    # while few rows were pending would scan the index of pending ones.
    return or_(
        *(
            table.c.status == case((_is_one_of(rows.c.status, targets), source.value))
            for source, targets in moves.items()
            if targets
        )
    )


def _is_one_of(status: ColumnElement[Any], targets: frozenset[Any]) -> ColumnElement[bool]:
    # Not IN: SQLite makes a table of more than two values, each time the statement runs.
    return or_(*(status == one for one in sorted(map(str, targets))))


def end_all(tx: Connection, now: datetime) -> int:
    """
    End every lease that holds at *now*: the processes that took them have ended.

    Runs inside *tx* and never commits it.

    Returns:
        How many leases were ended.
    """
    return sum(
        tx.execute(
            update(table).where(is_worked_on, table.c.leased_until > now).values(leased_until=now)
        ).rowcount
        for table, is_worked_on in (
            (invoices, invoices.c.due_at.is_not(None)),
            (deliveries, deliveries.c.status == literal_column("'pending'")),
            (mails, mails.c.status == literal_column("'pending'")),
        )
    )


def give_up(tx: Connection, statement: Update, rows: Iterable[Mapping[str, Any]]) -> bool:
    """
    Run *statement*, made by `giving_up`, for all *rows*.

    Returns:
        False if the only lease was no longer held: nothing was written for it.

    Raises:
        Undecided: if some of several leases were no longer held.
    """
    # In the same order in every process, so that two of them never wait for each other's rows.
    ordered = sorted(rows, key=_account_and_key)
    written = run_given(tx, statement, ordered)
    if written not in (0, len(ordered)) or (written == 0 and len(ordered) > 1):
        raise Undecided
    return written == len(ordered)


def given_up_at_once(
    text: str, rows: Sequence[dict[str, Any]], *more: str, results: Results
) -> AtOnce | None:
    """
    The statement *text*, which gives up the leases of *rows* and returns what *results* takes.

    None if a lease is named twice: only one of the two holds it, and the statement cannot say
    which.
    """
    if len({_account_and_key(one) for one in rows}) < len(rows):
        return None
    return AtOnce(text, (as_json(sorted(rows, key=_account_and_key)), *more), results)


def are_among(rows: Sequence[Mapping[str, Any]], found: Found) -> list[bool]:
    """Whether each of *rows* is among the accounts and keys *found*."""
    if len(found) == len(rows):
        return [True] * len(rows)
    known = {(account_id, key) for account_id, key in found}
    return [_account_and_key(one) in known for one in rows]


def _is_given(table: Table, rows: Given) -> ColumnElement[bool]:
    account_id, key = table.primary_key.columns
    return and_(account_id == rows.c.account_id, key == rows.c.key)


_account_and_key = itemgetter("account_id", "key")
