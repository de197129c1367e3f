"""
Authentication: a key is looked up by its prefix and compared in constant time.

An unknown prefix, a wrong or expired key and a disabled account are refused with the same message.
"""

from service.accounts.api_keys import matches, prefix_of
from service.accounts.cache import cached
from service.clock import Clock
from service.errors import Unauthorized
from service.storage.accounts import StoredKey
from service.storage.store import Store

_NO_HASH = bytes(32)
"""Compared with if no key is stored, so that the refusal takes the same time."""

NO_KEY = "Send the key of your account: Authorization: Bearer inv_…"
WRONG_KEY = "This key is not, or no longer, valid."


class Authenticator:
    """Finds the account of a request by its `Authorization` header."""

    def __init__(self, store: Store, clock: Clock, *, default_account_id: str | None) -> None:
        self._store = store
        self._clock = clock
        self._default_account_id = default_account_id
        self._find_key = cached(self._read_key)

    async def authenticate(self, authorization: str | None) -> str:
        """
        The id of the account whose key *authorization* has.

        In development every request without a valid key belongs to the default account: tools
        send a header of their own, or the key of another service.

        Raises:
            Unauthorized: if there is no valid key; the message does not say why it is not valid.
        """
        if authorization is None and self._default_account_id is not None:
            return self._default_account_id
        try:
            return await self._account_of(authorization)
        except Unauthorized:
            if self._default_account_id is None:
                raise
            return self._default_account_id

    async def _account_of(self, authorization: str | None) -> str:
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized(NO_KEY)
        key = key.strip()
        prefix = prefix_of(key)
        stored = await self._find_key(prefix) if prefix else None
        is_match = matches(key, stored.hash if stored else _NO_HASH)
        # The cache may still hold a key that has expired meanwhile.
        has_expired = stored and stored.expires_at and stored.expires_at <= self._clock.now()
        if not stored or not is_match or has_expired:
            raise Unauthorized(WRONG_KEY)
        return stored.account_id

    async def _read_key(self, prefix: str) -> StoredKey | None:
        return await self._store.accounts.find_key(prefix, self._clock.now())
