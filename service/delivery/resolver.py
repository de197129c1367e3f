"""
Name lookups: limited for each domain, and filtered by the egress policy.

A lookup of the system cannot be cancelled and has its own timeout. Each one runs in a daemon
thread, so that the process can exit before the lookup has ended.
"""

import asyncio
import errno
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager
from functools import lru_cache
from pathlib import Path
from weakref import WeakValueDictionary

from aiohttp.abc import AbstractResolver, ResolveResult

from service.delivery.egress import AddressDenied, EgressPolicy, literal_address
from service.telemetry.descriptors import RUN_OUT

Lookup = Callable[[str], Sequence[str]]
"""Finds the numeric addresses of a name; blocks."""

LOOKUPS_PER_DOMAIN = 16
"""Lookups of one domain at once: the owner of a domain can let all of its lookups hang."""

SHARED_LABELS = frozenset({"ac", "co", "com", "edu", "go", "gov", "ne", "net", "or", "org"})
"""Second labels of the two-letter domains of countries below which anyone can register a domain."""

ADDRESSES_PER_FAMILY = 4
"""aiohttp tries n addresses in up to n²/2 connections, and a name can have thousands."""


def domain_of(host: str) -> str:
    """
    The domain that the name *host* belongs to, as far as the name alone shows it.

    It does not use the list of public suffixes, which has thousands of entries and changes. If it
    takes several domains for one, they share `LOOKUPS_PER_DOMAIN`.
    """
    labels = host.lower().rstrip(".").split(".")
    is_shared = len(labels[-1]) == 2 and labels[-2:-1] and labels[-2] in SHARED_LABELS
    return ".".join(labels[-3 if is_shared else -2 :])


HOSTS_FILE = Path("/etc/hosts")
"""Names of this machine; here, because the system would also search for them below its domains."""


def look_up(host: str) -> Sequence[str]:
    """
    The numeric addresses of *host*; blocks.

    The name is looked up as it is written, in the hosts file and then in the DNS. The domains that
    the system appends to names (`search` in resolv.conf) are not used: `db` would be a name of
    our network, and so would be `db.example` where it is not one of the internet.
    """
    literal = literal_address(host)
    if literal is not None:
        return [literal]
    name = host.rstrip(".")
    if listed := _listed_names(HOSTS_FILE).get(name.lower()):
        return listed
    try:
        # With the dot, a name is complete.
        found = socket.getaddrinfo(
            f"{name}.", None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
    except socket.gaierror:
        # Without descriptors a lookup fails as that of an unknown name. Then this fails as well.
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
        raise
    return [str(sockaddr[0]) for *_, sockaddr in found]


def _listed_names(file: Path) -> Mapping[str, Sequence[str]]:
    try:
        return _read_names(file, file.stat().st_mtime_ns)
    except OSError as error:
        if error.errno in RUN_OUT:
            raise
        return {}


@lru_cache(maxsize=1)
def _read_names(file: Path, _changed_at: int) -> Mapping[str, Sequence[str]]:
    """The addresses of each name in a hosts *file*, in its order."""
    found: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        for name in names:
            found.setdefault(name.lower().rstrip("."), []).append(address)
    return found


class Resolver(AbstractResolver):
    """
    Resolves names in at most *concurrency* threads of its own, one for each name.

    Names of one domain get `LOOKUPS_PER_DOMAIN` of them, so that a domain whose lookups hang
    does not delay others. A lookup that has not started after *queue_seconds* is given up: the
    attempt that needed it has timed out.

    Concurrent requests for one name share its lookup. The threads are daemons and not those of
    the event loop: a few name servers that do not answer would occupy all threads of its pool, and
    the process could not exit before the last lookup has ended.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        concurrency: int,
        queue_seconds: float | None = None,
        lookup: Lookup = look_up,
    ) -> None:
        self._policy = policy
        self._lookup = lookup
        self._queue_seconds = queue_seconds
        self._slots = asyncio.Semaphore(concurrency)
        # A domain is forgotten with its last lookup.
        self._domains: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._running: dict[str, asyncio.Task[Sequence[str]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """
        The permitted addresses of *host*, at most `ADDRESSES_PER_FAMILY` of each family.

        Raises:
            AddressDenied: all of its addresses are denied.
            OSError: it has none, or its lookup did not start in time.
        """
        running = self._running.get(host) or self._start(host)
        # Shielded: other attempts may wait for the same lookup.
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
        """Cancel the lookups that run; their threads end by themselves."""
        for running in self._running.values():
            running.cancel()

    def _start(self, host: str) -> asyncio.Task[Sequence[str]]:
        running = self._running[host] = asyncio.create_task(self._look_up(host))
        running.add_done_callback(lambda ended: self._end(host, ended))
        return running

    def _end(self, host: str, ended: asyncio.Task[Sequence[str]]) -> None:
        del self._running[host]
        if not ended.cancelled():
            # Without this, asyncio logs the exception if no attempt waits for it any more.
            ended.exception()

    async def _look_up(self, host: str) -> Sequence[str]:
        async with self._lookup_slot(domain_of(host)):
            return await asyncio.wrap_future(_in_thread(self._lookup, host))

    @asynccontextmanager
    async def _lookup_slot(self, domain: str) -> AsyncIterator[None]:
        slots = self._domains.setdefault(domain, asyncio.Semaphore(LOOKUPS_PER_DOMAIN))
        async with AsyncExitStack() as held:
            async with asyncio.timeout(self._queue_seconds):
                # The slot of the domain first: waiting for it occupies no slot of other domains.
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
