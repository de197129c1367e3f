"""
The health check of the container image: asks the service for `/healthz`, where it listens.

It reads the settings as the service does, so that it finds it at any address and port. It is no
command of `invoices`, because loading all commands every few seconds would cost more than this.
"""

import sys
from collections.abc import Iterator
from http import HTTPStatus
from urllib.request import ProxyHandler, build_opener

from service.errors import SettingsError
from service.settings import Settings, read_settings, url_host

TIMEOUT_SECONDS = 3

LOOPBACKS = {"0.0.0.0": ("127.0.0.1",), "::": ("127.0.0.1", "::1")}  # noqa: S104 -- compared only
"""Addresses that stand for others -> where a service that listens on them can be asked."""


def is_alive(settings: Settings) -> bool:
    """Whether the service answers at one of its addresses."""
    # Through no proxy, whatever the environment says: it is on this machine.
    opener = build_opener(ProxyHandler({}))
    for host in _hosts(settings):
        url = f"http://{url_host(host)}:{settings.port}/healthz"
        try:
            with opener.open(url, timeout=TIMEOUT_SECONDS) as answer:
                return bool(answer.status == HTTPStatus.OK)
        except OSError:
            continue
    return False


def _hosts(settings: Settings) -> Iterator[str]:
    for host in settings.host:
        yield from LOOPBACKS.get(host, (host,))


def main() -> int:
    """The exit status: 0 if the service is alive."""
    try:
        return 0 if is_alive(read_settings()) else 1
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
