"""
Mails: committed with a step of their invoice, leased when they are due, settled by attempts.

The bytes of a mail are kept only while it is pending. Leases work as for deliveries: an attempt
that outlived its lease changes nothing.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    LargeBinary,
    RowMapping,
    Text,
    case,
    exists,
    func,
    literal_column,
    null,
    select,
)

from service.database.bulk import insert_rows
from service.domain.mail import Mail, MailAttempt
from service.domain.states import MailStatus
from service.storage import leases
from service.storage.invoices import key_of
from service.storage.tables import mail_attempts, mails, microseconds
from service.values import value

ATTEMPTS_MAX = 100
"""Attempts of one mail that are shown, the newest."""


@value()
class DueMails:
    """The result of a lease round; *next_due_at* is when the next one may find more, if ever."""

    mails: Sequence[Mail]
    next_due_at: datetime | None


# A literal and not a parameter: otherwise a database does not use the index of due mails.
_is_pending = mails.c.status == literal_column("'pending'")
_due = leases.SharedDueRows(mails, (*Mail.__dataclass_fields__, "due_at"), _is_pending)


def insert(tx: Connection, new: Sequence[Mail]) -> None:
    """
    Insert *new* mails, which are due at once.

    Runs inside *tx* and never commits it.
    """
    insert_rows(tx, mails, [_row(mail) for mail in new])


def has_mail(tx: Connection, account_id: str, invoice_key: str) -> bool:
    """Whether the mail of an invoice is committed."""
    of_invoice = (mails.c.account_id == account_id, mails.c.invoice_key == invoice_key)
    return bool(tx.scalar(select(exists().where(*of_invoice))))


def has_attempt(tx: Connection, attempt: MailAttempt) -> bool:
    """Whether *attempt* is recorded, and not another one of the same number."""
    is_it = (
        mail_attempts.c.account_id == attempt.mail.account_id,
        mail_attempts.c.mail_id == attempt.mail.id,
        mail_attempts.c.number == attempt.number,
        mail_attempts.c.started_at == attempt.started_at,
    )
    return bool(tx.scalar(select(exists().where(*is_it))))


def lease_due(tx: Connection, rounds: Sequence[leases.LeaseRound]) -> list[DueMails]:
    """
    Lease mails that are due: of each account the longest due, and as many as of the others.

    Runs inside *tx* and never commits it.
    """
    found = [_due.lease(tx, one) for one in rounds]
    return [DueMails([_mail(row) for row in rows], next_due_at) for rows, next_due_at in found]


def _mail(row: dict[str, Any]) -> Mail:
    return Mail(**{name: row[name] for name in Mail.__dataclass_fields__})


_settled = leases.held(
    status=Text(),
    due_at=mails.c.due_at.type,
    settled_at=mails.c.settled_at.type,
    attempt_count=mails.c.attempt_count.type,
)
_settling = leases.giving_up(mails, _settled).values(
    status=_settled.c.status,
    attempt_count=_settled.c.attempt_count,
    due_at=func.coalesce(_settled.c.due_at, mails.c.due_at),
    settled_at=_settled.c.settled_at,
    body=case(
        (_settled.c.status == MailStatus.PENDING.value, mails.c.body),
        else_=null().cast(LargeBinary),
    ),
)


def settle(tx: Connection, items: Sequence[MailAttempt]) -> list[bool]:
    """
    Record attempts and give up their leases; False for each whose lease was no longer held.

    Runs inside *tx* and never commits it.

    Raises:
        Undecided: if some of several leases were no longer held; see `leases`.
    """
    if not leases.give_up(tx, _settling, map(_settlement, items)):
        return [False]
    insert_rows(tx, mail_attempts, [_attempt_row(one) for one in items])
    return [True] * len(items)


_released = leases.held()
_releasing = leases.giving_up(mails, _released)


def release(tx: Connection, items: Sequence[Mail]) -> list[bool]:
    """
    Give up leases without an attempt; the mails stay due.

    Runs inside *tx* and never commits it.

    Raises:
        Undecided: if some of several leases were no longer held; see `leases`.
    """
    if not leases.give_up(tx, _releasing, map(_lease_of, items)):
        return [False]
    return [True] * len(items)


def of_invoice(tx: Connection, account_id: str, invoice_id: str) -> list[dict[str, Any]]:
    """
    The mails of one invoice, newest first, each with its newest attempts in order.

    Raises:
        NotFound: if the account has no invoice of that id.
    """
    key = key_of(tx, account_id, invoice_id)
    shown = (column for column in mails.columns if column is not mails.c.body)
    query = select(*shown).where(mails.c.account_id == account_id, mails.c.invoice_key == key)
    rows = tx.execute(query.order_by(mails.c.id.desc())).mappings().all()
    return [{**row, "attempts": _attempts_of(tx, account_id, row["id"])} for row in rows]


def _attempts_of(tx: Connection, account_id: str, mail_id: str) -> list[RowMapping]:
    query = select(mail_attempts).where(
        mail_attempts.c.account_id == account_id, mail_attempts.c.mail_id == mail_id
    )
    newest = query.order_by(mail_attempts.c.number.desc()).limit(ATTEMPTS_MAX)
    return list(reversed(tx.execute(newest).mappings().all()))


def _lease_of(mail: Mail) -> dict[str, Any]:
    return {"account_id": mail.account_id, "key": mail.id, "token": mail.lease_token}


def _settlement(attempt: MailAttempt) -> dict[str, Any]:
    is_pending = attempt.status is MailStatus.PENDING
    return {
        **_lease_of(attempt.mail),
        "status": attempt.status.value,
        "due_at": microseconds(attempt.due_at),
        "settled_at": None if is_pending else microseconds(attempt.ended_at),
        "attempt_count": attempt.number,
    }


def _row(mail: Mail) -> tuple[Any, ...]:
    created_at = microseconds(mail.created_at)
    # In the order of the table's columns.
    return (
        mail.account_id,  # account_id
        mail.id,  # id
        mail.invoice_key,  # invoice_key
        mail.recipient,  # recipient
        mail.subject,  # subject
        mail.message_id,  # message_id
        mail.body,  # body
        MailStatus.PENDING.value,  # status
        0,  # attempt_count
        created_at,  # created_at
        created_at,  # due_at
        None,  # settled_at
        None,  # leased_until
        0,  # lease_token
        None,  # leased_by
    )


def _attempt_row(attempt: MailAttempt) -> tuple[Any, ...]:
    return (
        attempt.mail.account_id,  # account_id
        attempt.mail.id,  # mail_id
        attempt.number,  # number
        microseconds(attempt.started_at),  # started_at
        attempt.outcome.value,  # outcome
        attempt.code,  # code
        attempt.detail,  # detail
    )
