"""
Signing in to the console: one-time links, and the sessions that a link or a key was exchanged for.

Only the hashes of their tokens are stored. Neither is found once its account is disabled; a
rotation of the key removes those of its account in the same transaction.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Select, Table, delete, insert, or_, select

from service.storage.tables import accounts, console_links, console_sessions

SESSIONS_MAX = 100
"""Sessions of one account, and of the operator; a new one ends the oldest."""


@dataclass(frozen=True, slots=True)
class Link:
    """A one-time link; *account_id* is None where it opens every account."""

    hash: bytes
    account_id: str | None
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in; *account_id* is None for the operator."""

    hash: bytes
    account_id: str | None
    created_at: datetime
    expires_at: datetime


def add_link(tx: Connection, link: Link, now: datetime) -> None:
    """Store *link*, and remove those that have expired."""
    tx.execute(delete(console_links).where(console_links.c.expires_at <= now))
    row = {"hash": link.hash, "account_id": link.account_id, "expires_at": link.expires_at}
    tx.execute(insert(console_links), row)


def find_link(tx: Connection, hash_: bytes, now: datetime) -> Link | None:
    """The link with that hash, if it has not expired and its account is not disabled."""
    row = tx.execute(_valid(console_links, hash_, now)).mappings().one_or_none()
    return Link(**row) if row else None


def take_link(tx: Connection, link: Link, session: Session) -> bool:
    """Exchange *link* for *session*; False if somebody else has taken it meanwhile."""
    taken = tx.execute(delete(console_links).where(console_links.c.hash == link.hash))
    if not taken.rowcount:
        return False
    add(tx, session)
    return True


def add(tx: Connection, session: Session) -> None:
    """Store *session*; those that have expired, and the oldest of too many, end."""
    has_expired = console_sessions.c.expires_at <= session.created_at
    tx.execute(delete(console_sessions).where(has_expired))
    account_id = session.account_id
    column = console_sessions.c.account_id
    oldest = (
        select(console_sessions.c.hash)
        .where(column.is_(None) if account_id is None else column == account_id)
        .order_by(console_sessions.c.created_at.desc())
        .offset(SESSIONS_MAX - 1)
    )
    if too_many := tx.scalars(oldest).all():
        tx.execute(delete(console_sessions).where(console_sessions.c.hash.in_(too_many)))
    row = {"hash": session.hash, "account_id": account_id}
    instants = {"created_at": session.created_at, "expires_at": session.expires_at}
    tx.execute(insert(console_sessions), {**row, **instants})


def find(tx: Connection, hash_: bytes, now: datetime) -> Session | None:
    """The session with that hash, if it has not ended and its account is not disabled."""
    row = tx.execute(_valid(console_sessions, hash_, now)).mappings().one_or_none()
    return Session(**row) if row else None


def end(tx: Connection, hash_: bytes) -> None:
    """Remove a session."""
    tx.execute(delete(console_sessions).where(console_sessions.c.hash == hash_))


def end_all(tx: Connection, account_id: str) -> None:
    """Remove every session and link of an account; runs inside *tx* and never commits it."""
    for table in (console_sessions, console_links):
        tx.execute(delete(table).where(table.c.account_id == account_id))


def _valid(table: Table, hash_: bytes, now: datetime) -> Select[tuple[object, ...]]:
    joined = select(table).outerjoin(accounts, accounts.c.id == table.c.account_id)
    return joined.where(
        table.c.hash == hash_,
        table.c.expires_at > now,
        accounts.c.disabled_at.is_(None),
        # One that names no account is the operator's.
        or_(table.c.account_id.is_(None), accounts.c.id.is_not(None)),
    )
