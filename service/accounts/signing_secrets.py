"""The signing secrets of accounts, decrypted and cached."""

from datetime import datetime

from service.accounts.cache import cached
from service.accounts.encryption import SecretCipher
from service.clock import Clock
from service.errors import ConfigurationError
from service.storage.store import Store


class SigningSecrets:
    """Finds the secrets with which the events of an account are signed now, newest first."""

    def __init__(self, store: Store, cipher: SecretCipher | None, clock: Clock) -> None:
        self._store = store
        self._cipher = cipher
        self._clock = clock
        self._find = cached(self._read)

    async def secrets_of(self, account_id: str) -> tuple[str, ...]:
        """
        Every secret that is valid now: two during a rotation.

        Raises:
            LookupError: if the account has none.
            ConfigurationError: if one was encrypted with a key that is not configured.
        """
        now = self._clock.now()
        found = await self._find(account_id)
        secrets = tuple(secret for secret, until in found if until is None or until > now)
        if not secrets:
            raise LookupError(f"The account {account_id} has no signing secret.")
        return secrets

    async def check(self) -> None:
        """
        Make sure that every secret that is valid now can be decrypted.

        Raises:
            ConfigurationError: if one was encrypted with a key that is not configured.
        """
        for ciphertext in await self._store.accounts.all_secrets(self._clock.now()):
            self._decrypt(ciphertext)

    def _decrypt(self, ciphertext: bytes) -> str:
        if self._cipher is None:
            raise ConfigurationError(
                "The database holds signing secrets, and INVOICES_ENCRYPTION_KEY is not set."
            )
        return self._cipher.decrypt(ciphertext)

    async def _read(self, account_id: str) -> list[tuple[str, datetime | None]]:
        stored = await self._store.accounts.secrets_of(account_id, self._clock.now())
        return [(self._decrypt(ciphertext), until) for ciphertext, until in stored]
