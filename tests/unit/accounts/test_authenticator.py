import asyncio
import hmac
from base64 import b32encode
from contextlib import suppress
from datetime import timedelta

import pytest

from service.accounts.authenticator import NO_KEY, WRONG_KEY, Authenticator
from service.accounts.cache import CACHE_SECONDS, ENTRIES_MAX
from service.errors import StorageUnavailable, Unauthorized
from tests.clock import advance_loop
from tests.rows import SECOND

HOUR = timedelta(hours=1)
UNKNOWN = "inv_aaaaaaaa_" + "A" * 43


@pytest.fixture
def authenticator(store, clock):
    """The authenticator of production."""
    return Authenticator(store, clock, default_account_id=None)


@pytest.fixture
def dev_authenticator(store, clock):
    """The authenticator of development mode."""
    return Authenticator(store, clock, default_account_id="dev")


def bearer(key):
    """The Authorization header with *key*."""
    return f"Bearer {key}"


def another(key):
    """Another key with the same prefix."""
    return key[:-2] + ("BA" if key.endswith("AB") else "AB")


def prefix(number):
    """A different prefix for each number."""
    return b32encode(number.to_bytes(5)).decode().lower()


async def refusal(authenticator, authorization):
    """The message of the refusal of *authorization*."""
    with pytest.raises(Unauthorized) as raised:
        await authenticator.authenticate(authorization)
    return str(raised.value)


# Accepted


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer  {} "])
async def test_a_valid_key_is_accepted(administration, authenticator, form):
    """A valid key is accepted; the name of the scheme is case-insensitive, as in RFC 9110."""
    issued = await administration.add("acme")

    assert issued.account_id == await authenticator.authenticate(form.format(issued.key))


async def test_each_key_belongs_to_its_account(administration, authenticator):
    """Each key authenticates its own account."""
    one, two = await administration.add("one"), await administration.add("two")

    assert one.account_id == await authenticator.authenticate(bearer(one.key))
    assert two.account_id == await authenticator.authenticate(bearer(two.key))


async def test_a_key_is_read_once_in_five_seconds(administration, authenticator, store):
    """A key is cached for five seconds."""
    issued = await administration.add("acme")
    for _ in range(5):
        await authenticator.authenticate(bearer(issued.key))
    await advance_loop(CACHE_SECONDS - 1)
    await authenticator.authenticate(bearer(issued.key))
    assert 1 == store.read_count

    await advance_loop(1)
    await authenticator.authenticate(bearer(issued.key))
    assert 2 == store.read_count


async def test_an_unknown_key_is_read_once_in_five_seconds(authenticator, store):
    """An unknown key that is sent repeatedly is read once in five seconds."""
    for _ in range(5):
        await refusal(authenticator, bearer(UNKNOWN))

    assert 1 == store.read_count


async def test_concurrent_requests_share_one_read(administration, authenticator, store):
    """Concurrent requests with one key share one read, even if one of them is cancelled."""
    issued = await administration.add("acme")
    asking = [asyncio.create_task(authenticator.authenticate(bearer(issued.key))) for _ in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()

    given = await asyncio.gather(*asking, return_exceptions=True)

    assert [issued.account_id] * 4 == given[1:]
    assert asking[0].cancelled()
    assert 1 == store.read_count


async def test_the_cache_is_bounded(authenticator, store):
    """The cache holds the most recently used keys, so many wrong keys evict none in use."""
    await advance_loop(0)
    keys = [bearer(UNKNOWN.replace("aaaaaaaa", prefix(number))) for number in range(ENTRIES_MAX)]
    for key in keys:
        await refusal(authenticator, key)
    await refusal(authenticator, keys[0])
    await refusal(authenticator, bearer(UNKNOWN.replace("aaaaaaaa", "zzzzzzzz")))
    assert ENTRIES_MAX + 1 == store.read_count

    await refusal(authenticator, keys[0])
    assert ENTRIES_MAX + 1 == store.read_count
    await refusal(authenticator, keys[1])
    assert ENTRIES_MAX + 2 == store.read_count


# Refused


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        " ",
        "Bearer",
        UNKNOWN,
        f"Basic {UNKNOWN}",
        f"Token {UNKNOWN}",
        f"Bearer,{UNKNOWN}",
        f"Bearer\t{UNKNOWN}",
        "\udcff\udcfe",
    ],
)
async def test_the_refusal_without_a_key_has_the_correct_form(
    administration, authenticator, store, authorization
):
    """Without a key the message has the correct header, and the database is not read."""
    await administration.add("acme")
    expected = WRONG_KEY if authorization == "Bearer" else NO_KEY

    assert expected == await refusal(authenticator, authorization)
    assert 0 == store.read_count


@pytest.mark.parametrize(
    "key", ["", "x", "whsec_AAAA", "inv_", "inv_aaaaaaaa_", UNKNOWN + "A", "\udcff", "A" * 8000]
)
async def test_an_invalid_form_of_a_key_is_not_read(authenticator, store, key):
    """A text without the form of a key is refused without a read."""
    assert WRONG_KEY == await refusal(authenticator, bearer(key))
    assert 0 == store.read_count


async def test_every_wrong_key_has_the_same_message(administration, authenticator, clock):
    """Unknown, wrong and expired keys and keys of disabled accounts have the same message."""
    disabled, expired = await administration.add("disabled"), await administration.add("expired")
    known = await administration.add("known")
    await administration.disable("disabled")
    await administration.rotate_key("expired", timedelta(0))

    keys = (UNKNOWN, another(known.key), disabled.key, expired.key, "garbage")
    assert {WRONG_KEY} == {await refusal(authenticator, bearer(key)) for key in keys}


async def test_every_wrong_key_is_compared_once(administration, authenticator, monkeypatch):
    """A key with an unknown prefix is compared too, as one with a known prefix."""
    known = await administration.add("known")
    compare, compared = hmac.compare_digest, []

    def count(one, other):
        compared.append(len(other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", count)
    for key in (UNKNOWN, another(known.key), "garbage"):
        await refusal(authenticator, bearer(key))

    assert [32, 32, 32] == compared


async def test_the_prefix_alone_is_not_enough(administration, authenticator):
    """A wrong key with a known prefix is refused, even if the right key is cached."""
    issued = await administration.add("acme")

    assert WRONG_KEY == await refusal(authenticator, bearer(another(issued.key)))
    assert issued.account_id == await authenticator.authenticate(bearer(issued.key))
    assert WRONG_KEY == await refusal(authenticator, bearer(another(issued.key)))


async def test_a_wrong_key_does_not_block_the_right_one(administration, authenticator):
    """Wrong keys with the prefix of a valid key do not block that key."""
    issued = await administration.add("acme")
    for _ in range(100):
        await refusal(authenticator, bearer(another(issued.key)))

    assert issued.account_id == await authenticator.authenticate(bearer(issued.key))


# Expiry and caching


async def test_a_key_expires_at_its_instant_although_it_is_cached(
    administration, authenticator, clock
):
    """A cached key is refused from the instant at which it expires."""
    issued = await administration.add("acme")
    await administration.rotate_key("acme", HOUR)
    clock.advance(HOUR - SECOND)
    assert issued.account_id == await authenticator.authenticate(bearer(issued.key))

    clock.advance(SECOND - timedelta(microseconds=1))
    assert issued.account_id == await authenticator.authenticate(bearer(issued.key))
    clock.advance(timedelta(microseconds=1))
    assert WRONG_KEY == await refusal(authenticator, bearer(issued.key))


async def test_old_and_new_key_work_during_a_rotation(administration, authenticator):
    """During the overlap both the old and the new key are accepted."""
    old = await administration.add("acme")
    new = await administration.rotate_key("acme", HOUR)

    assert {old.account_id} == {
        await authenticator.authenticate(bearer(one.key)) for one in (old, new)
    }


@pytest.mark.parametrize("end", ["disable", "rotate"])
async def test_the_end_of_a_key_is_noticed_within_five_seconds(administration, authenticator, end):
    """A disabled account or a rotated key is refused after five seconds, even in constant use."""
    issued = await administration.add("acme")
    await authenticator.authenticate(bearer(issued.key))
    if end == "disable":
        await administration.disable("acme")
    else:
        await administration.rotate_key("acme", timedelta(0))

    for _ in range(CACHE_SECONDS - 1):
        await advance_loop(1)
        with suppress(Unauthorized):
            await authenticator.authenticate(bearer(issued.key))
    await advance_loop(1)
    assert WRONG_KEY == await refusal(authenticator, bearer(issued.key))


async def test_the_cache_does_not_depend_on_the_wall_clock(administration, authenticator, clock):
    """The cache lasts five seconds of elapsed time, even if the wall clock is set back."""
    issued = await administration.add("acme")
    await authenticator.authenticate(bearer(issued.key))
    await administration.disable("acme")

    clock.advance(-HOUR)
    await advance_loop(CACHE_SECONDS)
    assert WRONG_KEY == await refusal(authenticator, bearer(issued.key))


async def test_an_unavailable_database_is_not_a_wrong_key(administration, authenticator, store):
    """If a key cannot be read, the error is not a wrong key, and the key works again later."""
    issued = await administration.add("acme")
    store._database.is_away = True

    with pytest.raises(StorageUnavailable):
        await authenticator.authenticate(bearer(issued.key))
    store._database.is_away = False
    assert issued.account_id == await authenticator.authenticate(bearer(issued.key))


async def test_an_outage_does_not_prolong_the_cache(administration, authenticator, store):
    """While the database is unavailable, a cached key is accepted for five seconds at most."""
    issued = await administration.add("acme")
    await authenticator.authenticate(bearer(issued.key))
    store._database.is_away = True

    assert issued.account_id == await authenticator.authenticate(bearer(issued.key))
    await advance_loop(CACHE_SECONDS)
    with pytest.raises(StorageUnavailable):
        await authenticator.authenticate(bearer(issued.key))


# Development mode


async def test_in_development_no_key_is_needed(dev_authenticator, store):
    """A request without the header belongs to the default account, without a read."""
    assert "dev" == await dev_authenticator.authenticate(None)
    assert 0 == store.read_count


async def test_in_development_a_valid_key_is_used(administration, dev_authenticator):
    """A valid key selects its account; any other header selects the development account."""
    issued = await administration.add("acme")

    assert issued.account_id == await dev_authenticator.authenticate(bearer(issued.key))
    assert "dev" == await dev_authenticator.authenticate(bearer(UNKNOWN))
    assert "dev" == await dev_authenticator.authenticate("")
