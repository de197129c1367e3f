"""
Everything that can be set, read once from INVOICES_* variables into one frozen object.

A start with wrong settings reports every mistake at once, unknown names included, each with
the form that is meant or the nearest name there is.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from base64 import b64decode
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from environs import Env, EnvValidationError
from environs.exceptions import EnvError
from marshmallow import ValidationError

from schemas.money import CURRENCIES
from service.errors import SettingsError

PREFIX = "INVOICES_"
Network = IPv4Network | IPv6Network

_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)", re.ASCII)


RETRY_SCHEDULE = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
)
"""The delays after failed attempts: three and a half days of them, short ones first."""

ENCRYPTION_KEY_BYTES = 32

DURATION_MAX = timedelta(days=3650)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    What the operator decided. The variable of a field is its name in capitals after INVOICES_.

    Read by `read_settings`; every field has its meaning, unit, default and danger in
    docs/settings.md, and a test keeps that page complete.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    database_url: str = "sqlite:///invoices.db"
    database_prepared_statements: bool = True
    public_url: str = "http://127.0.0.1:8080"
    currency: str = "USD"
    retry_schedule: tuple[timedelta, ...] = RETRY_SCHEDULE
    callback_timeout: timedelta = timedelta(seconds=15)
    callback_concurrency: int = 256
    origin_concurrency: int = 16
    callback_allow: tuple[Network, ...] = ()
    encryption_key: tuple[str, ...] = field(default=(), repr=False)
    rotation_overlap: timedelta = timedelta(hours=24)
    rate_limit: int = 1000
    rate_burst: int = 2000
    callback_require_https: bool = True
    receiver_contract: Literal["strict", "lenient"] = "strict"
    sandbox_delay: timedelta = timedelta(milliseconds=500)
    retention: timedelta = timedelta(days=30)
    drain_timeout: timedelta = timedelta(seconds=20)
    body_limit: int = 64 * 1024
    body_timeout: timedelta = timedelta(seconds=10)
    idle_timeout: timedelta = timedelta(seconds=30)
    connection_limit: int = 512
    log_format: Literal["json", "text"] = "json"

    @property
    def is_embedded(self) -> bool:
        """Whether the database is a file of this machine, rather than a server."""
        return self.database_url.startswith("sqlite:")


def read_settings() -> Settings:
    """
    The settings of this process, from its environment.

    Raises:
        SettingsError: with one sentence for every variable that cannot be used.
    """
    env, default = Env(eager=False, prefix=PREFIX), Settings()
    for parser in (
        host,
        duration,
        deadline,
        durations,
        networks,
        database_url,
        encryption_keys,
        public_url,
        currency,
    ):
        env.add_parser(parser.__name__, _reporting(parser))
    concurrency = _between(1, 10_000)
    values: dict[str, Any] = {
        "host": env.host("HOST", default.host),
        "port": env.int("PORT", default.port, validate=_between(1, 65535)),
        "database_url": env.database_url("DATABASE_URL", default.database_url),
        "database_prepared_statements": env.bool(
            "DATABASE_PREPARED_STATEMENTS", default.database_prepared_statements
        ),
        "public_url": env.public_url("PUBLIC_URL", None),
        "currency": env.currency("CURRENCY", default.currency),
        "retry_schedule": env.durations("RETRY_SCHEDULE", default.retry_schedule),
        "callback_timeout": env.deadline("CALLBACK_TIMEOUT", default.callback_timeout),
        "callback_concurrency": env.int(
            "CALLBACK_CONCURRENCY", default.callback_concurrency, validate=concurrency
        ),
        "origin_concurrency": env.int(
            "ORIGIN_CONCURRENCY", default.origin_concurrency, validate=concurrency
        ),
        "encryption_key": env.encryption_keys("ENCRYPTION_KEY", default.encryption_key),
        "rotation_overlap": env.duration("ROTATION_OVERLAP", default.rotation_overlap),
        "rate_limit": env.int("RATE_LIMIT", default.rate_limit, validate=_between(0, 1_000_000)),
        "rate_burst": env.int("RATE_BURST", default.rate_burst, validate=_between(1, 1_000_000)),
        "callback_allow": env.networks("CALLBACK_ALLOW", default.callback_allow),
        "callback_require_https": env.bool(
            "CALLBACK_REQUIRE_HTTPS", default.callback_require_https
        ),
        "receiver_contract": env.str(
            "RECEIVER_CONTRACT", default.receiver_contract, validate=_one_of("strict", "lenient")
        ),
        "sandbox_delay": env.duration("SANDBOX_DELAY", default.sandbox_delay),
        "retention": env.duration("RETENTION", default.retention),
        "drain_timeout": env.duration("DRAIN_TIMEOUT", default.drain_timeout),
        "body_limit": env.int("BODY_LIMIT", default.body_limit, validate=_between(4096, 2**24)),
        "body_timeout": env.deadline("BODY_TIMEOUT", default.body_timeout),
        "idle_timeout": env.deadline("IDLE_TIMEOUT", default.idle_timeout),
        "connection_limit": env.int(
            "CONNECTION_LIMIT", default.connection_limit, validate=concurrency
        ),
        "log_format": env.str(
            "LOG_FORMAT",
            "text" if sys.stderr.isatty() else default.log_format,
            validate=_one_of("json", "text"),
        ),
    }
    mistakes = [*_unknown_names(set(values)), *_mistakes_of(env)]
    if mistakes:
        raise SettingsError(mistakes)
    values["public_url"] = values["public_url"] or _local_url(values["host"], values["port"])
    return Settings(**values)


def host(text: str) -> str:
    """A host name or an address; an empty one would mean every address there is."""
    if not text.strip():
        raise ValueError("must name an address, such as 127.0.0.1, or 0.0.0.0 for all of them.")
    return text.strip()


def duration(text: str) -> timedelta:
    """A duration such as `500ms`, `15s`, `5m`, `2h` or `30d`, of ten years at most."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a duration such as 500ms, 15s, 5m, 2h or 30d.")
    seconds = float(match[1]) * _UNIT_SECONDS[match[2]]
    if seconds > DURATION_MAX.total_seconds():
        raise ValueError(f"{text!r} is longer than {DURATION_MAX.days}d.")
    return timedelta(seconds=seconds)


def deadline(text: str) -> timedelta:
    """A duration that is longer than nothing."""
    length = duration(text)
    if not length:
        raise ValueError(f"{text!r} must be longer than nothing.")
    return length


def durations(text: str) -> tuple[timedelta, ...]:
    """Durations separated by commas; an empty text is none."""
    return tuple(duration(part) for part in text.split(",") if part.strip())


def networks(text: str) -> tuple[Network, ...]:
    """Networks in CIDR form separated by commas, such as `10.0.0.0/8,fd00::/8`."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tuple(ip_network(part) for part in parts)
    except ValueError as error:
        raise ValueError(f"{error}; networks look like 10.0.0.0/8,fd00::/8.") from None


def database_url(text: str) -> str:
    """`sqlite:///file`, `sqlite:////absolute/file` or `postgresql://…`: without a driver's name."""
    if text.endswith(":memory:"):
        raise ValueError(f"{text!r} would lose everything at the end; name a file.")
    if text.startswith("sqlite:///") and text != "sqlite:///":
        return text
    if text.startswith(("postgresql://", "postgres://")):
        return text
    # Not the whole of it: it may hold a password.
    scheme = text.partition(":")[0]
    raise ValueError(
        f"{scheme}: is not a database this version can use; it looks like "
        "sqlite:///invoices.db, sqlite:////data/invoices.db or "
        "postgresql://user:password@host:5432/invoices."
    )


def encryption_keys(text: str) -> tuple[str, ...]:
    """One or more keys of 32 bytes in URL-safe base64, separated by commas."""
    keys = tuple(part.strip() for part in text.split(",") if part.strip())
    for number, key in enumerate(keys, start=1):
        if not _is_encryption_key(key):
            # Never the key itself: it may be a good one with a typing mistake.
            raise ValueError(
                f"key {number} is not 32 bytes in URL-safe base64; "
                "make one with: invoices encryption-key"
            )
    return keys


def _is_encryption_key(key: str) -> bool:
    try:
        # Strictly: two keys with a blank between them would else count as the first of them.
        return len(b64decode(key.encode(), b"-_", validate=True)) == ENCRYPTION_KEY_BYTES
    except ValueError:
        return False


def public_url(text: str) -> str:
    """How users reach the service: an absolute http(s) URL, kept without a trailing slash."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is not a URL such as https://invoices.example.com.")
    return text.rstrip("/")


def currency(text: str) -> str:
    """An ISO 4217 currency code in capitals."""
    if text not in CURRENCIES:
        raise ValueError(f"{text!r} is not an ISO 4217 currency code such as USD.")
    return text


def _reporting(parse: Any) -> Any:
    """*parse* with its ValueError in the form in which Env collects mistakes."""

    def parse_or_report(value: Any, **_: Any) -> Any:
        try:
            # A default is a value already.
            return parse(value) if isinstance(value, str) else value
        except ValueError as error:
            raise EnvError(str(error)) from error

    return parse_or_report


def _between(low: int, high: int) -> Any:
    def check(value: int) -> None:
        if not low <= value <= high:
            raise ValidationError(f"{value} is not between {low} and {high}.")

    return check


def _one_of(*names: str) -> Any:
    def check(value: str) -> None:
        if value not in names:
            raise ValidationError(f"{value!r} is not one of {', '.join(names)}.")

    return check


def _unknown_names(fields: set[str]) -> list[str]:
    known = {name.upper() for name in fields}
    given = sorted(name.removeprefix(PREFIX) for name in os.environ if name.startswith(PREFIX))
    mistakes = []
    for name in given:
        if name in known or name.startswith("TEST_"):
            continue
        nearest = difflib.get_close_matches(name, known, n=1)
        advice = f"; did you mean {PREFIX}{nearest[0]}?" if nearest else "."
        mistakes.append(f"{PREFIX}{name}: there is no such setting{advice}")
    return mistakes


def _mistakes_of(env: Env) -> list[str]:
    try:
        env.seal()
    except EnvValidationError as error:
        return [
            f"{name}: {' '.join(str(message) for message in messages)}"
            for name, messages in sorted(cast("dict[str, list[str]]", error.error_messages).items())
        ]
    return []


def _local_url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
