import hmac
from hashlib import sha256

import pytest

from service.accounts.api_keys import (
    PREFIX_BYTES,
    SECRET_BYTES,
    hash_of,
    matches,
    new_api_key,
    prefix_of,
)

KEY = "inv_abcdefg7_" + "Az09_-" * 7 + "x"


def test_a_new_key_has_the_form_of_one():
    """A new key is accepted: prefix, and 43 characters behind it."""
    for _ in range(100):
        scheme, prefix, secret = new_api_key().split("_", 2)

        assert ("inv", 8, 43) == (scheme, len(prefix), len(secret))
        assert prefix == prefix_of(f"{scheme}_{prefix}_{secret}")


def test_a_key_cannot_be_guessed():
    """Behind the prefix stand 256 random bits, and the prefix is not made of them."""
    assert (32, 5) == (SECRET_BYTES, PREFIX_BYTES)
    keys = [new_api_key() for _ in range(500)]
    secrets = [key.split("_", 2)[2] for key in keys]

    assert 500 == len(set(secrets))
    # Every place takes many values, the last those of four bits: no character is fixed.
    for place in range(43):
        assert len({secret[place] for secret in secrets}) >= 16


@pytest.mark.parametrize(
    "text",
    [
        "",
        "inv_",
        "abcdefg7",
        KEY[:-1],
        KEY + "x",
        KEY + "\n",
        " " + KEY,
        KEY.replace("inv", "INV"),
        KEY.replace("inv_", "whsec_"),
        KEY.replace("abcdefg7", "ABCDEFG7"),
        KEY.replace("abcdefg7", "abcdefg1"),
        KEY.replace("abcdefg7", "abcdefg"),
        KEY.replace("Az", "A+", 1),
        KEY.replace("Az", "A٣", 1),
        KEY.replace("Az", "A\udcff", 1),
    ],
)
def test_text_without_the_form_of_a_key_has_no_prefix(text):
    """Text that cannot be a key is not looked up."""
    assert None is prefix_of(text)


def test_the_prefix_is_what_stands_in_front():
    """The public part alone finds the key."""
    assert "abcdefg7" == prefix_of(KEY)


def test_the_hash_is_of_the_whole_key():
    """A SHA-256 of everything is stored, the prefix included."""
    assert sha256(KEY.encode()).digest() == hash_of(KEY)
    assert KEY.encode() not in hash_of(KEY)


def test_a_key_matches_its_own_hash_alone():
    """A key matches its own hash, and not one that differs in the last character."""
    assert matches(KEY, hash_of(KEY))
    assert not matches(KEY, hash_of(KEY[:-1] + "y"))
    assert not matches(KEY, hash_of(KEY)[:-1])
    assert not matches(KEY, b"")


def test_hashes_are_compared_in_constant_time(monkeypatch):
    """The time of a refusal does not depend on how much of a guess was right."""
    compared = []

    def compare(one, other):
        compared.append({one, other})
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)

    assert not matches(KEY, hash_of(KEY))
    assert [{hash_of(KEY)}] == compared


@pytest.mark.parametrize("text", ["\udcff", "ключ", "\ud800\udc00", "\x00"])
def test_anything_that_a_header_holds_can_be_compared(text):
    """Bytes that are no text are a wrong key, and not an error of ours."""
    assert not matches(text, hash_of(KEY))
    assert 32 == len(hash_of(text))
