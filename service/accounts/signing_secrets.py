"""Where the signing secrets of an account come from when an attempt is signed."""

from __future__ import annotations

from datetime import datetime

from service.accounts.encryption import Vault
from service.accounts.memory import Memory
from service.clock import Clock
from service.errors import ConfigurationError
from service.storage.store import Store

Secrets = tuple[tuple[str, datetime | None], ...]


class Secretary:
    """Knows the secrets with which the events of an account are signed now, newest first."""

    def __init__(self, store: Store, vault: Vault | None, clock: Clock) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._secrets: Memory[Secrets] = Memory(self._read, clock)

    async def secrets_of(self, account_id: str) -> tuple[str, ...]:
        """
        Every secret that is valid now: two during a rotation.

        Raises:
            LookupError: if the account has none.
            ConfigurationError: if one was encrypted with a key that we do not have.
        """
        now = self._clock.now()
        known = await self._secrets.get(account_id)
        secrets = tuple(secret for secret, until in known if until is None or until > now)
        if not secrets:
            raise LookupError(f"The account {account_id} has no signing secret.")
        return secrets

    async def check(self) -> None:
        """
        Make sure that every secret that events may be signed with can be read.

        Raises:
            ConfigurationError: if it was encrypted with a key that we do not have.
        """
        for ciphertext in await self._store.all_secrets(self._clock.now()):
            self._unlock(ciphertext)

    def _unlock(self, ciphertext: bytes) -> str:
        if self._vault is None:
            raise ConfigurationError(
                "The database holds signing secrets, and INVOICES_ENCRYPTION_KEY is not set."
            )
        return self._vault.unlock(ciphertext)

    async def _read(self, account_id: str) -> Secrets:
        stored = await self._store.secrets_of(account_id, self._clock.now())
        return tuple((self._unlock(one), until) for one, until in stored)
