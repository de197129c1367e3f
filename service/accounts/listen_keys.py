"""
Keys that permit nothing but to listen, for a developer who should not have the key of the account.

Such a key is accepted by the operations of listeners alone, and expires by itself.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from service.accounts.api_keys import hash_of, listen_prefix_of, matches, new_listen_key
from service.accounts.cache import cached
from service.clock import Clock
from service.storage.accounts import NewKey, StoredKey
from service.storage.store import Store

LIFETIME = timedelta(hours=24)
"""How long a key to listen is valid."""


class ListenKeys:
    """
    Issues keys to listen, and finds the account of a request by such a key or by its own key.

    *authenticate* finds the account by the key of the account.
    """

    def __init__(
        self, store: Store, clock: Clock, authenticate: Callable[[str | None], Awaitable[str]]
    ) -> None:
        self._store = store.listening
        self._clock = clock
        self._authenticate = authenticate
        self._find_key = cached(self._read_key)

    async def issue(self, account_id: str) -> tuple[str, datetime]:
        """A new key of *account_id*, which is told once, and when it expires."""
        key, now = new_listen_key(), self._clock.now()
        prefix = listen_prefix_of(key)
        assert prefix is not None  # noqa: S101 -- every new key has one
        expires_at = now + LIFETIME
        await self._store.add_key(account_id, NewKey(prefix, hash_of(key)), now, expires_at)
        return key, expires_at

    async def authenticate(self, authorization: str | None) -> str:
        """
        The id of the account whose key, or key to listen, *authorization* has.

        Raises:
            Unauthorized: if there is no valid key; the message does not say why it is not valid.
        """
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        prefix = listen_prefix_of(key) if scheme.lower() == "bearer" else None
        stored = await self._find_key(prefix) if prefix else None
        # The cache may still hold a key that has expired meanwhile.
        is_valid = stored and stored.expires_at and stored.expires_at > self._clock.now()
        if stored and is_valid and matches(key, stored.hash):
            return stored.account_id
        return await self._authenticate(authorization)

    async def _read_key(self, prefix: str) -> StoredKey | None:
        return await self._store.find_key(prefix, self._clock.now())
