"""
The addresses to listen on: host names and IP addresses turned into listening sockets.

The errors are sentences for an operator and name the setting to change; the texts of the operating
system do neither.
"""

import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.errors import AddressError

BACKLOG = 1024
"""How many connections may wait to be accepted."""

EVERY_ADDRESS = ("::", "0.0.0.0")  # noqa: S104 -- compared with what an operator has set
"""Hosts that stand for every address of the machine; they cannot be called."""

_NOT_OF_THIS_MACHINE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


@dataclass(frozen=True, slots=True)
class Names:
    """How the user calls the host and the port: settings, or options of a command."""

    host: str
    port: str


OPTIONS = Names("--host", "--port")
SETTINGS = Names("INVOICES_HOST", "INVOICES_PORT")


@dataclass(frozen=True, slots=True)
class _Address:
    family: socket.AddressFamily
    sockaddr: tuple[Any, ...]
    is_alone: bool
    """Whether its host has no other address, so that it cannot be left out."""


def listening_sockets(
    hosts: Sequence[str], port: int, names: Names, *, is_shared: bool = False
) -> list[socket.socket]:
    """
    Listen on *port* of every address of *hosts*; `::` stands for all addresses of both families.

    With port 0 the first socket takes any free port, and the others the same one. If the port
    *is_shared*, several processes may listen on it.

    Raises:
        AddressError: if a host has no address that can be listened on.
    """
    sockets: list[socket.socket] = []
    try:
        for host, address in _addresses(hosts, names):
            one = _listen(host, address, port, names, is_shared=is_shared)
            if one is not None:
                sockets.append(one)
                port = one.getsockname()[1]
        if not sockets:
            raise _not_of_this_machine(hosts[0], names)
    except BaseException:
        for one in sockets:
            one.close()
        raise
    return sockets


def _addresses(hosts: Sequence[str], names: Names) -> list[tuple[str, _Address]]:
    """The addresses of *hosts* with their host, without those that another one includes."""
    found: dict[tuple[Any, ...], tuple[str, _Address]] = {}
    for host in hosts:
        for address in _look_up(host, names):
            found.setdefault(address.sockaddr, (host, address))
    everything = {one.family for _, one in found.values() if one.sockaddr[0] in EVERY_ADDRESS}
    return [
        (host, one)
        for host, one in found.values()
        if one.family not in everything or one.sockaddr[0] in EVERY_ADDRESS
    ]


def _look_up(host: str, names: Names) -> list[_Address]:
    found = []
    for one in EVERY_ADDRESS if host == "::" else (host,):
        try:
            found += socket.getaddrinfo(one, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise AddressError(
                f"{host!r} is neither an IP address nor a name that this machine knows: "
                f"change {names.host}."
            ) from None
    return [
        _Address(family, tuple(sockaddr), is_alone=len(found) == 1)
        for family, _, _, _, sockaddr in found
    ]


def _listen(
    host: str, address: _Address, port: int, names: Names, *, is_shared: bool
) -> socket.socket | None:
    """A socket that listens; None where the machine lacks the address, and its host has others."""
    ip, _, *scope = address.sockaddr
    opened = None
    try:
        opened = socket.socket(address.family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if address.family is socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind((ip, port, *scope))
        opened.listen(BACKLOG)
    except OSError as error:
        if opened is not None:
            opened.close()
        if error.errno in _NOT_OF_THIS_MACHINE and not address.is_alone:
            return None
        raise _address_error(error, host, port, names) from None
    opened.setblocking(False)
    return opened


def _address_error(error: OSError, host: str, port: int, names: Names) -> AddressError:
    if error.errno in _NOT_OF_THIS_MACHINE:
        return _not_of_this_machine(host, names)
    if error.errno == errno.EADDRINUSE:
        return AddressError(
            f"Port {port} of {host} is in use by another program: stop that program, or set "
            f"{names.port} to another port."
        )
    if error.errno == errno.EACCES:
        return AddressError(
            f"Port {port} of {host} needs more rights than this process has: set {names.port} to "
            "a port above 1023."
        )
    reason = (error.strerror or str(error)).lower()
    return AddressError(
        f"Port {port} of {host} cannot be listened on ({reason}): change {names.host} or "
        f"{names.port}."
    )


def _not_of_this_machine(host: str, names: Names) -> AddressError:
    return AddressError(f"This machine does not have the address {host}: change {names.host}.")
