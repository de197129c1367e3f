import traceback
from base64 import b64decode

import pytest

from service.accounts.encryption import SecretCipher, new_encryption_key, new_signing_secret
from service.delivery.signing import Signer
from service.errors import ConfigurationError
from service.settings import parse_encryption_keys

SECRET = "whsec_c2VjcmV0IG9mIHRoaXMgdGVzdCwgMzIgYnl0ZXM="


def test_what_is_encrypted_can_be_decrypted():
    """A stored secret comes back as it was."""
    cipher = SecretCipher([new_encryption_key()])

    assert SECRET == cipher.decrypt(cipher.encrypt(SECRET))


def test_what_is_stored_shows_nothing():
    """The secret does not stand in its ciphertext, nor do two of the same look alike."""
    cipher = SecretCipher([new_encryption_key()])
    first, second = cipher.encrypt(SECRET), cipher.encrypt(SECRET)

    assert first != second
    assert b"whsec_" not in first
    assert b"secret of this test" not in b64decode(first, altchars=b"-_")


def test_the_first_key_encrypts():
    """What a cipher of several keys encrypts, its first key alone decrypts."""
    old, new = new_encryption_key(), new_encryption_key()
    ciphertext = SecretCipher([new, old]).encrypt(SECRET)

    assert SECRET == SecretCipher([new]).decrypt(ciphertext)
    with pytest.raises(ConfigurationError):
        SecretCipher([old]).decrypt(ciphertext)


def test_every_key_decrypts():
    """A secret under a key that has been replaced is read as long as that key is named."""
    keys = [new_encryption_key() for _ in range(3)]

    for key in keys:
        assert SECRET == SecretCipher(keys).decrypt(SecretCipher([key]).encrypt(SECRET))


def test_another_key_is_refused_with_the_name_of_the_setting():
    """An operator who starts with the wrong key reads which variable it is."""
    ciphertext = SecretCipher([new_encryption_key()]).encrypt(SECRET)

    with pytest.raises(ConfigurationError, match="INVOICES_ENCRYPTION_KEY"):
        SecretCipher([new_encryption_key()]).decrypt(ciphertext)


@pytest.mark.parametrize("change", [lambda text: text[:-1], lambda text: b"x" + text[1:]])
def test_a_changed_ciphertext_is_refused(change):
    """A writer of the database cannot choose a secret."""
    cipher = SecretCipher([new_encryption_key()])

    with pytest.raises(ConfigurationError):
        cipher.decrypt(change(cipher.encrypt(SECRET)))


@pytest.mark.parametrize("keys", [[], ["short"], [new_encryption_key(), "short"]])
def test_a_cipher_needs_keys_of_32_bytes(keys):
    """An unusable key is refused at once."""
    with pytest.raises(ValueError, match=r"[Kk]ey"):
        SecretCipher(keys)


def test_neither_keys_nor_secrets_are_shown():
    """No key and no secret stands in a repr, in a message or in a traceback."""
    key = new_encryption_key()
    cipher, other = SecretCipher([key]), SecretCipher([new_encryption_key()])
    ciphertext = other.encrypt(SECRET)

    with pytest.raises(ConfigurationError) as refusal:
        cipher.decrypt(ciphertext)
    shown = "".join(
        [repr(cipher), str(cipher), *traceback.format_exception(refusal.value), repr(refusal.value)]
    )

    assert "<SecretCipher>" == repr(cipher)
    assert [] == [one for one in (key, SECRET, ciphertext.decode()) if one in shown]


def test_a_new_encryption_key_is_one_that_settings_take():
    """What the command prints can be set, and is another each time."""
    key, other = new_encryption_key(), new_encryption_key()

    assert (key, other) == parse_encryption_keys(f"{key},{other}")
    assert key != other


def test_a_new_signing_secret_is_one_that_signs():
    """What an account is given is 32 random bytes, in the form that verifiers take."""
    secret, other = new_signing_secret(), new_signing_secret()

    assert 32 == len(b64decode(secret.removeprefix("whsec_"), validate=True))
    assert secret != other
    assert Signer((secret, other))
