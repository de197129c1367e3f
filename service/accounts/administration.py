"""
What an operator does with accounts: add, list, rotate, disable.

Keys and secrets are made here, shown to the operator once, and kept as hash and ciphertext.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from service.accounts.api_keys import hash_of, new_api_key, prefix_of
from service.accounts.encryption import SecretCipher, new_signing_secret
from service.accounts.signing_secrets import SigningSecrets
from service.accounts.stripe_keys import StripeKeys, encrypt_stripe_keys
from service.clock import Clock
from service.domain.ids import new_id
from service.errors import AccountDisabled, NameTaken, UnknownAccount
from service.storage.accounts import Account, Credentials, NewKey
from service.storage.store import Store

FIRST_NAME = "default"
"""The name of the account that the first start creates."""


@dataclass(frozen=True, slots=True)
class IssuedCredentials:
    """The new key or secret of an account: shown to the operator once, and never again."""

    name: str
    account_id: str
    key: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)


class AccountAdministration:
    """The accounts of one database, as an operator manages them."""

    def __init__(
        self,
        store: Store,
        cipher: SecretCipher,
        clock: Clock,
        new_id: Callable[[], str] = new_id,
    ) -> None:
        self._new_id = new_id
        self._store = store
        self._cipher = cipher
        self._clock = clock

    async def add(self, name: str, email: str | None = None) -> IssuedCredentials:
        """
        Add an account with a key and a signing secret; notices of it go to *email*, if any.

        Raises:
            NameTaken: if there is one of that name.
            ConfigurationError: if the stored secrets were encrypted with another key.
        """
        await self._check_encryption_key()
        account, issued, credentials = self._new(name, email)
        if not await self._store.accounts.add(account, credentials):
            raise NameTaken(f"There is an account {name!r} already.")
        return issued

    async def add_first(self) -> IssuedCredentials | None:
        """Add a first account; None if there is any account already."""
        account, issued, credentials = self._new(FIRST_NAME)
        is_added = await self._store.accounts.add_first(account, credentials)
        return issued if is_added else None

    async def list(self) -> list[dict[str, Any]]:
        """Every account, with the prefixes of its keys."""
        return await self._store.accounts.list_all(self._clock.now())

    async def rotate_key(self, name: str, overlap: timedelta) -> IssuedCredentials:
        """
        Add a key; the ones before it work for *overlap* longer.

        Raises:
            AccountDisabled: if the account is disabled, so that no key of it is accepted.
        """
        account, key = await self._find(name), new_api_key()
        if account.disabled_at:
            raise AccountDisabled(f"The account {name!r} is disabled: its keys are not accepted.")
        await self._rotate(account, Credentials(key=_hashed(key)), overlap)
        return IssuedCredentials(name, account.id, key=key)

    async def rotate_secret(self, name: str, overlap: timedelta) -> IssuedCredentials:
        """
        Add a signing secret; for *overlap*, events are signed with the old one as well.

        Raises:
            ConfigurationError: if the stored secrets were encrypted with another key.
        """
        await self._check_encryption_key()
        account, secret = await self._find(name), new_signing_secret()
        credentials = Credentials(secret_ciphertext=self._cipher.encrypt(secret))
        await self._rotate(account, credentials, overlap)
        return IssuedCredentials(name, account.id, secret=secret)

    async def set_stripe_keys(self, name: str, keys: StripeKeys) -> str:
        """
        Store the *keys* of Stripe of the account in place of those that it has.

        Returns:
            The id of the account, which is part of the URL of its webhooks.

        Raises:
            ConfigurationError: if the stored secrets were encrypted with another key.
        """
        await self._check_encryption_key()
        account = await self._find(name)
        ciphertext = encrypt_stripe_keys(keys, self._cipher)
        await self._store.accounts.put_stripe_keys(account.id, ciphertext, self._clock.now())
        return account.id

    async def set_email(self, name: str, email: str | None) -> None:
        """
        Let notices of the account go to *email* from now on; None is nowhere.

        Raises:
            UnknownAccount: if there is none of that name.
        """
        account = await self._find(name)
        await self._store.accounts.set_email(account.id, email)

    async def disable(self, name: str) -> None:
        """Refuse the keys of the account from now on; its invoices are collected and delivered."""
        account = await self._find(name)
        await self._store.accounts.disable(account.id, self._clock.now())

    async def renew_secrets(self) -> int:
        """
        Encrypt all stored secrets with the first encryption key; returns how many there are.

        Raises:
            ConfigurationError: if one was encrypted with a key that is not configured.
        """
        return await self._store.accounts.renew_secrets(self._cipher.renew, self._clock.now())

    async def _check_encryption_key(self) -> None:
        # The service could not decrypt a secret that is encrypted with another key than its own.
        await SigningSecrets(self._store, self._cipher, self._clock).check()

    async def _find(self, name: str) -> Account:
        account = await self._store.accounts.find(name)
        if account is None:
            raise UnknownAccount(f"There is no account {name!r}.")
        return account

    async def _rotate(self, account: Account, credentials: Credentials, overlap: timedelta) -> None:
        now = self._clock.now()
        await self._store.accounts.rotate(account.id, credentials, now=now, until=now + overlap)

    def _new(
        self, name: str, email: str | None = None
    ) -> tuple[Account, IssuedCredentials, Credentials]:
        key, secret = new_api_key(), new_signing_secret()
        account = Account(f"acct_{self._new_id()}", name, self._clock.now(), email=email)
        credentials = Credentials(_hashed(key), self._cipher.encrypt(secret))
        return account, IssuedCredentials(name, account.id, key, secret), credentials


def _hashed(key: str) -> NewKey:
    prefix = prefix_of(key)
    assert prefix is not None  # noqa: S101 -- every new key has one
    return NewKey(prefix, hash_of(key))
