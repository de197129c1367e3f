from datetime import timedelta

import pytest

from service.accounts.administration import FIRST_NAME, Register
from service.accounts.api_keys import hash_of, prefix_of
from service.accounts.encryption import Vault, new_encryption_key
from service.errors import AccountDisabled, ConfigurationError, NameTaken, UnknownAccount
from service.storage.tables import account_keys, account_secrets, accounts
from tests.clock import START
from tests.rows import SECOND, rows_of

HOUR = timedelta(hours=1)


async def everything(store):
    """Every row about accounts."""
    tables = (accounts, account_keys, account_secrets)
    return [await rows_of(store._database, table) for table in tables]


async def test_an_account_is_shown_with_key_and_secret(register, store):
    """What is shown once is what lets in and signs."""
    shown = await register.add("acme")

    assert ("acme", True) == (shown.name, shown.account_id.startswith("acct_"))
    stored = await store.find_key(prefix_of(shown.key), START)
    assert (shown.account_id, hash_of(shown.key)) == (stored.account_id, stored.hash)
    assert shown.secret.startswith("whsec_")


async def test_neither_key_nor_secret_is_stored(register, store):
    """Who reads the database can neither come in nor sign."""
    shown = await register.add("acme")
    rotated = await register.rotate_key("acme", HOUR), await register.rotate_secret("acme", HOUR)

    rows = repr(await everything(store))
    shown_once = [shown.key, shown.secret, rotated[0].key, rotated[1].secret]
    parts = [text.split("_", 2)[-1] for text in shown_once]
    assert [] == [part for part in parts if part in rows]


async def test_what_is_shown_is_not_shown_by_accident(register):
    """A log line or a traceback with it in holds neither key nor secret."""
    shown = await register.add("acme")

    assert shown.account_id in repr(shown)
    assert shown.key not in repr(shown)
    assert shown.secret not in repr(shown)


async def test_a_name_is_taken_once(register, store):
    """A second one of the name is told so, and nothing is written."""
    await register.add("acme")
    before = await everything(store)

    with pytest.raises(NameTaken, match="'acme'"):
        await register.add("acme")
    assert before == await everything(store)


async def test_the_first_account_is_made_once(register):
    """The first start makes one, every other start none."""
    shown = await register.add_first()

    assert (FIRST_NAME, True, True) == (shown.name, bool(shown.key), bool(shown.secret))
    assert None is await register.add_first()


async def test_a_rotation_shows_what_is_new_alone(register):
    """A new key comes without the secret, and a new secret without the key."""
    old = await register.add("acme")
    key = await register.rotate_key("acme", HOUR)
    secret = await register.rotate_secret("acme", HOUR)

    assert (old.account_id, None) == (key.account_id, key.secret)
    assert (old.account_id, None) == (secret.account_id, secret.key)
    assert 4 == len({old.key, key.key, old.secret, secret.secret})


@pytest.mark.parametrize("overlap", [timedelta(0), SECOND, timedelta(days=3650)])
async def test_the_old_key_lives_as_long_as_the_overlap(register, store, overlap):
    """The operator says how long the old one goes on working, and that is how long."""
    old = await register.add("acme")
    await register.rotate_key("acme", overlap)
    end = START + overlap

    assert None is await store.find_key(prefix_of(old.key), end)
    before = await store.find_key(prefix_of(old.key), end - timedelta(microseconds=1))
    assert end == before.expires_at


@pytest.mark.parametrize("act", ["rotate_key", "rotate_secret", "disable"])
async def test_an_unknown_name_is_told(register, store, act):
    """What cannot be found is not made."""
    with pytest.raises(UnknownAccount, match="'none'"):
        await getattr(register, act)("none", *([] if act == "disable" else [HOUR]))
    assert [[], [], []] == await everything(store)


async def test_a_disabled_account_gets_no_key(register, store):
    """A key that lets nobody in is not handed out; its secret can still be rotated."""
    await register.add("acme")
    await register.disable("acme")
    before = await everything(store)

    with pytest.raises(AccountDisabled, match="'acme'"):
        await register.rotate_key("acme", HOUR)
    assert before == await everything(store)
    assert (await register.rotate_secret("acme", HOUR)).secret


@pytest.mark.parametrize("act", ["add", "rotate_secret"])
async def test_another_encryption_key_encrypts_nothing(register, store, clock, act):
    """A secret that the service could not read is refused where it is made, and not stored."""
    await register.add("acme")
    before = await everything(store)
    other = Register(store, Vault([new_encryption_key()]), clock)

    with pytest.raises(ConfigurationError, match="INVOICES_ENCRYPTION_KEY"):
        await (other.add("other") if act == "add" else other.rotate_secret("acme", HOUR))
    assert before == await everything(store)


async def test_accounts_are_listed_without_what_was_shown_once(register):
    """The list has the public prefix of a key, and neither key nor secret nor hash."""
    shown = await register.add("acme")

    (row,) = await register.list()
    assert {"id", "name", "created_at", "disabled_at", "key_prefixes"} == set(row)
    assert [prefix_of(shown.key)] == row["key_prefixes"]
