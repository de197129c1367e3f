"""Keys that permit nothing but to listen."""

from __future__ import annotations

from datetime import timedelta

import pytest

from service.accounts.api_keys import listen_prefix_of, prefix_of
from service.accounts.authenticator import WRONG_KEY, Authenticator
from service.accounts.cache import CACHE_SECONDS
from service.accounts.listen_keys import LIFETIME, ListenKeys
from service.errors import Unauthorized
from service.storage.tables import listen_keys
from tests.clock import advance_loop
from tests.rows import SECOND


@pytest.fixture
def authenticator(store, clock):
    """What accepts the keys of accounts."""
    return Authenticator(store, clock, default_account_id=None)


@pytest.fixture
def keys(store, clock, authenticator):
    """What issues and accepts keys to listen."""
    return ListenKeys(store, clock, authenticator.authenticate)


@pytest.fixture
async def acme(administration):
    """An account."""
    return await administration.add("acme")


async def test_a_key_to_listen_is_that_of_its_account(keys, acme, clock):
    """A new key stands for its account for 24 hours."""
    key, expires_at = await keys.issue(acme.account_id)

    assert clock.now() + timedelta(hours=24) == expires_at
    assert acme.account_id == await keys.authenticate(f"Bearer {key}")


async def test_the_key_of_the_account_permits_to_listen(keys, acme):
    """The key of an account permits everything, listening included."""
    assert acme.account_id == await keys.authenticate(f"Bearer {acme.key}")


async def test_a_key_to_listen_permits_nothing_else(keys, authenticator, acme):
    """Where the key of an account is needed, a key to listen is refused like a wrong key."""
    key, _ = await keys.issue(acme.account_id)

    with pytest.raises(Unauthorized, match=WRONG_KEY):
        await authenticator.authenticate(f"Bearer {key}")
    assert None is prefix_of(key)


async def test_a_key_to_listen_expires(keys, acme, clock):
    """From its last instant on a key is refused, also if it was cached before."""
    key, _ = await keys.issue(acme.account_id)
    clock.advance(LIFETIME - SECOND)
    assert acme.account_id == await keys.authenticate(f"Bearer {key}")
    clock.advance(SECOND)

    with pytest.raises(Unauthorized, match=WRONG_KEY):
        await keys.authenticate(f"Bearer {key}")


async def test_the_keys_of_a_disabled_account_are_refused(keys, acme, administration):
    """Within five seconds a disabled account cannot listen."""
    key, _ = await keys.issue(acme.account_id)
    await administration.disable("acme")
    await advance_loop(CACHE_SECONDS)

    with pytest.raises(Unauthorized):
        await keys.authenticate(f"Bearer {key}")


@pytest.mark.parametrize("header", [None, "Bearer", "Basic {}", "Bearer {}x", "Bearer inl_"])
async def test_what_is_no_key_is_refused(keys, acme, header):
    """Only the whole key is accepted, as a bearer token."""
    key, _ = await keys.issue(acme.account_id)

    with pytest.raises(Unauthorized):
        await keys.authenticate(header and header.format(key))


async def test_another_key_with_the_same_prefix_is_refused(keys, acme):
    """The prefix of a key is public, and not enough."""
    key, _ = await keys.issue(acme.account_id)
    another = key[:-2] + ("BA" if key.endswith("AB") else "AB")

    with pytest.raises(Unauthorized, match=WRONG_KEY):
        await keys.authenticate(f"Bearer {another}")


async def test_only_the_hash_of_a_key_is_stored(keys, acme, store):
    """The stored row does not contain the key."""
    key, _ = await keys.issue(acme.account_id)
    (row,) = store.store._database.tables.rows_of(listen_keys)

    assert listen_prefix_of(key) == row["prefix"]
    assert key.rpartition("_")[2] not in str(row)
    assert 32 == len(row["hash"])
