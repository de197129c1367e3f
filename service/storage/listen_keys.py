"""
Keys that permit nothing but to listen, as rows; only the hash of a key is stored.

A table of their own: an older version of the service would take a row among the keys of accounts
for a key that permits everything.
"""

from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from service.storage.accounts import NewKey, StoredKey
from service.storage.tables import accounts, listen_keys

KEYS_MAX = 1_000
"""Keys of one account that are valid at once; a new one above that replaces the oldest."""


def add(tx: Connection, account_id: str, new: NewKey, now: datetime, expires_at: datetime) -> None:
    """
    Add a key of *account_id*, and remove those that have expired and those above `KEYS_MAX`.

    Runs inside *tx* and never commits it.
    """
    of_account = listen_keys.c.account_id == account_id
    newest_first = select(listen_keys.c.expires_at).where(of_account)
    newest_first = newest_first.order_by(listen_keys.c.expires_at.desc())
    first_above = tx.scalar(newest_first.offset(KEYS_MAX - 1).limit(1))
    over_at = max(now, first_above or now)
    tx.execute(delete(listen_keys).where(of_account, listen_keys.c.expires_at <= over_at))
    row = {"prefix": new.prefix, "hash": new.hash, "account_id": account_id}
    tx.execute(insert(listen_keys), {**row, "expires_at": expires_at})


def find(tx: Connection, prefix: str, now: datetime) -> StoredKey | None:
    """The key with that public prefix, unless it has expired or its account is disabled."""
    query = (
        select(listen_keys.c.account_id, listen_keys.c.hash, listen_keys.c.expires_at)
        # The account of development mode has no row.
        .outerjoin(accounts, accounts.c.id == listen_keys.c.account_id)
        .where(
            listen_keys.c.prefix == prefix,
            listen_keys.c.expires_at > now,
            accounts.c.disabled_at.is_(None),
        )
    )
    row = tx.execute(query).mappings().one_or_none()
    return StoredKey(**row) if row else None
