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


def test_a_new_key_has_the_form_of_a_key():
    """A new key has a prefix, followed by 43 characters."""
    for _ in range(100):
        scheme, prefix, secret = new_api_key().split("_", 2)

        assert ("inv", 8, 43) == (scheme, len(prefix), len(secret))
        assert prefix == prefix_of(f"{scheme}_{prefix}_{secret}")


def test_a_key_cannot_be_guessed():
    """The part after the prefix has 256 random bits, which do not occur in the prefix."""
    assert (32, 5) == (SECRET_BYTES, PREFIX_BYTES)
    keys = [new_api_key() for _ in range(500)]
    secrets = [key.split("_", 2)[2] for key in keys]

    assert 500 == len(set(secrets))
    # Every position has many values, the last one those of four bits: no character is fixed.
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
    """A text without the form of a key has no prefix."""
    assert None is prefix_of(text)


def test_the_prefix_is_the_public_part():
    """The prefix of a key is its public first part."""
    assert "abcdefg7" == prefix_of(KEY)


def test_the_hash_is_of_the_whole_key():
    """The hash is the SHA-256 of the whole key, the prefix included."""
    assert sha256(KEY.encode()).digest() == hash_of(KEY)
    assert KEY.encode() not in hash_of(KEY)


def test_a_key_matches_only_its_own_hash():
    """A key matches its own hash, and not the hash of a key with another last character."""
    assert matches(KEY, hash_of(KEY))
    assert not matches(KEY, hash_of(KEY[:-1] + "y"))
    assert not matches(KEY, hash_of(KEY)[:-1])
    assert not matches(KEY, b"")


def test_hashes_are_compared_in_constant_time(monkeypatch):
    """The hashes are compared in constant time, by `compare_digest`."""
    compared = []

    def compare(one, other):
        compared.append({one, other})
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)

    assert not matches(KEY, hash_of(KEY))
    assert [{hash_of(KEY)}] == compared


@pytest.mark.parametrize("text", ["\udcff", "ключ", "\ud800\udc00", "\x00"])
def test_any_header_value_can_be_compared(text):
    """A key with invalid characters is a wrong key, and raises no error."""
    assert not matches(text, hash_of(KEY))
    assert 32 == len(hash_of(text))
