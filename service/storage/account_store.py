"""The operations on accounts, their keys and their secrets; they are part of the store."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from service.database.engine import Database
from service.storage import accounts, stripe_keys


class AccountStore:
    """
    All operations on accounts.

    Each method that writes returns after its commit. It raises StorageUnavailable if the database
    cannot be written to; nothing was stored then.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, account: accounts.Account, new: accounts.Credentials) -> bool:
        """Add an account; False if its name is taken."""
        return await self._database.write(accounts.add, account, new)

    async def add_first(self, account: accounts.Account, new: accounts.Credentials) -> bool:
        """Add an account unless there is any."""
        return await self._database.write(accounts.add_first, account, new)

    async def rotate(
        self, account_id: str, new: accounts.Credentials, *, now: datetime, until: datetime
    ) -> None:
        """Add credentials; the present ones of the same kind expire at *until*."""
        await self._database.write(accounts.rotate, account_id, new, now=now, until=until)

    async def disable(self, account_id: str, now: datetime) -> None:
        """Reject the keys of the account from now on."""
        await self._database.write(accounts.disable, account_id, now)

    async def set_email(self, account_id: str, email: str | None) -> None:
        """Let notices of the account go to *email*; None is nowhere."""
        await self._database.write(accounts.set_email, account_id, email)

    async def find(self, name: str) -> accounts.Account | None:
        """The account of that name."""
        return await self._database.read(accounts.find, name)

    async def list_all(self, now: datetime) -> list[dict[str, Any]]:
        """Every account, with the prefixes of its keys."""
        return await self._database.read(accounts.list_accounts, now)

    async def find_key(self, prefix: str, now: datetime) -> accounts.StoredKey | None:
        """The key with that prefix, if it is valid."""
        return await self._database.read(accounts.find_key, prefix, now)

    async def find_pay_key(self, account_id: str) -> accounts.PayKey | None:
        """The pay key of an account, if it has one."""
        return await self._database.read(accounts.find_pay_key, account_id)

    async def find_pay_key_by_prefix(self, prefix: str) -> accounts.PayKey | None:
        """The pay key with that prefix."""
        return await self._database.read(accounts.find_pay_key_by_prefix, prefix)

    async def add_pay_key(self, new: accounts.PayKey, now: datetime) -> accounts.PayKey:
        """Give an account a pay key, unless it has one; returns the one that it has then."""
        return await self._database.write(accounts.add_pay_key, new, now)

    async def secrets_of(
        self, account_id: str, now: datetime
    ) -> list[tuple[bytes, datetime | None]]:
        """The encrypted secrets of an account, and until when each is valid."""
        return await self._database.read(accounts.secrets_of, account_id, now)

    async def all_secrets(self, now: datetime) -> list[bytes]:
        """The encrypted secrets of all accounts that are valid, keys of Stripe included."""
        return [
            *await self._database.read(accounts.all_secrets, now),
            *await self._database.read(stripe_keys.find_all),
        ]

    async def renew_secrets(self, renew: Callable[[bytes], bytes], now: datetime) -> int:
        """Replace all ciphertexts by what *renew* makes of them; returns how many there are."""
        return await self._database.write(accounts.renew_secrets, renew, now)

    async def put_stripe_keys(self, account_id: str, ciphertext: bytes, now: datetime) -> None:
        """Store the encrypted keys of Stripe of an account in place of those that it has."""
        await self._database.write(stripe_keys.put, account_id, ciphertext, now)

    async def stripe_keys_of(self, account_id: str) -> bytes | None:
        """The encrypted keys of Stripe of an account, if it has any."""
        return await self._database.read(stripe_keys.find, account_id)
