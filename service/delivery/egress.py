"""
Which addresses the service may connect to.

Keeps invariant 6: no connection is opened to an address that the policy denies, whatever DNS
answered before. The socket factory alone enforces it: it gets the numeric address of every
connection directly before the connection is made, whether the URL has an address or a name. The
resolver removes denied addresses too, only to distinguish a name whose addresses are all denied
from a receiver that is down.

The tables are written out because `ipaddress.is_global` is not sufficient: it is true for multicast
and for IPv6 forms that carry a private IPv4 address, and it changes between Python releases.
"""

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from aiohttp import AddrInfoType

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

DENIED_IPV4 = (
    IPv4Network("0.0.0.0/8"),  # RFC 791: this network; Linux connects it to loopback
    IPv4Network("10.0.0.0/8"),  # RFC 1918: private
    IPv4Network("100.64.0.0/10"),  # RFC 6598: shared by carriers; cloud metadata as well
    IPv4Network("127.0.0.0/8"),  # RFC 1122: loopback
    IPv4Network("168.63.129.16/32"),  # Microsoft: the Azure platform, seen from inside
    IPv4Network("169.254.0.0/16"),  # RFC 3927: link-local; cloud metadata
    IPv4Network("172.16.0.0/12"),  # RFC 1918: private
    IPv4Network("192.0.0.0/24"),  # RFC 6890: protocol assignments; cloud metadata as well
    IPv4Network("192.0.2.0/24"),  # RFC 5737: documentation
    IPv4Network("192.31.196.0/24"),  # RFC 7535: AS112
    IPv4Network("192.52.193.0/24"),  # RFC 7450: AMT relays
    IPv4Network("192.88.99.0/24"),  # RFC 7526: 6to4 relays, withdrawn
    IPv4Network("192.168.0.0/16"),  # RFC 1918: private
    IPv4Network("192.175.48.0/24"),  # RFC 7534: AS112
    IPv4Network("198.18.0.0/15"),  # RFC 2544: benchmarks
    IPv4Network("198.51.100.0/24"),  # RFC 5737: documentation
    IPv4Network("203.0.113.0/24"),  # RFC 5737: documentation
    IPv4Network("224.0.0.0/4"),  # RFC 5771: multicast
    IPv4Network("240.0.0.0/4"),  # RFC 1112: reserved; RFC 919: broadcast
)

# Every IPv6 address that IANA has not assigned as global unicast is denied. That covers loopback,
# mapped IPv4, unique local, link-local and multicast.
PERMITTED_IPV6 = IPv6Network("2000::/3")  # RFC 4291: global unicast

DENIED_IPV6 = (
    IPv6Network("2001::/23"),  # RFC 2928: protocol assignments; RFC 4380: Teredo carries IPv4
    IPv6Network("2001:db8::/32"),  # RFC 3849: documentation
    IPv6Network("2002::/16"),  # RFC 3056: 6to4 carries any IPv4 address
    IPv6Network("2620:4f:8000::/48"),  # RFC 7534: AS112
    IPv6Network("3fff::/20"),  # RFC 9637: documentation
)

# By default a network with DNS64 translates addresses of this prefix to the IPv4 address in them.
NAT64_PREFIX = IPv6Network("64:ff9b::/96")  # RFC 6052, section 2.1

# The metadata services of clouds, which return the credentials of the machine. Such an address is
# permitted only if it is allowed as a network of one address.
METADATA: tuple[Address, ...] = (
    IPv4Address("169.254.169.254"),  # nearly every cloud
    IPv4Address("169.254.170.2"),  # Amazon: containers
    IPv4Address("169.254.170.23"),  # Amazon: pods
    IPv4Address("168.63.129.16"),  # Microsoft
    IPv4Address("100.100.100.200"),  # Alibaba
    IPv4Address("192.0.0.192"),  # Oracle
    IPv6Address("fd00:ec2::254"),  # Amazon
    IPv6Address("fd00:ec2::23"),  # Amazon: pods
    IPv6Address("fd20:ce::254"),  # Google
    IPv6Address("fd00:c1::a9fe:a9fe"),  # Oracle
    IPv6Address("fd00:42::42"),  # Scaleway
)

# The event loop is blocked while the bytes of one read are parsed. A small buffer limits that time
# when a receiver sends many tiny responses. Answers are small, so it does not slow them down.
RECEIVE_BUFFER_BYTES = 32 * 1024


class AddressDenied(OSError):
    """
    The policy denies this address.

    An OSError with an errno and the same text for every address: otherwise aiohttp, which tries
    the addresses of a name in parallel (happy eyeballs), would raise another error.
    """

    def __init__(self, address: str) -> None:
        super().__init__(errno.EACCES, "the policy denies this address")
        self.address = address


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """
    Denies the addresses in the tables of this module, except the networks in *allow*.

    A metadata address is permitted only by a network of *allow* that holds no other address. An
    IPv4 address mapped into IPv6 (`::ffff:10.0.0.1`) is always denied, also if it is in *allow*:
    the address can be written as IPv4.

    For an address that the network translates to IPv4, by *nat64_prefixes* or the well-known
    prefix, the tables are applied to the IPv4 address in it, and *allow* to its IPv6 form.
    """

    allow: tuple[Network, ...] = ()
    nat64_prefixes: tuple[IPv6Network, ...] = ()

    def permits(self, address: str) -> bool:
        """Whether a connection to the numeric *address* may be opened."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        reached = self._translated(parsed)
        if reached in METADATA or parsed in METADATA:
            return any(one.num_addresses == 1 and parsed in one for one in self.allow)
        if isinstance(reached, IPv4Address):
            return not _is_in(reached, DENIED_IPV4) or _is_in(parsed, self.allow)
        if reached.scope_id is not None or reached.ipv4_mapped is not None:
            return False
        is_global = reached in PERMITTED_IPV6 and not _is_in(reached, DENIED_IPV6)
        return is_global or _is_in(reached, self.allow)

    def _translated(self, address: Address) -> Address:
        """The IPv4 address that the network translates *address* to, or *address* itself."""
        if isinstance(address, IPv6Address) and address.scope_id is None:
            for prefix in (*self.nat64_prefixes, NAT64_PREFIX):
                if address in prefix:
                    return _ipv4_in(address, prefix.prefixlen)
        return address

    def permits_host(self, host: str) -> bool:
        """
        Whether the *host* of a URL may be called, as far as that is known without DNS.

        Returns:
            False only for a literal address that is denied, with or without brackets and in
            the old spellings too (`0x7f.1`). Names are checked when a connection is opened.
        """
        literal = literal_address(host)
        return literal is None or self.permits(literal)


def socket_factory(policy: EgressPolicy) -> Callable[[AddrInfoType], socket.socket]:
    """Make the function that opens the sockets of a connector, to permitted addresses only."""

    def open_socket(addr_info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = addr_info
        if not policy.permits(address[0]):
            raise AddressDenied(address[0])
        opened = socket.socket(family, kind, protocol)
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        return opened

    return open_socket


def is_single_label(host: str) -> bool:
    """Whether *host* is a name without a dot, which is none of the internet."""
    return "." not in host and ":" not in host and literal_address(host) is None


def _is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)


def _ipv4_in(address: IPv6Address, prefix_length: int) -> IPv4Address:
    """The IPv4 address after a prefix of *prefix_length* bits (RFC 6052, section 2.2)."""
    # Bits 64 to 71 are not used by any form.
    used = address.packed[:8] + address.packed[9:]
    start = prefix_length // 8 if prefix_length <= 64 else 11
    return IPv4Address(used[start : start + 4])


def literal_address(host: str) -> str | None:
    """The address that *host* is, in brackets or in an old spelling (`0x7f.1`); None for a name."""
    if ":" in host:
        return host.removeprefix("[").removesuffix("]")
    try:
        return socket.inet_ntoa(socket.inet_aton(host.removesuffix(".")))
    except (OSError, ValueError):
        return None
