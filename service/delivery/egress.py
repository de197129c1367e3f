"""
Which addresses the service may connect to.

Keeps invariant 6: no connection is ever opened to an address that the policy denies, whatever
the name said a moment before. The socket factory alone keeps it, because it sees the numeric
address of every connection right before it is made: literals, names, and names whose answer
changed since. The resolver drops denied addresses too, but only so that a name of which every
address is denied can be told from one that is merely down.

The tables are written out because `ipaddress.is_global` is no policy: it says yes to multicast
and to IPv6 forms that carry a private IPv4 address, and it changes between Python releases.
"""

import asyncio
import errno
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from weakref import WeakValueDictionary

from aiohttp import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Lookup = Callable[[str], Sequence[str]]

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

# IPv6 is the other way round: whatever IANA has not given out as global unicast is denied.
# That covers loopback, mapped and translated IPv4, unique local, link-local and multicast.
PERMITTED_IPV6 = IPv6Network("2000::/3")  # RFC 4291: global unicast

DENIED_IPV6 = (
    IPv6Network("2001::/23"),  # RFC 2928: protocol assignments; RFC 4380: Teredo carries IPv4
    IPv6Network("2001:db8::/32"),  # RFC 3849: documentation
    IPv6Network("2002::/16"),  # RFC 3056: 6to4 carries any IPv4 address
    IPv6Network("2620:4f:8000::/48"),  # RFC 7534: AS112
    IPv6Network("3fff::/20"),  # RFC 9637: documentation
)

# Where clouds keep the credentials of the machine, and what else they tell it. An exception for a
# network around one of these does not mean it: it is permitted where it is named by itself alone.
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

# A flood of tiny responses stalls the loop for as long as it takes to parse what one read hands
# over, so little is buffered. Answers are small: nothing gets slower.
RECEIVE_BUFFER_BYTES = 32 * 1024

# One domain gets so many lookups at once. Its owner answers them, or lets them hang.
LOOKUPS_PER_DOMAIN = 16

# Below these, in the two-letter domains of countries, everybody can register a domain.
SHARED_LABELS = frozenset({"ac", "co", "com", "edu", "go", "gov", "ne", "net", "or", "org"})

# aiohttp tries n addresses in up to n²/2 connections. A name can have thousands.
ADDRESSES_PER_FAMILY = 4


class AddressDenied(OSError):
    """
    The policy denies this address.

    An OSError with an errno, and one text for every address: only then do aiohttp and its happy
    eyeballs hand it through when a name has several addresses.
    """

    def __init__(self, address: str) -> None:
        super().__init__(errno.EACCES, "the policy denies this address")
        self.address = address


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """
    The tables of this module, and networks in *allow* that are permitted in spite of them.

    A metadata address is permitted only by a network of *allow* that holds nothing else. An IPv4
    address in IPv6 clothes (`::ffff:10.0.0.1`) is denied whatever *allow* says: it is a second
    spelling of an address that has one already.
    """

    allow: tuple[Network, ...] = ()

    def permits(self, address: str) -> bool:
        """Tell whether a connection to the numeric *address* may be opened."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        if parsed in METADATA:
            return any(one.num_addresses == 1 and parsed in one for one in self.allow)
        if isinstance(parsed, IPv4Address):
            return not _is_in(parsed, DENIED_IPV4) or _is_in(parsed, self.allow)
        if parsed.scope_id is not None or parsed.ipv4_mapped is not None:
            return False
        is_global = parsed in PERMITTED_IPV6 and not _is_in(parsed, DENIED_IPV6)
        return is_global or _is_in(parsed, self.allow)

    def permits_host(self, host: str) -> bool:
        """
        Tell whether the *host* of a URL may be called, as far as that can be known without DNS.

        Returns:
            False only for a literal address that is denied, with or without brackets and in
            the old spellings too (`0x7f.1`). Names are judged when they are connected to.
        """
        literal = _literal(host)
        return literal is None or self.permits(literal)


def socket_factory(policy: EgressPolicy) -> Callable[[AddrInfoType], socket.socket]:
    """Make the function that opens every socket of a connector, and none that *policy* denies."""

    def open_socket(addr_info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = addr_info
        if not policy.permits(address[0]):
            raise AddressDenied(address[0])
        opened = socket.socket(family, kind, protocol)
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        return opened

    return open_socket


def domain_of(host: str) -> str:
    """
    The domain that the name *host* belongs to, as far as that can be told from the name.

    Lists of where domains can be registered have thousands of entries, and change. What is taken
    for one domain here although it is several shares `LOOKUPS_PER_DOMAIN`, and nothing worse.
    """
    labels = host.lower().rstrip(".").split(".")
    is_shared = len(labels[-1]) == 2 and labels[-2:-1] and labels[-2] in SHARED_LABELS
    return ".".join(labels[-3 if is_shared else -2 :])


def look_up(host: str) -> Sequence[str]:
    """Ask the system for the numeric addresses of *host*; blocks."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [str(sockaddr[0]) for *_, sockaddr in found]


class Resolver(AbstractResolver):
    """
    Looks names up in threads of their own, *concurrency* of them at most, one for each name.

    Of those, names of one domain get `LOOKUPS_PER_DOMAIN`, so that whoever owns a domain and lets
    its lookups hang holds up nobody else's. A name whose turn has not come after *patience_seconds*
    is given up: whoever asked for it is gone.

    The system's lookup cannot be cut short, and its time-out is not ours. So it never runs in
    the loop's own threads, where a few dead name servers would stop everything else; whoever
    asks for a name that is being looked up shares that lookup; and the threads are daemons, for
    those of a pool would keep the process from exiting until the last lookup has given up.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        concurrency: int,
        patience_seconds: float | None = None,
        lookup: Lookup = look_up,
    ) -> None:
        self._policy = policy
        self._lookup = lookup
        self._patience_seconds = patience_seconds
        self._slots = asyncio.Semaphore(concurrency)
        # A domain is forgotten with its last lookup.
        self._domains: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._running: dict[str, asyncio.Task[Sequence[str]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """
        Find the permitted addresses of *host*, a few of each family.

        Raises:
            AddressDenied: it has addresses, and every one of them is denied.
            OSError: it has none, or its turn to be looked up did not come in time.
        """
        running = self._running.get(host) or self._start(host)
        # Shielded: an attempt that gives up must not take the answer away from the others.
        found = await asyncio.shield(running)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in _first_of_each_family(self._permitted(host, found))
        ]

    async def close(self) -> None:
        """Forget the lookups under way; their threads end by themselves."""
        for running in self._running.values():
            running.cancel()

    def _start(self, host: str) -> asyncio.Task[Sequence[str]]:
        running = self._running[host] = asyncio.create_task(self._look_up(host))
        running.add_done_callback(lambda ended: self._end(host, ended))
        return running

    def _end(self, host: str, ended: asyncio.Task[Sequence[str]]) -> None:
        del self._running[host]
        if not ended.cancelled():
            ended.exception()  # Else asyncio complains when nobody waits any more.

    async def _look_up(self, host: str) -> Sequence[str]:
        async with self._turn(domain_of(host)):
            return await asyncio.wrap_future(_in_thread(self._lookup, host))

    @asynccontextmanager
    async def _turn(self, domain: str) -> AsyncIterator[None]:
        slots = self._domains.setdefault(domain, asyncio.Semaphore(LOOKUPS_PER_DOMAIN))
        async with AsyncExitStack() as held:
            async with asyncio.timeout(self._patience_seconds):
                # The domain's own first: whoever waits for that takes nothing from the others.
                await held.enter_async_context(slots)
                await held.enter_async_context(self._slots)
            yield

    def _permitted(self, host: str, found: Sequence[str]) -> Sequence[str]:
        if not found:
            raise OSError(errno.EADDRNOTAVAIL, "the name has no address")
        permitted = [address for address in found if self._policy.permits(address)]
        if not permitted:
            raise AddressDenied(host)
        return permitted


def _in_thread(lookup: Lookup, host: str) -> Future[Sequence[str]]:
    answer: Future[Sequence[str]] = Future()
    answer.set_running_or_notify_cancel()

    def run() -> None:
        try:
            answer.set_result(lookup(host))
        except BaseException as failure:  # noqa: BLE001 -- it is raised where the answer is awaited
            answer.set_exception(failure)

    threading.Thread(target=run, name=f"lookup {host}", daemon=True).start()
    return answer


def _first_of_each_family(addresses: Iterable[str]) -> list[str]:
    left = {True: ADDRESSES_PER_FAMILY, False: ADDRESSES_PER_FAMILY}
    chosen = []
    for address in dict.fromkeys(addresses):
        is_ipv6 = ":" in address
        if left[is_ipv6]:
            left[is_ipv6] -= 1
            chosen.append(address)
    return chosen


def _is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)


def _literal(host: str) -> str | None:
    if ":" in host:
        return host.removeprefix("[").removesuffix("]")
    try:
        return socket.inet_ntoa(socket.inet_aton(host.removesuffix(".")))
    except (OSError, ValueError):
        return None
