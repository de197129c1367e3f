from datetime import timedelta

import pytest

from service.accounts.administration import Register
from service.accounts.encryption import Vault, new_encryption_key
from service.accounts.memory import FRESH
from service.accounts.signing_secrets import Secretary
from service.errors import ConfigurationError
from tests.rows import SECOND

HOUR = timedelta(hours=1)


@pytest.fixture
def secretary(store, vault, clock):
    """What is tested."""
    return Secretary(store, vault, clock)


async def test_an_account_signs_with_its_secret(register, secretary):
    """The secret that was shown is the one that signs, and not that of another."""
    one, two = await register.add("one"), await register.add("two")

    assert (one.secret,) == await secretary.secrets_of(one.account_id)
    assert (two.secret,) == await secretary.secrets_of(two.account_id)


async def test_during_a_rotation_both_sign_and_the_new_one_first(register, secretary, clock):
    """Receivers have the overlap to change from one secret to the other."""
    old = await register.add("acme")
    clock.advance(SECOND)
    new = await register.rotate_secret("acme", HOUR)

    assert (new.secret, old.secret) == await secretary.secrets_of(old.account_id)
    clock.advance(HOUR)
    assert (new.secret,) == await secretary.secrets_of(old.account_id)


async def test_an_overlap_ends_to_the_instant_although_it_is_remembered(register, secretary, clock):
    """A secret that expires while it is fresh in memory signs nothing from then on."""
    old = await register.add("acme")
    new = await register.rotate_secret("acme", HOUR)
    clock.advance(HOUR - SECOND)
    assert {new.secret, old.secret} == set(await secretary.secrets_of(old.account_id))

    clock.advance(SECOND)
    assert (new.secret,) == await secretary.secrets_of(old.account_id)


async def test_a_rotation_is_noticed_once_memory_is_not_fresh(register, secretary, clock):
    """Without an overlap the old secret signs for five seconds more at most."""
    old = await register.add("acme")
    await secretary.secrets_of(old.account_id)
    new = await register.rotate_secret("acme", timedelta(0))

    assert (old.secret,) == await secretary.secrets_of(old.account_id)
    clock.advance(FRESH)
    assert (new.secret,) == await secretary.secrets_of(old.account_id)


async def test_secrets_are_read_once_while_they_are_fresh(register, secretary, store):
    """Not every attempt asks the database and decrypts."""
    shown = await register.add("acme")
    for _ in range(5):
        await secretary.secrets_of(shown.account_id)

    assert 1 == store.read_count


async def test_a_disabled_account_still_signs(register, secretary):
    """What it sent in before is delivered, signed as ever."""
    shown = await register.add("acme")
    await register.disable("acme")

    assert (shown.secret,) == await secretary.secrets_of(shown.account_id)


async def test_an_account_that_is_missing_signs_nothing(register, secretary):
    """Nobody is signed for with somebody else's secret, or with none."""
    await register.add("acme")

    with pytest.raises(LookupError, match="acct_none"):
        await secretary.secrets_of("acct_none")


async def test_another_encryption_key_reads_nothing(register, store, clock):
    """What was encrypted with a key that we have not got stops us with words, without a secret."""
    shown = await register.add("acme")
    secretary = Secretary(store, Vault([new_encryption_key()]), clock)

    with pytest.raises(ConfigurationError, match="INVOICES_ENCRYPTION_KEY") as refusal:
        await secretary.secrets_of(shown.account_id)
    assert shown.secret not in str(refusal.value)


async def test_no_encryption_key_reads_nothing(register, store, clock):
    """Secrets in the database need a key, and it is said which variable holds it."""
    shown = await register.add("acme")

    with pytest.raises(ConfigurationError, match="INVOICES_ENCRYPTION_KEY is not set"):
        await Secretary(store, None, clock).secrets_of(shown.account_id)


# The check of the start


async def test_an_empty_database_needs_no_key(store, clock):
    """Where there is nothing to read, any key will do, and none too."""
    await Secretary(store, None, clock).check()
    await Secretary(store, Vault([new_encryption_key()]), clock).check()


async def test_the_right_keys_pass(register, store, vault, clock):
    """A start with the key that encrypted is a good one."""
    await register.add("acme")

    await Secretary(store, vault, clock).check()


async def test_every_secret_is_checked_and_not_the_newest_alone(store, clock):
    """A key that is dropped too early is told at the start, and not when a callback is due."""
    old, new = new_encryption_key(), new_encryption_key()
    await Register(store, Vault([old]), clock).add("old")
    clock.advance(SECOND)
    await Register(store, Vault([new, old]), clock).add("new")

    with pytest.raises(ConfigurationError, match="must name that key too"):
        await Secretary(store, Vault([new]), clock).check()


async def test_what_has_expired_need_not_be_read(store, clock):
    """Once every secret was rotated and the overlap is over, the old key can go."""
    old, new = new_encryption_key(), new_encryption_key()
    await Register(store, Vault([old]), clock).add("acme")
    await Register(store, Vault([new, old]), clock).rotate_secret("acme", HOUR)

    with pytest.raises(ConfigurationError):
        await Secretary(store, Vault([new]), clock).check()
    clock.advance(HOUR)
    await Secretary(store, Vault([new]), clock).check()
