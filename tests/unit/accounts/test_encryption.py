import traceback
from base64 import b64decode

import pytest

from service.accounts.encryption import SecretCipher, new_encryption_key, new_signing_secret
from service.delivery.signing import Signer
from service.errors import ConfigurationError
from service.settings import parse_encryption_keys

SECRET = "whsec_c2VjcmV0IG9mIHRoaXMgdGVzdCwgMzIgYnl0ZXM="


def test_an_encrypted_secret_can_be_decrypted():
    """Decryption returns the encrypted secret."""
    cipher = SecretCipher([new_encryption_key()])

    assert SECRET == cipher.decrypt(cipher.encrypt(SECRET))


def test_the_ciphertext_reveals_nothing():
    """A ciphertext does not contain its secret, and equal secrets have different ciphertexts."""
    cipher = SecretCipher([new_encryption_key()])
    first, second = cipher.encrypt(SECRET), cipher.encrypt(SECRET)

    assert first != second
    assert b"whsec_" not in first
    assert b"secret of this test" not in b64decode(first, altchars=b"-_")


def test_the_first_key_encrypts():
    """A cipher with several keys encrypts with its first key."""
    old, new = new_encryption_key(), new_encryption_key()
    ciphertext = SecretCipher([new, old]).encrypt(SECRET)

    assert SECRET == SecretCipher([new]).decrypt(ciphertext)
    with pytest.raises(ConfigurationError):
        SecretCipher([old]).decrypt(ciphertext)


def test_every_key_decrypts():
    """A secret that a replaced key has encrypted is decrypted while that key is set."""
    keys = [new_encryption_key() for _ in range(3)]

    for key in keys:
        assert SECRET == SecretCipher(keys).decrypt(SecretCipher([key]).encrypt(SECRET))


def test_the_error_for_a_wrong_key_names_the_setting():
    """Decryption with a wrong key raises an error that names the variable."""
    ciphertext = SecretCipher([new_encryption_key()]).encrypt(SECRET)

    with pytest.raises(ConfigurationError, match="INVOICES_ENCRYPTION_KEY"):
        SecretCipher([new_encryption_key()]).decrypt(ciphertext)


@pytest.mark.parametrize("change", [lambda text: text[:-1], lambda text: b"x" + text[1:]])
def test_a_changed_ciphertext_is_refused(change):
    """A ciphertext that was changed in the database is refused."""
    cipher = SecretCipher([new_encryption_key()])

    with pytest.raises(ConfigurationError):
        cipher.decrypt(change(cipher.encrypt(SECRET)))


@pytest.mark.parametrize("keys", [[], ["short"], [new_encryption_key(), "short"]])
def test_a_cipher_needs_keys_of_32_bytes(keys):
    """A key of another length is refused."""
    with pytest.raises(ValueError, match=r"[Kk]ey"):
        SecretCipher(keys)


def test_neither_keys_nor_secrets_are_shown():
    """No representation, message or traceback contains a key or a secret."""
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


def test_a_new_encryption_key_is_a_valid_setting():
    """A new encryption key is valid in the settings, and is different each time."""
    key, other = new_encryption_key(), new_encryption_key()

    assert (key, other) == parse_encryption_keys(f"{key},{other}")
    assert key != other


def test_a_new_signing_secret_is_valid():
    """A new signing secret has 32 random bytes in the form of Standard Webhooks."""
    secret, other = new_signing_secret(), new_signing_secret()

    assert 32 == len(b64decode(secret.removeprefix("whsec_"), validate=True))
    assert secret != other
    assert Signer((secret, other))
