from datetime import timedelta

import pytest

from service.accounts.administration import AccountAdministration
from service.accounts.cache import CACHE_SECONDS
from service.accounts.encryption import SecretCipher, new_encryption_key
from service.accounts.signing_secrets import SigningSecrets
from service.errors import ConfigurationError
from tests.clock import advance_loop
from tests.rows import SECOND

HOUR = timedelta(hours=1)


@pytest.fixture
def signing_secrets(store, cipher, clock):
    """The signing secrets of production."""
    return SigningSecrets(store, cipher, clock)


async def test_an_account_signs_with_its_secret(administration, signing_secrets):
    """An account signs with its own secret."""
    one, two = await administration.add("one"), await administration.add("two")

    assert (one.secret,) == await signing_secrets.secrets_of(one.account_id)
    assert (two.secret,) == await signing_secrets.secrets_of(two.account_id)


async def test_during_a_rotation_both_sign_and_the_new_one_first(
    administration, signing_secrets, clock
):
    """During the overlap both secrets sign, the new one first."""
    old = await administration.add("acme")
    clock.advance(SECOND)
    new = await administration.rotate_secret("acme", HOUR)

    assert (new.secret, old.secret) == await signing_secrets.secrets_of(old.account_id)
    clock.advance(HOUR)
    assert (new.secret,) == await signing_secrets.secrets_of(old.account_id)


async def test_an_overlap_ends_at_its_instant_although_it_is_cached(
    administration, signing_secrets, clock
):
    """A cached secret does not sign after its expiry."""
    old = await administration.add("acme")
    new = await administration.rotate_secret("acme", HOUR)
    clock.advance(HOUR - SECOND)
    assert {new.secret, old.secret} == set(await signing_secrets.secrets_of(old.account_id))

    clock.advance(SECOND)
    assert (new.secret,) == await signing_secrets.secrets_of(old.account_id)


async def test_a_rotation_is_noticed_within_five_seconds(administration, signing_secrets, clock):
    """After a rotation without an overlap the old secret signs for five seconds at most."""
    old = await administration.add("acme")
    await signing_secrets.secrets_of(old.account_id)
    new = await administration.rotate_secret("acme", timedelta(0))

    assert (old.secret,) == await signing_secrets.secrets_of(old.account_id)
    await advance_loop(CACHE_SECONDS)
    assert (new.secret,) == await signing_secrets.secrets_of(old.account_id)


async def test_secrets_are_read_once_in_five_seconds(administration, signing_secrets, store):
    """Secrets are cached for five seconds."""
    issued = await administration.add("acme")
    for _ in range(5):
        await signing_secrets.secrets_of(issued.account_id)

    assert 1 == store.read_count


async def test_a_disabled_account_still_signs(administration, signing_secrets):
    """Deliveries of a disabled account are still signed with its secret."""
    issued = await administration.add("acme")
    await administration.disable("acme")

    assert (issued.secret,) == await signing_secrets.secrets_of(issued.account_id)


async def test_an_unknown_account_signs_nothing(administration, signing_secrets):
    """An unknown account raises an error, and nothing is signed."""
    await administration.add("acme")

    with pytest.raises(LookupError, match="acct_none"):
        await signing_secrets.secrets_of("acct_none")


async def test_another_encryption_key_raises(administration, store, clock):
    """With another encryption key reading a secret raises an error without the secret."""
    issued = await administration.add("acme")
    signing_secrets = SigningSecrets(store, SecretCipher([new_encryption_key()]), clock)

    with pytest.raises(ConfigurationError, match="INVOICES_ENCRYPTION_KEY") as refusal:
        await signing_secrets.secrets_of(issued.account_id)
    assert issued.secret not in str(refusal.value)


async def test_a_missing_encryption_key_raises(administration, store, clock):
    """Without an encryption key reading a secret raises an error that names the variable."""
    issued = await administration.add("acme")

    with pytest.raises(ConfigurationError, match="INVOICES_ENCRYPTION_KEY is not set"):
        await SigningSecrets(store, None, clock).secrets_of(issued.account_id)


# The check at the start


async def test_an_empty_database_needs_no_key(store, clock):
    """Without secrets in the database, the check passes with any key and without one."""
    await SigningSecrets(store, None, clock).check()
    await SigningSecrets(store, SecretCipher([new_encryption_key()]), clock).check()


async def test_the_right_key_passes(administration, store, cipher, clock):
    """The check passes with the key that encrypted the secrets."""
    await administration.add("acme")

    await SigningSecrets(store, cipher, clock).check()


async def test_every_secret_is_checked(store, clock):
    """A key that was removed too early is reported at the start, not at the first delivery."""
    old, new = new_encryption_key(), new_encryption_key()
    await AccountAdministration(store, SecretCipher([old]), clock).add("old")
    clock.advance(SECOND)
    await AccountAdministration(store, SecretCipher([new, old]), clock).add("new")

    with pytest.raises(ConfigurationError, match="must name that key too"):
        await SigningSecrets(store, SecretCipher([new]), clock).check()


async def test_expired_secrets_are_not_checked(store, clock):
    """After every secret was rotated and has expired, the old key can be removed."""
    old, new = new_encryption_key(), new_encryption_key()
    await AccountAdministration(store, SecretCipher([old]), clock).add("acme")
    await AccountAdministration(store, SecretCipher([new, old]), clock).rotate_secret("acme", HOUR)

    with pytest.raises(ConfigurationError):
        await SigningSecrets(store, SecretCipher([new]), clock).check()
    clock.advance(HOUR)
    await SigningSecrets(store, SecretCipher([new]), clock).check()
