"""
How values are written in settings and in options of commands: durations, networks, URLs, keys.

Every function raises ValueError with a sentence that names the expected form.
"""

import re
from base64 import b64decode
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from urllib.parse import urlsplit

from schemas.money import CURRENCIES

Network = IPv4Network | IPv6Network

_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)", re.ASCII)

DURATION_MAX = timedelta(days=3650)

ENCRYPTION_KEY_BYTES = 32


def parse_host(text: str) -> str:
    """A host name or an address; an empty one would mean every address of the machine."""
    if not text.strip():
        raise ValueError("must name an address, such as 127.0.0.1, or 0.0.0.0 for all of them.")
    return text.strip()


def parse_public_url(text: str) -> str:
    """How users reach the service: an absolute http(s) URL, kept without a trailing slash."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is not a URL such as https://invoices.example.com.")
    return text.rstrip("/")


def parse_database_url(text: str) -> str:
    """`sqlite:///file`, `sqlite:////absolute/file` or `postgresql://…`: without a driver's name."""
    if text.endswith(":memory:"):
        raise ValueError(f"{text!r} would lose everything at the end; name a file.")
    if text.startswith("sqlite:///") and text != "sqlite:///":
        return text
    if text.startswith(("postgresql://", "postgres://")):
        return text
    # The scheme alone: the rest may hold a password.
    scheme = text.partition(":")[0]
    raise ValueError(
        f"{scheme}: is not a database this version can use; it looks like "
        "sqlite:///invoices.db, sqlite:////data/invoices.db or "
        "postgresql://user:password@host:5432/invoices."
    )


def parse_duration(text: str) -> timedelta:
    """A duration such as `500ms`, `15s`, `5m`, `2h` or `30d`, of ten years at most."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a duration such as 500ms, 15s, 5m, 2h or 30d.")
    seconds = float(match[1]) * _UNIT_SECONDS[match[2]]
    if seconds > DURATION_MAX.total_seconds():
        raise ValueError(f"{text!r} is longer than {DURATION_MAX.days}d.")
    return timedelta(seconds=seconds)


def parse_deadline(text: str) -> timedelta:
    """A duration above zero."""
    length = parse_duration(text)
    if not length:
        raise ValueError(f"{text!r} must be longer than nothing.")
    return length


def parse_durations(text: str) -> tuple[timedelta, ...]:
    """Durations separated by commas; an empty text is none."""
    return tuple(parse_duration(part) for part in text.split(",") if part.strip())


def parse_networks(text: str) -> tuple[Network, ...]:
    """Networks in CIDR form separated by commas, such as `10.0.0.0/8,fd00::/8`."""
    try:
        return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ValueError(f"{error}; networks look like 10.0.0.0/8,fd00::/8.") from None


def parse_currency(text: str) -> str:
    """An ISO 4217 currency code in capitals."""
    if text not in CURRENCIES:
        raise ValueError(f"{text!r} is not an ISO 4217 currency code such as USD.")
    return text


def parse_encryption_keys(text: str) -> tuple[str, ...]:
    """One or more keys of 32 bytes in URL-safe base64, separated by commas."""
    keys = tuple(part.strip() for part in text.split(",") if part.strip())
    for number, key in enumerate(keys, start=1):
        if not _is_encryption_key(key):
            # Never the key itself: it may be a good one with a typing error.
            raise ValueError(
                f"key {number} is not 32 bytes in URL-safe base64; "
                "make one with: invoices encryption-key"
            )
    return keys


def _is_encryption_key(key: str) -> bool:
    try:
        # Strictly: else two keys with a blank between them would count as the first of them.
        return len(b64decode(key.encode(), b"-_", validate=True)) == ENCRYPTION_KEY_BYTES
    except ValueError:
        return False
