"""New keys: unique among all processes, and in the order of time."""

from __future__ import annotations

from uuid_utils import uuid7


def new_key() -> str:
    """A UUID of version 7 (RFC 9562) as 32 hexadecimal digits; later ones sort behind."""
    return uuid7().hex
