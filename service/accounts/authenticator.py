"""
Who is let in: a key is looked up by its prefix and compared in constant time.

Whether a prefix is unknown, a key is wrong, has expired or belongs to a disabled account, is all
the same to whoever asks.
"""

from __future__ import annotations

from service.accounts.api_keys import matches, prefix_of
from service.accounts.memory import Memory
from service.clock import Clock
from service.errors import Unauthorized
from service.storage.accounts import StoredKey
from service.storage.store import Store

_NOBODYS_HASH = bytes(32)
"""Compared with where there is nothing to compare with, so that it takes as long."""

NO_KEY = "Send the key of your account: Authorization: Bearer inv_…"
WRONG_KEY = "This key is not, or no longer, valid."


class Gate:
    """Finds the account of a request, from its `Authorization` header."""

    def __init__(self, store: Store, clock: Clock, *, default_account_id: str | None) -> None:
        self._clock = clock
        self._default_account_id = default_account_id
        self._store = store
        self._keys: Memory[StoredKey | None] = Memory(self._find, clock)

    async def account_of(self, authorization: str | None) -> str:
        """
        The id of the account whose key *authorization* shows.

        In development a request without the header belongs to the default account.

        Raises:
            Unauthorized: if there is none, in words that do not say why.
        """
        if authorization is None and self._default_account_id is not None:
            return self._default_account_id
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized(NO_KEY)
        return await self._owner_of(key.strip())

    async def _owner_of(self, key: str) -> str:
        prefix = prefix_of(key)
        stored = await self._keys.get(prefix) if prefix else None
        is_valid = matches(key, stored.hash if stored else _NOBODYS_HASH)
        if not stored or not is_valid or self._has_expired(stored):
            raise Unauthorized(WRONG_KEY)
        return stored.account_id

    async def _find(self, prefix: str) -> StoredKey | None:
        return await self._store.find_key(prefix, self._clock.now())

    def _has_expired(self, stored: StoredKey) -> bool:
        return stored.expires_at is not None and stored.expires_at <= self._clock.now()
