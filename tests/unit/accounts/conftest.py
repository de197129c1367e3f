"""Accounts in memory, and a store that counts how often their keys and secrets are read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from service.accounts.administration import AccountAdministration
from service.accounts.encryption import SecretCipher, new_encryption_key
from tests.clock import ManualClock
from tests.memory import Memory, memory_store


@dataclass
class CountingStore:
    """Forwards all calls to *store* and its accounts, and counts reads of keys and secrets."""

    store: memory_store
    read_count: int = 0

    @property
    def accounts(self):
        """What is asked for accounts."""
        return self

    def __getattr__(self, name):
        return getattr(self.store if hasattr(self.store, name) else self.store.accounts, name)

    async def find_key(self, prefix, now):
        """As it is, counted."""
        self.read_count += 1
        return await self.store.accounts.find_key(prefix, now)

    async def secrets_of(self, account_id, now):
        """As it is, counted."""
        self.read_count += 1
        return await self.store.accounts.secrets_of(account_id, now)


@pytest.fixture
def clock():
    """A clock that a test moves."""
    return ManualClock()


@pytest.fixture
def store():
    """A store without accounts."""
    return CountingStore(memory_store(Memory()))


@pytest.fixture
def cipher():
    """The cipher for the secrets of these tests."""
    return SecretCipher([new_encryption_key()])


@pytest.fixture
def administration(store, cipher, clock):
    """The administration of accounts."""
    return AccountAdministration(store, cipher, clock)
