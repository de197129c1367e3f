"""The keys of Stripe of each account, as ciphertext."""

from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from service.storage.tables import account_stripe_keys


def put(tx: Connection, account_id: str, ciphertext: bytes, now: datetime) -> None:
    """Store the keys of an account in place of those that it has."""
    row = {"account_id": account_id, "ciphertext": ciphertext, "created_at": now}
    tx.execute(delete(account_stripe_keys).where(account_stripe_keys.c.account_id == account_id))
    tx.execute(insert(account_stripe_keys), row)


def find(tx: Connection, account_id: str) -> bytes | None:
    """The keys of an account; None if it has none."""
    query = select(account_stripe_keys.c.ciphertext)
    ciphertext: bytes | None = tx.scalar(
        query.where(account_stripe_keys.c.account_id == account_id)
    )
    return ciphertext


def find_all(tx: Connection) -> list[bytes]:
    """The keys of all accounts, to check the encryption keys with."""
    return list(tx.scalars(select(account_stripe_keys.c.ciphertext)))
