"""
The health check of the container image: asks the service for `/healthz`, where it listens.

It reads the same settings as the service, so that it finds the service at any address and port. It
is not a command of `invoices`, because it runs every few seconds and loading all commands is slow.
"""

import sys
from collections.abc import Iterator
from http import HTTPStatus
from urllib.request import ProxyHandler, build_opener

from service.errors import SettingsError
from service.settings import Settings, read_settings, url_host

TIMEOUT_SECONDS = 3

LOOPBACKS = {"0.0.0.0": ("127.0.0.1",), "::": ("127.0.0.1", "::1")}  # noqa: S104 -- compared only
"""Address that stands for others -> the addresses at which the service can be reached then."""


def is_alive(settings: Settings) -> bool:
    """Whether the service answers at one of its addresses."""
    # Without the proxy of the environment: the service is on this machine.
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
