from datetime import timedelta

import pytest

from service.accounts.administration import FIRST_NAME, AccountAdministration
from service.accounts.api_keys import hash_of, prefix_of
from service.accounts.encryption import SecretCipher, new_encryption_key
from service.errors import AccountDisabled, ConfigurationError, NameTaken, UnknownAccount
from service.storage.tables import account_keys, account_secrets, accounts
from tests.clock import START
from tests.rows import SECOND, rows_of

HOUR = timedelta(hours=1)


async def everything(store):
    """All rows of accounts, keys and secrets."""
    tables = (accounts, account_keys, account_secrets)
    return [await rows_of(store._database, table) for table in tables]


async def test_an_account_is_issued_a_key_and_a_secret(administration, store):
    """A new account has a key, stored as a hash, and a signing secret."""
    issued = await administration.add("acme")

    assert ("acme", True) == (issued.name, issued.account_id.startswith("acct_"))
    stored = await store.accounts.find_key(prefix_of(issued.key), START)
    assert (issued.account_id, hash_of(issued.key)) == (stored.account_id, stored.hash)
    assert issued.secret.startswith("whsec_")


async def test_neither_key_nor_secret_is_stored(administration, store):
    """The stored rows contain neither the key nor the secret."""
    issued = await administration.add("acme")
    rotated = (
        await administration.rotate_key("acme", HOUR),
        await administration.rotate_secret("acme", HOUR),
    )

    rows = repr(await everything(store))
    shown_once = [issued.key, issued.secret, rotated[0].key, rotated[1].secret]
    parts = [text.split("_", 2)[-1] for text in shown_once]
    assert [] == [part for part in parts if part in rows]


async def test_credentials_do_not_show_in_a_repr(administration):
    """The representation of credentials contains neither key nor secret."""
    issued = await administration.add("acme")

    assert issued.account_id in repr(issued)
    assert issued.key not in repr(issued)
    assert issued.secret not in repr(issued)


async def test_a_name_is_unique(administration, store):
    """A second account with the same name is refused, and nothing is written."""
    await administration.add("acme")
    before = await everything(store)

    with pytest.raises(NameTaken, match="'acme'"):
        await administration.add("acme")
    assert before == await everything(store)


async def test_the_first_account_is_created_once(administration):
    """The first account is created only if there is no account."""
    issued = await administration.add_first()

    assert (FIRST_NAME, True, True) == (issued.name, bool(issued.key), bool(issued.secret))
    assert None is await administration.add_first()


async def test_a_rotation_issues_only_what_is_new(administration):
    """Rotating the key issues no secret, and rotating the secret issues no key."""
    old = await administration.add("acme")
    key = await administration.rotate_key("acme", HOUR)
    secret = await administration.rotate_secret("acme", HOUR)

    assert (old.account_id, None) == (key.account_id, key.secret)
    assert (old.account_id, None) == (secret.account_id, secret.key)
    assert 4 == len({old.key, key.key, old.secret, secret.secret})


@pytest.mark.parametrize("overlap", [timedelta(0), SECOND, timedelta(days=3650)])
async def test_the_old_key_is_valid_for_the_overlap(administration, store, overlap):
    """After a rotation the old key is valid for exactly the overlap."""
    old = await administration.add("acme")
    await administration.rotate_key("acme", overlap)
    end = START + overlap

    assert None is await store.accounts.find_key(prefix_of(old.key), end)
    before = await store.accounts.find_key(prefix_of(old.key), end - timedelta(microseconds=1))
    assert end == before.expires_at


@pytest.mark.parametrize("act", ["rotate_key", "rotate_secret", "disable"])
async def test_an_unknown_name_is_refused(administration, store, act):
    """An unknown account raises an error and is not created."""
    with pytest.raises(UnknownAccount, match="'none'"):
        await getattr(administration, act)("none", *([] if act == "disable" else [HOUR]))
    assert [[], [], []] == await everything(store)


async def test_a_disabled_account_gets_no_key(administration, store):
    """A disabled account gets no new key; its secret can still be rotated."""
    await administration.add("acme")
    await administration.disable("acme")
    before = await everything(store)

    with pytest.raises(AccountDisabled, match="'acme'"):
        await administration.rotate_key("acme", HOUR)
    assert before == await everything(store)
    assert (await administration.rotate_secret("acme", HOUR)).secret


@pytest.mark.parametrize("act", ["add", "rotate_secret"])
async def test_another_encryption_key_encrypts_nothing(administration, store, clock, act):
    """With another encryption key no secret is issued, because the service could not decrypt it."""
    await administration.add("acme")
    before = await everything(store)
    other = AccountAdministration(store, SecretCipher([new_encryption_key()]), clock)

    with pytest.raises(ConfigurationError, match="INVOICES_ENCRYPTION_KEY"):
        await (other.add("other") if act == "add" else other.rotate_secret("acme", HOUR))
    assert before == await everything(store)


async def test_accounts_are_listed_without_credentials(administration):
    """The list contains the public prefix of a key, and neither key nor secret nor hash."""
    issued = await administration.add("acme")

    (row,) = await administration.list()
    assert {"id", "name", "created_at", "disabled_at", "email", "key_prefixes"} == set(row)
    assert [prefix_of(issued.key)] == row["key_prefixes"]
