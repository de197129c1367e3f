import hmac
from datetime import timedelta

import pytest

from service.accounts.authenticator import NO_KEY, WRONG_KEY, Gate
from service.accounts.memory import FRESH
from service.errors import StorageUnavailable, Unauthorized
from tests.rows import SECOND

HOUR = timedelta(hours=1)
NOBODYS = "inv_aaaaaaaa_" + "A" * 43


@pytest.fixture
def gate(store, clock):
    """The gate as it is in production."""
    return Gate(store, clock, default_account_id=None)


@pytest.fixture
def dev_gate(store, clock):
    """The gate of development mode."""
    return Gate(store, clock, default_account_id="dev")


def bearer(key):
    """The header with that key."""
    return f"Bearer {key}"


def another(key):
    """Another key with the same prefix."""
    return key[:-2] + ("BA" if key.endswith("AB") else "AB")


async def refusal(gate, authorization):
    """What is said to that header."""
    with pytest.raises(Unauthorized) as raised:
        await gate.account_of(authorization)
    return str(raised.value)


# Let in


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer  {} "])
async def test_who_shows_a_key_is_let_in(register, gate, form):
    """The name of the scheme is written as one likes, as RFC 9110 has it."""
    shown = await register.add("acme")

    assert shown.account_id == await gate.account_of(form.format(shown.key))


async def test_each_key_belongs_to_its_account(register, gate):
    """Nobody is taken for somebody else."""
    one, two = await register.add("one"), await register.add("two")

    assert one.account_id == await gate.account_of(bearer(one.key))
    assert two.account_id == await gate.account_of(bearer(two.key))


async def test_a_known_key_is_read_once_while_it_is_fresh(register, gate, store, clock):
    """Not every request asks the database."""
    shown = await register.add("acme")
    for _ in range(5):
        await gate.account_of(bearer(shown.key))
    assert 1 == store.read_count

    clock.advance(FRESH)
    await gate.account_of(bearer(shown.key))
    assert 2 == store.read_count


# Turned away


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        " ",
        "Bearer",
        NOBODYS,
        f"Basic {NOBODYS}",
        f"Token {NOBODYS}",
        f"Bearer,{NOBODYS}",
        f"Bearer\t{NOBODYS}",
        "\udcff\udcfe",
    ],
)
async def test_who_shows_no_key_is_told_how(register, gate, store, authorization):
    """Without a key in the right place it is said what to send, and nothing is read."""
    await register.add("acme")
    expected = WRONG_KEY if authorization == "Bearer" else NO_KEY

    assert expected == await refusal(gate, authorization)
    assert 0 == store.read_count


@pytest.mark.parametrize(
    "key", ["", "x", "whsec_AAAA", "inv_", "inv_aaaaaaaa_", NOBODYS + "A", "\udcff", "A" * 8000]
)
async def test_what_cannot_be_a_key_is_not_looked_up(gate, store, key):
    """Garbage costs no read."""
    assert WRONG_KEY == await refusal(gate, bearer(key))
    assert 0 == store.read_count


async def test_every_wrong_key_is_told_in_the_same_words(register, gate, clock):
    """Whether a prefix exists, a key expired or an account was disabled is nobody's business."""
    disabled, expired = await register.add("disabled"), await register.add("expired")
    known = await register.add("known")
    await register.disable("disabled")
    await register.rotate_key("expired", timedelta(0))

    keys = (NOBODYS, another(known.key), disabled.key, expired.key, "garbage")
    assert {WRONG_KEY} == {await refusal(gate, bearer(key)) for key in keys}


async def test_every_wrong_key_is_compared_once(register, gate, monkeypatch):
    """An unknown prefix takes the same comparison as a known one."""
    known = await register.add("known")
    compare, compared = hmac.compare_digest, []

    def count(one, other):
        compared.append(len(other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", count)
    for key in (NOBODYS, another(known.key), "garbage"):
        await refusal(gate, bearer(key))

    assert [32, 32, 32] == compared


async def test_the_prefix_alone_lets_nobody_in(register, gate):
    """A wrong key with a known prefix is wrong, before and after the right one was seen."""
    shown = await register.add("acme")

    assert WRONG_KEY == await refusal(gate, bearer(another(shown.key)))
    assert shown.account_id == await gate.account_of(bearer(shown.key))
    assert WRONG_KEY == await refusal(gate, bearer(another(shown.key)))


async def test_a_wrong_key_does_not_lock_the_right_one_out(register, gate):
    """Who knows a prefix cannot keep its owner away."""
    shown = await register.add("acme")
    for _ in range(100):
        await refusal(gate, bearer(another(shown.key)))

    assert shown.account_id == await gate.account_of(bearer(shown.key))


# Over time


async def test_a_key_expires_to_the_instant_although_it_is_remembered(register, gate, clock):
    """An overlap that ends while the key is fresh in memory ends there too."""
    shown = await register.add("acme")
    await register.rotate_key("acme", HOUR)
    clock.advance(HOUR - SECOND)
    assert shown.account_id == await gate.account_of(bearer(shown.key))

    clock.advance(SECOND - timedelta(microseconds=1))
    assert shown.account_id == await gate.account_of(bearer(shown.key))
    clock.advance(timedelta(microseconds=1))
    assert WRONG_KEY == await refusal(gate, bearer(shown.key))


async def test_old_and_new_key_work_during_a_rotation(register, gate):
    """Whoever changes keys has time to do so."""
    old = await register.add("acme")
    new = await register.rotate_key("acme", HOUR)

    assert {old.account_id} == {await gate.account_of(bearer(one.key)) for one in (old, new)}


@pytest.mark.parametrize("end", ["disable", "rotate"])
async def test_what_an_operator_ends_is_over_once_memory_is_not_fresh(register, gate, clock, end):
    """A disabled account, or a key without overlap, is let in no longer than five seconds."""
    shown = await register.add("acme")
    await gate.account_of(bearer(shown.key))
    if end == "disable":
        await register.disable("acme")
    else:
        await register.rotate_key("acme", timedelta(0))

    clock.advance(FRESH)
    assert WRONG_KEY == await refusal(gate, bearer(shown.key))


async def test_a_database_that_is_away_is_no_wrong_key(register, gate, store, clock):
    """Who has a key is not told that it is wrong because we cannot look."""
    shown = await register.add("acme")
    store._database.is_away = True

    with pytest.raises(StorageUnavailable):
        await gate.account_of(bearer(shown.key))


# Development


async def test_in_development_nobody_needs_a_key(dev_gate, store):
    """Without the header the default account asks, and nothing is read."""
    assert "dev" == await dev_gate.account_of(None)
    assert 0 == store.read_count


async def test_in_development_a_key_counts_where_one_is_shown(register, dev_gate):
    """A key is never ignored: it is its own account's, or wrong."""
    shown = await register.add("acme")

    assert shown.account_id == await dev_gate.account_of(bearer(shown.key))
    assert WRONG_KEY == await refusal(dev_gate, bearer(NOBODYS))
    assert NO_KEY == await refusal(dev_gate, "")
