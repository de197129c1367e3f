"""Everything that `--dev` changes: no key is needed, and receivers may be on this machine."""

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from urllib.parse import urlsplit

from service.callbacks.documentation import EXAMPLE_SECRET
from service.settings import Network, Settings

DEV_ACCOUNT = "dev"
"""The account of every request without a key."""

DEV_SECRET = EXAMPLE_SECRET
"""
The signing secret of the development account.

It is public: a receiver under development can verify without setup.
"""

DEV_NETWORKS: tuple[Network, ...] = (
    IPv4Network("127.0.0.0/8"),
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv6Network("::1/128"),
    IPv6Network("fc00::/7"),
)
"""
The networks that may be called: loopback and private ones.

Link-local addresses stay denied, and so do the metadata addresses of clouds in private networks.
"""


def served_hosts(settings: Settings) -> tuple[str, ...]:
    """The hosts for which the service answers in development, besides those of loopback."""
    public_host = urlsplit(settings.public_url).hostname
    return (*settings.host, *([public_host] if public_host else []))


def for_development(settings: Settings) -> Settings:
    """*settings* with local receivers permitted, over http:// too, and without a rate limit."""
    return replace(
        settings,
        callback_allow=(*settings.callback_allow, *DEV_NETWORKS),
        callback_require_https=False,
        rate_limit=0,
    )
