"""
Encryption of stored secrets with `cryptography`, and the making of keys and secrets.

The key is in the environment, or in a file beside an SQLite database. A person who has the database
alone cannot sign in our name. Several keys may be given while one replaces another: the first
encrypts, all of them decrypt.

The library is imported for the first cipher: its 7 MiB are not needed in development mode, where
nothing is encrypted.
"""

import os
import secrets
import tempfile
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from service.errors import ConfigurationError

KEY_BYTES = 32
SECRET_BYTES = 32


class SecretCipher:
    """
    Encrypts and decrypts what accounts have secret: signing secrets, pay keys and Stripe keys.

    Raises:
        ValueError: if there is no key, or one is not 32 bytes in URL-safe base64.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise ValueError("At least one encryption key is needed.")
        fernet = import_module("cryptography.fernet")
        self._fernet = fernet.MultiFernet([fernet.Fernet(key) for key in keys])
        self._invalid_token: type[Exception] = fernet.InvalidToken

    def __repr__(self) -> str:
        return "<SecretCipher>"

    def encrypt(self, secret: str) -> bytes:
        """*secret* as ciphertext, which may be stored."""
        ciphertext: bytes = self._fernet.encrypt(secret.encode())
        return ciphertext

    def renew(self, ciphertext: bytes) -> bytes:
        """
        The same secret, encrypted with the first key.

        Raises:
            ConfigurationError: if it was encrypted with none of the keys.
        """
        return self.encrypt(self.decrypt(ciphertext))

    def decrypt(self, ciphertext: bytes) -> str:
        """
        The secret whose ciphertext is *ciphertext*.

        Raises:
            ConfigurationError: if it was encrypted with none of the keys.
        """
        try:
            secret: bytes = self._fernet.decrypt(ciphertext)
        except self._invalid_token:
            raise ConfigurationError(
                "A secret in the database was encrypted with another key. "
                "INVOICES_ENCRYPTION_KEY must name that key too."
            ) from None
        return secret.decode()


def new_encryption_key() -> str:
    """A key for a `SecretCipher`: 32 random bytes in URL-safe base64."""
    return urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def make_key_file(path: Path) -> None:
    """
    Write a new key to *path*, readable by its owner alone; an existing file stays as it is.

    The key is on disk when this returns: a power failure does not lose it.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(new_encryption_key() + "\n")
            file.flush()
            os.fsync(descriptor)
        try:
            # Of two processes that start at the same time, one makes the key, and both read it.
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def new_signing_secret() -> str:
    """A secret of 32 random bytes, in the form of Standard Webhooks: `whsec_` and base64."""
    return "whsec_" + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
