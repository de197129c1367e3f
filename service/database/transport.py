"""
Whether the connection to PostgreSQL is encrypted, by what its URL says.

The default of the driver is `prefer`: it speaks in clear with a server that offers no TLS, or with
whoever answers in its place.
"""

import os
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

_CLEAR = frozenset({"disable", "allow", "prefer"})
"""The values of `sslmode` with which the driver may speak in clear."""


def with_tls(url: str) -> str:
    """*url* with `sslmode=require`, unless it is about this machine or something else is said."""
    if _mode(url) is not None or not _is_remote(url):
        return url
    return f"{url}{'&' if '?' in url else '?'}sslmode=require"


def may_be_in_clear(url: str) -> bool:
    """Whether the data may travel over a network without encryption."""
    return _is_remote(url) and _mode(url) in _CLEAR


def _mode(url: str) -> str | None:
    values = parse_qs(urlsplit(url).query).get("sslmode")
    return values[-1] if values else os.environ.get("PGSSLMODE")


def _is_remote(url: str) -> bool:
    """Whether a host of *url* is not this machine; a folder is that of a socket."""
    parts = urlsplit(url)
    named = parts.netloc.rpartition("@")[2] or ",".join(parse_qs(parts.query).get("host", []))
    hosts = named or os.environ.get("PGHOST", "")
    return not all(_is_this_machine(one) for one in hosts.split(","))


def _is_this_machine(host: str) -> bool:
    if host.startswith(("/", "%2F", "%2f")):
        return True
    name = host.partition("]")[0].removeprefix("[") if "[" in host else host.partition(":")[0]
    try:
        return name in {"", "localhost"} or ip_address(name).is_loopback
    except ValueError:
        return False
