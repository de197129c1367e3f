"""
Accounts, their keys and their signing secrets as rows.

Only the hash of a key is stored, and only the ciphertext of a secret. Expired ones are not found.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    func,
    insert,
    or_,
    select,
    text,
    true,
    update,
)

from service.database.bulk import insert_rows
from service.domain.ids import new_id
from service.storage import sessions
from service.storage.tables import (
    account_keys,
    account_pay_keys,
    account_secrets,
    account_stripe_keys,
    accounts,
    microseconds,
)


@dataclass(frozen=True, slots=True)
class Account:
    """An API user."""

    id: str
    name: str
    created_at: datetime
    disabled_at: datetime | None = None
    email: str | None = None
    """Where notices about its receivers go."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key as it is stored: its public prefix and the hash of the whole key."""

    prefix: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key that is valid now, and its account."""

    account_id: str
    hash: bytes
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Credentials:
    """The new key, secret, or both, of a new account or a rotation."""

    key: NewKey | None = None
    secret_ciphertext: bytes | None = None


@dataclass(frozen=True, slots=True)
class PayKey:
    """The key that makes the pay tokens of an account, encrypted, and their public prefix."""

    account_id: str
    prefix: str
    ciphertext: bytes


def add(tx: Connection, account: Account, credentials: Credentials) -> bool:
    """Add *account*; False if its name is taken, and nothing was written."""
    row = (account.id, account.name, microseconds(account.created_at), None, account.email)
    # Two processes may add the same name at once: for the second one the insert adds no row.
    if not insert_rows(tx, accounts, [row], unless_known=True):
        return False
    _add_credentials(tx, account.id, credentials, account.created_at)
    return True


def add_first(tx: Connection, account: Account, credentials: Credentials) -> bool:
    """Add *account* unless there is any; of several processes that do so, one gets True."""
    if tx.dialect.name == "postgresql":
        tx.execute(text("LOCK TABLE accounts IN SHARE ROW EXCLUSIVE MODE"))
    return not tx.scalar(select(func.count()).select_from(accounts)) and add(
        tx, account, credentials
    )


def find(tx: Connection, name: str) -> Account | None:
    """The account with that name; None if there is none."""
    row = tx.execute(select(accounts).where(accounts.c.name == name)).mappings().one_or_none()
    return Account(**row) if row else None


def list_accounts(tx: Connection, now: datetime) -> list[dict[str, Any]]:
    """Every account by name, with the prefixes of its keys that are valid at *now*."""
    prefixes: dict[str, list[str]] = {}
    valid = select(account_keys).where(_is_valid(account_keys, now))
    newest_first = account_keys.c.created_at.desc(), account_keys.c.prefix
    for row in tx.execute(valid.order_by(*newest_first)):
        prefixes.setdefault(row.account_id, []).append(row.prefix)
    return [
        {
            "id": row.id,
            "name": row.name,
            "created_at": row.created_at,
            "disabled_at": row.disabled_at,
            "email": row.email,
            "key_prefixes": prefixes.get(row.id, []),
        }
        for row in tx.execute(select(accounts).order_by(accounts.c.name))
    ]


def find_key(tx: Connection, prefix: str, now: datetime) -> StoredKey | None:
    """The key with that public prefix, unless it has expired or its account is disabled."""
    query = (
        select(account_keys.c.account_id, account_keys.c.hash, account_keys.c.expires_at)
        .join(accounts, accounts.c.id == account_keys.c.account_id)
        .where(
            account_keys.c.prefix == prefix,
            accounts.c.disabled_at.is_(None),
            _is_valid(account_keys, now),
        )
    )
    row = tx.execute(query).mappings().one_or_none()
    return StoredKey(**row) if row else None


def secrets_of(
    tx: Connection, account_id: str, now: datetime
) -> list[tuple[bytes, datetime | None]]:
    """The account's secrets that are valid at *now*, newest first, each with its expiry."""
    query = select(account_secrets.c.ciphertext, account_secrets.c.expires_at).where(
        account_secrets.c.account_id == account_id, _is_valid(account_secrets, now)
    )
    newest_first = account_secrets.c.created_at.desc(), account_secrets.c.id.desc()
    rows = tx.execute(query.order_by(*newest_first))
    return [(row.ciphertext, row.expires_at) for row in rows]


def all_secrets(tx: Connection, now: datetime) -> list[bytes]:
    """All secrets that are valid at *now*, and all pay keys, to check the encryption keys with."""
    valid = select(account_secrets.c.ciphertext).where(_is_valid(account_secrets, now))
    return [*tx.scalars(valid), *tx.scalars(select(account_pay_keys.c.ciphertext))]


def renew_secrets(tx: Connection, renew: Callable[[bytes], bytes], now: datetime) -> int:
    """
    Replace every ciphertext by what *renew* makes of it, keys of pay links and of Stripe included.

    Runs inside *tx* and never commits it.

    Returns:
        How many there are. Signing secrets that have expired by *now* are left as they are.
    """
    count = 0
    for table in (account_secrets, account_pay_keys, account_stripe_keys):
        keys = list(table.primary_key.columns)
        is_valid = _is_valid(table, now) if table is account_secrets else true()
        for *key, ciphertext in tx.execute(select(*keys, table.c.ciphertext).where(is_valid)).all():
            of_row = [column == value for column, value in zip(keys, key, strict=True)]
            tx.execute(update(table).where(*of_row).values(ciphertext=renew(ciphertext)))
            count += 1
    return count


def find_pay_key(tx: Connection, account_id: str) -> PayKey | None:
    """The pay key of an account; None if it has none yet."""
    row = tx.execute(_pay_keys.where(account_pay_keys.c.account_id == account_id)).one_or_none()
    return PayKey(*row) if row else None


def find_pay_key_by_prefix(tx: Connection, prefix: str) -> PayKey | None:
    """The pay key with that public prefix; None if there is none."""
    row = tx.execute(_pay_keys.where(account_pay_keys.c.prefix == prefix)).one_or_none()
    return PayKey(*row) if row else None


def add_pay_key(tx: Connection, new: PayKey, now: datetime) -> PayKey:
    """Store *new*, unless its account has a pay key; returns the one that it has then."""
    row = (new.account_id, new.prefix, new.ciphertext, microseconds(now))
    insert_rows(tx, account_pay_keys, [row], unless_known=True)
    known = find_pay_key(tx, new.account_id)
    assert known is not None  # noqa: S101 -- the account had one, or has this one
    return known


_pay_keys = select(
    account_pay_keys.c.account_id, account_pay_keys.c.prefix, account_pay_keys.c.ciphertext
)


def rotate(
    tx: Connection, account_id: str, credentials: Credentials, *, now: datetime, until: datetime
) -> None:
    """
    Add *credentials*; older ones of the same kind expire at *until*, if not before.

    A new key ends the sessions of the account in the console.
    """
    if credentials.key:
        sessions.end_all(tx, account_id)
    for table, new in (
        (account_keys, credentials.key),
        (account_secrets, credentials.secret_ciphertext),
    ):
        if new is not None:
            lasting = or_(table.c.expires_at.is_(None), table.c.expires_at > until)
            tx.execute(
                update(table)
                .where(table.c.account_id == account_id, lasting)
                .values(expires_at=until)
            )
    _add_credentials(tx, account_id, credentials, now)


def set_email(tx: Connection, account_id: str, email: str | None) -> None:
    """Let notices of the account go to *email*; None is nowhere."""
    tx.execute(update(accounts).where(accounts.c.id == account_id).values(email=email))


def disable(tx: Connection, account_id: str, now: datetime) -> None:
    """Disable the account's keys. What it has sent in is still collected and delivered."""
    tx.execute(
        update(accounts)
        .where(accounts.c.id == account_id, accounts.c.disabled_at.is_(None))
        .values(disabled_at=now)
    )
    sessions.end_all(tx, account_id)


def _add_credentials(
    tx: Connection, account_id: str, credentials: Credentials, now: datetime
) -> None:
    if credentials.key:
        key = {"prefix": credentials.key.prefix, "hash": credentials.key.hash}
        tx.execute(insert(account_keys), {**key, "account_id": account_id, "created_at": now})
    if credentials.secret_ciphertext is not None:
        secret = {"id": new_id(), "ciphertext": credentials.secret_ciphertext}
        tx.execute(insert(account_secrets), {**secret, "account_id": account_id, "created_at": now})


def _is_valid(table: Table, now: datetime) -> ColumnElement[bool]:
    return or_(table.c.expires_at.is_(None), table.c.expires_at > now)
