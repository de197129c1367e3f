"""The resolver: its limits, and which of the addresses that it finds are used."""

import asyncio
import socket
import threading

import pytest

from service.delivery.egress import AddressDenied, EgressPolicy
from service.delivery.resolver import (
    ADDRESSES_PER_FAMILY,
    LOOKUPS_PER_DOMAIN,
    Resolver,
    domain_of,
)
from service.development import DEV_NETWORKS

STRICT = EgressPolicy()
DEV = EgressPolicy(DEV_NETWORKS)
PUBLIC_IPV4 = "93.184.215.14"


def resolve(lookup):
    """Resolve one name under the strict policy, with *lookup* for the system's."""

    async def resolved():
        resolver = Resolver(STRICT, concurrency=1, lookup=lookup)
        return [answer["host"] for answer in await resolver.resolve("example.com", 443)]

    return asyncio.run(resolved())


def test_denied_addresses_of_a_name_are_left_out():
    """A name with one denied address is called at the other one."""
    assert [PUBLIC_IPV4] == resolve(lambda host: ["127.0.0.1", PUBLIC_IPV4])


def test_a_name_of_denied_addresses_is_denied():
    """A name with denied addresses only is distinguished from one that is not found."""
    with pytest.raises(AddressDenied):
        resolve(lambda host: ["127.0.0.1", "::1"])


def test_a_name_without_addresses_is_an_error():
    """An empty answer ends as a failed lookup."""
    with pytest.raises(OSError, match="no address"):
        resolve(lambda host: [])


def test_of_many_addresses_only_a_few_are_tried():
    """A name with thousands of addresses does not make thousands of connections."""
    ipv4 = [f"1.1.{n // 256}.{n % 256}" for n in range(2000)]
    ipv6 = [f"2606::{n:x}" for n in range(2000)]

    chosen = resolve(lambda host: ipv6 + ipv4)

    assert ipv6[:ADDRESSES_PER_FAMILY] + ipv4[:ADDRESSES_PER_FAMILY] == chosen


def test_the_lookup_of_the_system_is_the_default():
    """Without another lookup, names are found as the system finds them."""

    async def resolved():
        return await Resolver(DEV, concurrency=1).resolve("localhost", 80)

    assert {"127.0.0.1", "::1"} >= {answer["host"] for answer in asyncio.run(resolved())}


class SlowNames:
    """Answers when `answered` is set; counts how often each name was asked for."""

    def __init__(self):
        self.asked = []
        self.started = threading.Event()
        self.answered = threading.Event()

    def __call__(self, host):
        self.asked.append(host)
        self.started.set()
        if host.startswith("slow"):
            self.answered.wait(10)
        return [PUBLIC_IPV4]


def test_concurrent_requests_for_a_name_share_one_lookup():
    """However many connections need a name, on whatever port, it is looked up once at a time."""
    names = SlowNames()

    async def resolved():
        resolver = Resolver(STRICT, concurrency=2, lookup=names)
        waiting = [asyncio.ensure_future(resolver.resolve("slow", port)) for port in range(9)]
        await resolver.resolve("quick")
        names.answered.set()
        return [answers[0]["port"] for answers in await asyncio.gather(*waiting)]

    assert list(range(9)) == asyncio.run(resolved())
    assert ["quick", "slow"] == sorted(names.asked)


def test_hanging_lookups_delay_neither_others_nor_the_loop():
    """Dead names delay neither other names nor anything that uses the loop's own threads."""
    names = SlowNames()

    async def resolved():
        resolver = Resolver(STRICT, concurrency=101, lookup=names)
        waiting = [asyncio.ensure_future(resolver.resolve(f"slow{n}")) for n in range(100)]
        answers = await resolver.resolve("quick")
        in_the_loops_threads = await asyncio.to_thread(lambda: "free")
        names.answered.set()
        await asyncio.gather(*waiting)
        return answers[0]["host"], in_the_loops_threads

    assert (PUBLIC_IPV4, "free") == asyncio.run(resolved())


def test_hanging_lookups_of_one_domain_delay_no_other_domain():
    """However many names the owner of one domain lets hang, other domains are looked up."""
    names = SlowNames()

    async def resolved():
        resolver = Resolver(STRICT, concurrency=LOOKUPS_PER_DOMAIN + 1, lookup=names)
        hanging = [f"slow{n}.hostile.example" for n in range(10 * LOOKUPS_PER_DOMAIN)]
        waiting = [asyncio.ensure_future(resolver.resolve(name)) for name in hanging]
        async with asyncio.timeout(10):
            answers = await resolver.resolve("quick.example")
        asked = len(names.asked)
        names.answered.set()
        await asyncio.gather(*waiting)
        return answers[0]["host"], asked

    assert (PUBLIC_IPV4, LOOKUPS_PER_DOMAIN + 1) == asyncio.run(resolved())
    assert 10 * LOOKUPS_PER_DOMAIN + 1 == len(names.asked)


def test_a_lookup_that_waited_too_long_is_never_made():
    """Its attempt has timed out: lookups do not pile up behind a dead name server."""
    names = SlowNames()

    async def resolved():
        resolver = Resolver(STRICT, concurrency=1, queue_seconds=0.05, lookup=names)
        begun = asyncio.ensure_future(resolver.resolve("slow.hostile.example"))
        await asyncio.to_thread(names.started.wait, 10)
        with pytest.raises(TimeoutError):
            await resolver.resolve("later.example")
        names.answered.set()
        await begun
        return (await resolver.resolve("quick.example"))[0]["host"]

    assert PUBLIC_IPV4 == asyncio.run(resolved())
    assert ["slow.hostile.example", "quick.example"] == names.asked


@pytest.mark.parametrize(
    ("domain", "host"),
    [
        ("example.com", "example.com"),
        ("example.com", "a.b.c.example.com"),
        ("example.com", "A.Example.COM."),
        ("example.co.uk", "a.example.co.uk"),
        ("example.com.au", "b.a.example.com.au"),
        ("co.uk", "co.uk"),
        ("abc.io", "a.b.abc.io"),
        ("co.com", "a.co.com"),
        ("localhost", "localhost"),
        ("", "."),
    ],
)
def test_names_belong_to_the_domain_that_was_registered(domain, host):
    """Names of one owner are counted together, those of two are not, as far as names show it."""
    assert domain == domain_of(host)


def test_a_lookup_outlives_the_attempt_that_started_it():
    """The other attempts that wait for the same name get its answer."""
    names = SlowNames()

    async def resolved():
        resolver = Resolver(STRICT, concurrency=1, lookup=names)
        first = asyncio.ensure_future(resolver.resolve("slow"))
        second = asyncio.ensure_future(resolver.resolve("slow"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(first, 0.01)
        names.answered.set()
        return (await second)[0]["host"]

    assert PUBLIC_IPV4 == asyncio.run(resolved())
    assert ["slow"] == names.asked


def test_running_lookups_do_not_delay_the_exit():
    """Closing cancels the lookups that run, and their late answers log no error."""
    names = SlowNames()

    async def closed():
        resolver = Resolver(STRICT, concurrency=1, lookup=names)
        waiting = asyncio.ensure_future(resolver.resolve("slow"))
        await asyncio.to_thread(names.started.wait, 10)
        await resolver.close()
        await asyncio.wait([waiting])
        return waiting.cancelled()

    assert asyncio.run(closed())
    late = [thread for thread in threading.enumerate() if thread.name == "lookup slow"]
    names.answered.set()
    for thread in late:
        thread.join()
        assert thread.daemon


@pytest.mark.parametrize("failure", [socket.gaierror(-2, "unknown"), UnicodeError("label")])
def test_a_failed_lookup_fails_for_its_caller(failure):
    """What the lookup raises is raised where the name was needed."""

    def lookup(host):
        raise failure

    with pytest.raises(type(failure)):
        resolve(lookup)
