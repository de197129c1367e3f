"""
API keys: 256 random bits with a public prefix in front.

    inv_qf3kq2vd_T5M…        "inv", the prefix, and 43 characters that only its owner knows

The prefix finds the key and may be logged. Of the whole only a SHA-256 is kept: nothing that is
guessed can be compared with it faster than 2**256 times, so a slow hash would slow down us alone.
"""

from __future__ import annotations

import hmac
import re
import secrets
from base64 import b32encode
from hashlib import sha256

PREFIX_BYTES = 5
SECRET_BYTES = 32

_FORM = re.compile(r"inv_([a-z2-7]{8})_[A-Za-z0-9_-]{43}", re.ASCII)


def new_api_key() -> str:
    """A key that nobody has; it is shown once and never again."""
    prefix = b32encode(secrets.token_bytes(PREFIX_BYTES)).decode().lower()
    return f"inv_{prefix}_{secrets.token_urlsafe(SECRET_BYTES)}"


def prefix_of(key: str) -> str | None:
    """The public part of *key*; None if it has not the form of one."""
    match = _FORM.fullmatch(key)
    return match[1] if match else None


def hash_of(key: str) -> bytes:
    """What is kept of *key*."""
    # A header may hold bytes that are no text; they reach us as halves of surrogate pairs.
    return sha256(key.encode(errors="surrogatepass")).digest()


def matches(key: str, stored_hash: bytes) -> bool:
    """Whether *key* is the one that *stored_hash* is kept of, in the same time whatever it is."""
    return hmac.compare_digest(hash_of(key), stored_hash)
