"""Ids: unique among all processes, and in the order of time."""

from __future__ import annotations

from datetime import datetime

from uuid_utils import uuid7


def new_id() -> str:
    """A UUID of version 7 (RFC 9562) as 32 hexadecimal digits; later ones sort behind."""
    return uuid7().hex


def lower_bound(instant: datetime) -> str:
    """What sorts in front of every key that is made at *instant* or later, and behind others."""
    return f"{int(instant.timestamp() * 1000):012x}"
