"""
The hosts for which a service without keys answers.

A page of another site can have its own name lead to this machine. The browser then takes the
service for a part of that site, and its `Host` header alone shows that it is not.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from service.errors import MisdirectedRequest
from service.web.addresses import EVERY_ADDRESS


def make_host_check(names: Iterable[str]) -> Middleware:
    """
    Make the middleware that refuses requests to other hosts than those of loopback and *names*.

    An address that stands for all those of the machine permits every address, but no other name: a
    name alone can be made to lead here.
    """
    own = frozenset(_canonical(name) for name in names)
    permits_addresses = not own.isdisjoint(EVERY_ADDRESS)

    @web.middleware
    async def check_host(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get(hdrs.HOST)
        # Every browser sends a Host.
        if host is not None and not is_permitted(host):
            raise MisdirectedRequest(
                "In development mode the service answers for localhost, INVOICES_HOST and the host "
                "of INVOICES_PUBLIC_URL alone."
            )
        return await handler(request)

    # Nearly all requests have the same one.
    @lru_cache(maxsize=64)
    def is_permitted(host: str) -> bool:
        name = _name_of(host)
        if name in own or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return permits_addresses or address.is_loopback

    return check_host


def _name_of(host: str) -> str:
    """The name or address in a `Host` header, without its port; empty where there is none."""
    try:
        return _canonical(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return ""


def _canonical(name: str) -> str:
    return name.lower().removesuffix(".")
