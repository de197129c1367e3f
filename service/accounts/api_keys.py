"""
API keys: 256 random bits with a public prefix in front.

    inv_qf3kq2vd_T5M…        "inv", the prefix, and 43 secret characters
    inl_qf3kq2vd_T5M…        the same for a key that permits nothing but to listen

The prefix identifies the key and may be logged. Only a SHA-256 of the whole key is stored. A slow
hash protects passwords that can be guessed. 256 random bits cannot be guessed, so a slow hash would
only cost the service time.
"""

import hmac
import re
import secrets
from base64 import b32encode
from hashlib import sha256

PREFIX_BYTES = 5
SECRET_BYTES = 32

_FORM = re.compile(r"inv_([a-z2-7]{8})_[A-Za-z0-9_-]{43}", re.ASCII)
_LISTEN_FORM = re.compile(r"inl_([a-z2-7]{8})_[A-Za-z0-9_-]{43}", re.ASCII)


def new_api_key() -> str:
    """A new random key."""
    return _new_key("inv")


def new_listen_key() -> str:
    """A new random key that permits nothing but to listen."""
    return _new_key("inl")


def prefix_of(key: str) -> str | None:
    """The public part of *key*; None if *key* does not have the form of a key."""
    match = _FORM.fullmatch(key)
    return match[1] if match else None


def listen_prefix_of(key: str) -> str | None:
    """The public part of a *key* to listen; None if *key* does not have the form of one."""
    match = _LISTEN_FORM.fullmatch(key)
    return match[1] if match else None


def hash_of(key: str) -> bytes:
    """The hash of *key* that is stored."""
    # Bytes of a header that are not UTF-8 arrive as lone surrogates.
    return sha256(key.encode(errors="surrogatepass")).digest()


def matches(key: str, stored_hash: bytes) -> bool:
    """Whether *stored_hash* is the hash of *key*; compares in constant time."""
    return hmac.compare_digest(hash_of(key), stored_hash)


def _new_key(mark: str) -> str:
    prefix = b32encode(secrets.token_bytes(PREFIX_BYTES)).decode().lower()
    return f"{mark}_{prefix}_{secrets.token_urlsafe(SECRET_BYTES)}"
