import asyncio
from datetime import timedelta

import pytest

from service.storage.accounts import Account, Credentials, NewKey, StoredKey
from service.storage.tables import account_keys, account_secrets, accounts
from tests.clock import START
from tests.rows import SECOND, rows_of

HOUR = timedelta(hours=1)
RIVAL_COUNT = 8


def an_account(name="acme", *, id_=None, at=START):
    """An account that is not stored yet."""
    return Account(id_ or f"acct_{name}", name, at)


def credentials(name="acme"):
    """A key and a secret; *name* makes them different from others."""
    return Credentials(NewKey(f"p{name}", f"hash of {name}".encode()), f"locked {name}".encode())


def a_key(name):
    """A key without a secret."""
    return Credentials(key=credentials(name).key)


def a_secret(name):
    """A secret without a key."""
    return Credentials(secret_ciphertext=credentials(name).secret_ciphertext)


async def add(store, name="acme", *, at=START):
    """Add an account of that name with a key and a secret, and return its id."""
    account = an_account(name, at=at)
    assert await store.accounts.add(account, credentials(name))
    return account.id


async def everything(database):
    """Every row of the three tables of accounts."""
    return [await rows_of(database, table) for table in (accounts, account_keys, account_secrets)]


# Adding


async def test_an_added_account_is_found_by_its_name(store, elsewhere):
    """An account that one process adds is found by every process."""
    await add(store)

    assert an_account() == await elsewhere.accounts.find("acme")
    assert None is await elsewhere.accounts.find("Acme")


async def test_an_added_account_has_its_key_and_its_secret(store):
    """Account, key and secret are written together."""
    await add(store)

    assert StoredKey("acct_acme", b"hash of acme", None) == await store.accounts.find_key(
        "pacme", START
    )
    assert [(b"locked acme", None)] == await store.accounts.secrets_of("acct_acme", START)


async def test_a_name_is_taken_once(store, database):
    """A second account of the same name is refused, and nothing of it is stored."""
    await add(store)
    before = await everything(database)

    assert not await store.accounts.add(an_account(id_="acct_other"), credentials("other"))
    assert before == await everything(database)


async def test_of_concurrent_accounts_with_one_name_one_is_added(store, elsewhere, database):
    """Of processes that add one name at the same time, one succeeds and the others are refused."""
    rivals = [
        process.accounts.add(an_account(id_=f"acct_{number}"), credentials(str(number)))
        for number, process in enumerate((store, elsewhere) * (RIVAL_COUNT // 2))
    ]

    added = await asyncio.gather(*rivals)

    assert 1 == sum(added)
    (account,), (key,), (secret,) = await everything(database)
    assert f"acct_{added.index(True)}" == account["id"]
    assert account["id"] == key["account_id"] == secret["account_id"]


async def test_accounts_with_different_names_are_added_concurrently(store, elsewhere):
    """Processes that add different accounts at the same time all succeed."""
    names = [f"a{number}" for number in range(RIVAL_COUNT)]
    processes = (store, elsewhere) * (RIVAL_COUNT // 2)

    await asyncio.gather(*(add(one, name) for one, name in zip(processes, names, strict=True)))

    assert names == [row["name"] for row in await store.accounts.list_all(START)]


async def test_of_concurrent_first_starts_one_adds_the_first_account(store, elsewhere, database):
    """Of processes that start on an empty database at the same time, one adds the first account."""
    # The names differ, so that the uniqueness of names does not decide.
    rivals = [
        process.accounts.add_first(an_account(f"a{number}"), credentials(str(number)))
        for number, process in enumerate((store, elsewhere) * (RIVAL_COUNT // 2))
    ]

    added = await asyncio.gather(*rivals)

    assert 1 == sum(added)
    assert [1, 1, 1] == [len(rows) for rows in await everything(database)]


async def test_no_first_account_is_added_if_an_account_exists(store, elsewhere, database):
    """Any account, even a disabled one, prevents the first account."""
    account_id = await add(store)
    await store.accounts.disable(account_id, START)
    before = await everything(database)

    assert not await elsewhere.accounts.add_first(an_account("default"), credentials("default"))
    assert before == await everything(database)


async def test_a_first_start_beside_an_added_account_keeps_that_account(store, elsewhere):
    """An account that an operator adds during a first start is stored."""
    first = an_account("default")

    is_first, is_added = await asyncio.gather(
        store.accounts.add_first(first, credentials("default")),
        elsewhere.accounts.add(an_account(), credentials()),
    )

    names = {row["name"] for row in await store.accounts.list_all(START)}
    assert is_added
    assert {"acme"} | ({"default"} if is_first else set()) == names


# Keys


@pytest.mark.parametrize("prefix", ["", "pother", "PACME", "pacm%", "pacme "])
async def test_an_unknown_prefix_finds_no_key(store, prefix):
    """Only the whole prefix finds a key."""
    await add(store)

    assert None is await store.accounts.find_key(prefix, START)


async def test_a_key_of_a_disabled_account_is_not_found(store, elsewhere):
    """A disabled account cannot authenticate; other accounts can."""
    await add(store, "other")
    await store.accounts.disable(await add(store), START)

    assert None is await elsewhere.accounts.find_key("pacme", START)
    assert "acct_other" == (await elsewhere.accounts.find_key("pother", START)).account_id


async def test_old_and_new_key_are_valid_during_the_overlap(store):
    """Until a rotation ends both keys are valid; from that instant only the new key is."""
    account_id = await add(store)

    await store.accounts.rotate(account_id, a_key("new"), now=START, until=START + HOUR)

    for at in (START, START + HOUR - timedelta(microseconds=1)):
        assert START + HOUR == (await store.accounts.find_key("pacme", at)).expires_at
        assert None is (await store.accounts.find_key("pnew", at)).expires_at
    assert None is await store.accounts.find_key("pacme", START + HOUR)
    assert account_id == (await store.accounts.find_key("pnew", START + HOUR)).account_id


async def test_without_an_overlap_the_old_key_is_invalid_at_once(store):
    """A rotation without an overlap makes a leaked key invalid at once."""
    account_id = await add(store)

    await store.accounts.rotate(account_id, a_key("new"), now=START, until=START)

    assert None is await store.accounts.find_key("pacme", START)


@pytest.mark.parametrize(("expected", "until"), [(1, 1), (2, 3)])
async def test_a_second_rotation_never_prolongs_the_first(store, expected, until):
    """Of two rotations, the earlier end applies to the old key."""
    account_id = await add(store)
    await store.accounts.rotate(account_id, a_key("2"), now=START, until=START + 2 * HOUR)

    await store.accounts.rotate(account_id, a_key("3"), now=START, until=START + until * HOUR)

    assert START + expected * HOUR == (await store.accounts.find_key("pacme", START)).expires_at
    assert START + until * HOUR == (await store.accounts.find_key("p2", START)).expires_at


async def test_a_rotation_changes_one_account_and_one_kind(store, database):
    """The rotation of a key changes no key of another account and no secret."""
    await add(store, "other")
    account_id = await add(store)
    _, _, secrets = await everything(database)

    await store.accounts.rotate(account_id, a_key("new"), now=START, until=START)

    assert "acct_other" == (await store.accounts.find_key("pother", START)).account_id
    assert secrets == (await everything(database))[2]


# Secrets


async def test_secrets_are_listed_newest_first(store):
    """During a rotation there are two secrets, the new one first; afterwards only the new one."""
    account_id = await add(store)
    later = START + SECOND

    await store.accounts.rotate(account_id, a_secret("new"), now=later, until=later + HOUR)

    listed = [(b"locked new", None), (b"locked acme", later + HOUR)]
    assert listed == await store.accounts.secrets_of(account_id, later)
    assert listed[:1] == await store.accounts.secrets_of(account_id, later + HOUR)


async def test_secrets_of_the_same_instant_are_listed_newest_first(store):
    """Secrets that were added at the same instant keep their order."""
    account_id = await add(store)
    for number in range(4):
        await store.accounts.rotate(
            account_id, a_secret(str(number)), now=START, until=START + HOUR
        )

    listed = [ciphertext for ciphertext, _ in await store.accounts.secrets_of(account_id, START)]
    assert [b"locked 3", b"locked 2", b"locked 1", b"locked 0", b"locked acme"] == listed


async def test_an_unknown_account_has_no_secrets(store):
    """An account that does not exist has no secrets, and never those of another account."""
    await add(store)

    assert [] == await store.accounts.secrets_of("acct_other", START)
    assert [] == await store.accounts.secrets_of("acme", START)


async def test_a_disabled_account_keeps_its_secrets(store):
    """The pending callbacks of a disabled account are still signed."""
    account_id = await add(store)

    await store.accounts.disable(account_id, START)

    assert [(b"locked acme", None)] == await store.accounts.secrets_of(account_id, START + HOUR)


async def test_all_secrets_are_the_valid_secrets_of_all_accounts(store):
    """The valid secrets of every account are listed, and no expired secret."""
    account_id = await add(store)
    await add(store, "other")
    await store.accounts.rotate(account_id, a_secret("new"), now=START, until=START + HOUR)

    assert [b"locked acme", b"locked new", b"locked other"] == sorted(
        await store.accounts.all_secrets(START)
    )
    assert [b"locked new", b"locked other"] == sorted(
        await store.accounts.all_secrets(START + HOUR)
    )


async def test_an_empty_database_has_no_secrets(store):
    """An empty database has no secret to decrypt."""
    assert [] == await store.accounts.all_secrets(START)


# Listing and disabling


async def test_accounts_are_listed_with_their_valid_keys(store):
    """Accounts are listed by name with their valid keys, the newest first, without expired keys."""
    ids = [await add(store, name) for name in ("zeta", "acme")]
    for number in (1, 2):
        at = START + number * HOUR
        await store.accounts.rotate(ids[1], a_key(str(number)), now=at, until=at + HOUR)
    await store.accounts.disable(ids[0], START + HOUR)

    listed = await store.accounts.list_all(START + 2 * HOUR)

    assert ["acme", "zeta"] == [row["name"] for row in listed]
    by_name = {row.pop("name"): row for row in listed}
    expected = {"id": "acct_acme", "created_at": START, "disabled_at": None, "email": None}
    assert {**expected, "key_prefixes": ["p2", "p1"]} == by_name["acme"]
    assert START + HOUR == by_name["zeta"]["disabled_at"]


async def test_keys_of_one_instant_are_listed_by_their_prefixes(store):
    """The list of accounts is the same each time."""
    id_ = await add(store)
    for name in ("y", "z", "x"):
        await store.accounts.rotate(id_, a_key(name), now=START + HOUR, until=START + HOUR)

    (listed,) = await store.accounts.list_all(START + HOUR - SECOND)

    assert ["px", "py", "pz", "pacme"] == listed["key_prefixes"]


async def test_an_empty_database_lists_no_accounts(store):
    """An empty database has no accounts."""
    assert [] == await store.accounts.list_all(START)


async def test_disabling_again_changes_nothing(store, database):
    """The instant of the first call stays."""
    account_id = await add(store)
    await store.accounts.disable(account_id, START)
    before = await everything(database)

    await store.accounts.disable(account_id, START + HOUR)
    await store.accounts.disable("acct_other", START + HOUR)

    assert before == await everything(database)


async def test_a_rotation_that_fails_changes_nothing(store, database):
    """A new key with the prefix of another key is refused, and the old key stays valid."""
    account_id = await add(store)
    await add(store, "other")
    before = await everything(database)

    with pytest.raises(Exception, match=r"prefix|account_keys"):
        await store.accounts.rotate(account_id, a_key("other"), now=START, until=START)

    assert before == await everything(database)
