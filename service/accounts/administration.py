"""
What an operator does with accounts: add, list, rotate, disable.

Keys and secrets are made here, shown to the operator once, and kept as hash and ciphertext.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from service.accounts.api_keys import hash_of, new_api_key, prefix_of
from service.accounts.encryption import Vault, new_signing_secret
from service.accounts.signing_secrets import Secretary
from service.clock import Clock
from service.domain.ids import new_id
from service.errors import AccountDisabled, NameTaken, UnknownAccount
from service.storage.accounts import Account, Credentials, NewKey
from service.storage.store import Store

FIRST_NAME = "default"
"""What the account is called that a first start makes."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown once, and never again."""

    name: str
    account_id: str
    key: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)


class Register:
    """The accounts of one database, for whoever runs it."""

    def __init__(self, store: Store, vault: Vault, clock: Clock) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock

    async def add(self, name: str) -> Shown:
        """
        A new account with a key and a signing secret.

        Raises:
            NameTaken: if there is one of that name.
            ConfigurationError: if those that there are were encrypted with another key.
        """
        await self._check_vault()
        account, shown, credentials = self._new(name)
        if not await self._store.add_account(account, credentials):
            raise NameTaken(f"There is an account {name!r} already.")
        return shown

    async def add_first(self) -> Shown | None:
        """A first account, where there is none; None where there is any."""
        account, shown, credentials = self._new(FIRST_NAME)
        is_added = await self._store.add_first_account(account, credentials)
        return shown if is_added else None

    async def list(self) -> list[dict[str, Any]]:
        """Every account, with the prefixes of its keys."""
        return await self._store.list_accounts(self._clock.now())

    async def rotate_key(self, name: str, overlap: timedelta) -> Shown:
        """
        A new key; those that there are work for *overlap* longer.

        Raises:
            AccountDisabled: if it would let nobody in.
        """
        account, key = await self._find(name), new_api_key()
        if account.disabled_at:
            raise AccountDisabled(f"The account {name!r} is disabled, so that no key lets it in.")
        await self._rotate(account, Credentials(key=_kept(key)), overlap)
        return Shown(name, account.id, key=key)

    async def rotate_secret(self, name: str, overlap: timedelta) -> Shown:
        """
        A new signing secret; for *overlap*, events are signed with the old one as well.

        Raises:
            ConfigurationError: if those that there are were encrypted with another key.
        """
        await self._check_vault()
        account, secret = await self._find(name), new_signing_secret()
        credentials = Credentials(secret_ciphertext=self._vault.lock(secret))
        await self._rotate(account, credentials, overlap)
        return Shown(name, account.id, secret=secret)

    async def disable(self, name: str) -> None:
        """Let the account in no more; what it sent in is delivered all the same."""
        account = await self._find(name)
        await self._store.disable_account(account.id, self._clock.now())

    async def _check_vault(self) -> None:
        # What is encrypted with a key that the service has not got would never be signed with.
        await Secretary(self._store, self._vault, self._clock).check()

    async def _find(self, name: str) -> Account:
        account = await self._store.find_account(name)
        if account is None:
            raise UnknownAccount(f"There is no account {name!r}.")
        return account

    async def _rotate(self, account: Account, credentials: Credentials, overlap: timedelta) -> None:
        now = self._clock.now()
        await self._store.rotate(account.id, credentials, now=now, until=now + overlap)

    def _new(self, name: str) -> tuple[Account, Shown, Credentials]:
        key, secret = new_api_key(), new_signing_secret()
        account = Account(f"acct_{new_id()}", name, self._clock.now())
        credentials = Credentials(_kept(key), self._vault.lock(secret))
        return account, Shown(name, account.id, key, secret), credentials


def _kept(key: str) -> NewKey:
    prefix = prefix_of(key)
    assert prefix is not None  # noqa: S101 -- we have just made it
    return NewKey(prefix, hash_of(key))
