"""
Notices about receivers: which are due, and that one was given.

What an account was told last stands in the row of the receiver, and is changed in one transaction
with the insertion of the mail. So each change is told once, whichever process finds it, and
whenever one is killed.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, select, update

from service.domain.mail import Mail
from service.domain.notices import FAILING_AFTER, STILL_FAILING_AFTER, Notice, NoticeKind
from service.storage import gates, mails
from service.storage.tables import (
    accounts,
    is_answering_noticed,
    is_failing_noticed,
    is_failing_unnoticed,
    receivers,
)

BATCH = 50
"""Notices of each kind that are found in one read."""

NoticeToGive = tuple[Notice, Mail | None]
"""A notice, and the mail that gives it; None where the account has no address."""


def find_due(tx: Connection, now: datetime) -> list[Notice]:
    """Up to `BATCH` notices of each kind that are due at *now*, the oldest first."""
    found = [
        Notice(
            kind=kind,
            receiver=row.receiver,
            origin=row.origin,
            since=row.since,
            told=row.notice and NoticeKind(row.notice),
            reason=row.reason,
        )
        for kind, query in _queries(now).items()
        for row in tx.execute(query.order_by("since").limit(BATCH))
    ]
    if not found:
        return found
    of_found = accounts.c.id.in_(sorted({one.account_id for one in found}))
    emails = {row.id: row.email for row in tx.execute(_emails.where(of_found))}
    return [replace(one, email=emails.get(one.account_id)) for one in found]


def give(tx: Connection, items: Sequence[NoticeToGive]) -> list[Notice]:
    """
    Record that notices are given, and insert their mails; returns those that were still due.

    Runs inside *tx* and never commits it.
    """
    given = [(notice, mail) for notice, mail in items if _is_given(tx, notice)]
    mails.insert(tx, [mail for _, mail in given if mail])
    return [notice for notice, _ in given]


def _is_given(tx: Connection, notice: Notice) -> bool:
    is_recovery = notice.kind is NoticeKind.RECOVERED
    since = receivers.c.answering_since if is_recovery else receivers.c.failing_since
    giving = (
        update(receivers)
        .where(
            receivers.c.receiver == notice.receiver,
            receivers.c.notice == notice.told if notice.told else receivers.c.notice.is_(None),
            since == notice.since,
        )
        .values(notice=None if is_recovery else notice.kind.value)
    )
    return bool(tx.execute(giving).rowcount)


_emails = select(accounts.c.id, accounts.c.email)


def _queries(now: datetime) -> dict[NoticeKind, Select[Any]]:
    """The receivers that each kind of notice is due for."""
    failing = receivers.c.failing_since
    # Nobody is told of a receiver that is paused: nothing changes before its end.
    fails = _shown(failing).where(~gates.is_closed)
    answering = receivers.c.answering_since
    return {
        NoticeKind.FAILING: fails.where(is_failing_unnoticed, failing <= now - FAILING_AFTER),
        NoticeKind.STILL_FAILING: fails.where(
            is_failing_noticed,
            receivers.c.notice == NoticeKind.FAILING.value,
            failing <= now - STILL_FAILING_AFTER,
        ),
        NoticeKind.RECOVERED: _shown(answering).where(
            is_answering_noticed, answering <= now - FAILING_AFTER
        ),
    }


def _shown(since: Any) -> Select[Any]:
    return select(
        receivers.c.receiver,
        receivers.c.origin,
        receivers.c.reason,
        receivers.c.notice,
        since.label("since"),
    )
