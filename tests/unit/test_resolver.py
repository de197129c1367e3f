"""The resolver: its limits, and which addresses it returns."""

import asyncio
import os
import socket
import threading

import pytest

from service.delivery import resolver
from service.delivery.egress import AddressDenied, EgressPolicy
from service.delivery.resolver import (
    ADDRESSES_PER_FAMILY,
    LOOKUPS_PER_DOMAIN,
    Resolver,
    domain_of,
    look_up,
)
from service.development import DEV_NETWORKS

STRICT = EgressPolicy()
DEV = EgressPolicy(DEV_NETWORKS)
PUBLIC_IPV4 = "93.184.215.14"


def resolve(lookup):
    """Resolve one name under the strict policy, with *lookup* instead of that of the system."""

    async def resolved():
        names = Resolver(STRICT, concurrency=1, lookup=lookup)
        return [answer["host"] for answer in await names.resolve("example.com", 443)]

    return asyncio.run(resolved())


def test_denied_addresses_of_a_name_are_removed():
    """A name with a denied and a permitted address resolves to the permitted one."""
    assert [PUBLIC_IPV4] == resolve(lambda host: ["127.0.0.1", PUBLIC_IPV4])


def test_a_name_of_denied_addresses_is_denied():
    """A name with only denied addresses raises another error than an unknown name."""
    with pytest.raises(AddressDenied):
        resolve(lambda host: ["127.0.0.1", "::1"])


def test_a_name_without_addresses_is_an_error():
    """An empty answer counts as a failed lookup."""
    with pytest.raises(OSError, match="no address"):
        resolve(lambda host: [])


def test_the_number_of_addresses_is_limited():
    """A name with thousands of addresses resolves to the first few."""
    ipv4 = [f"1.1.{n // 256}.{n % 256}" for n in range(2000)]
    ipv6 = [f"2606::{n:x}" for n in range(2000)]

    chosen = resolve(lambda host: ipv6 + ipv4)

    assert ipv6[:ADDRESSES_PER_FAMILY] + ipv4[:ADDRESSES_PER_FAMILY] == chosen


def test_the_lookup_of_the_system_is_the_default():
    """Without *lookup*, names are resolved by the system."""

    async def resolved():
        return await Resolver(DEV, concurrency=1).resolve("localhost", 80)

    assert {"127.0.0.1", "::1"} >= {answer["host"] for answer in asyncio.run(resolved())}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The names that the system was asked for; the hosts file has two names."""
    asked = []

    def getaddrinfo(host, *_arguments, **_options):
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC_IPV4, 0))]

    file = tmp_path / "hosts"
    file.write_text(
        "# names\n127.0.0.1 localhost\n::1\tLocalHost ip6 # again\n10.0.0.7 db.example x\n\n"
    )
    monkeypatch.setattr(resolver, "HOSTS_FILE", file)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("host", ["receiver.example", "receiver.example.", "db"])
def test_names_are_complete(asked, host):
    """No domain of the system is appended to a name: it is looked up with a dot at its end."""
    assert [PUBLIC_IPV4] == look_up(host)
    assert [f"{host.rstrip('.')}."] == asked


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", ["127.0.0.1", "::1"]),
        ("LOCALHOST.", ["127.0.0.1", "::1"]),
        ("ip6", ["::1"]),
        ("db.example", ["10.0.0.7"]),
        ("0x7f.1", ["127.0.0.1"]),
    ],
)
def test_the_hosts_file_comes_first(asked, host, expected):
    """The DNS is not asked for names in the hosts file, nor for addresses in old spellings."""
    assert expected == look_up(host)
    assert [] == asked


def test_a_changed_hosts_file_is_read_again(asked, tmp_path):
    """A new name is found without a restart, and without the file there are no names."""
    assert ["10.0.0.7"] == look_up("x")
    (tmp_path / "hosts").write_text("10.0.0.8 x\n")
    os.utime(tmp_path / "hosts", ns=(1, 1))
    assert ["10.0.0.8"] == look_up("x")
    (tmp_path / "hosts").unlink()
    assert [PUBLIC_IPV4] == look_up("x")


class SlowNames:
    """A lookup whose slow names wait until `answered` is set; records the names."""

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
    """Concurrent requests for one name share one lookup, whatever their ports are."""
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
    """Hanging lookups delay neither other names nor the threads of the event loop."""
    names = SlowNames()

    async def resolved():
        resolver = Resolver(STRICT, concurrency=101, lookup=names)
        waiting = [asyncio.ensure_future(resolver.resolve(f"slow{n}")) for n in range(100)]
        answers = await resolver.resolve("quick")
        in_a_thread_of_the_loop = await asyncio.to_thread(lambda: "free")
        names.answered.set()
        await asyncio.gather(*waiting)
        return answers[0]["host"], in_a_thread_of_the_loop

    assert (PUBLIC_IPV4, "free") == asyncio.run(resolved())


def test_hanging_lookups_of_one_domain_delay_no_other_domain():
    """Many hanging names of one domain do not delay the lookups of another domain."""
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
    """A lookup that waited too long is never made."""
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
    """Names below one registered domain share its limit; names of other domains do not."""
    assert domain == domain_of(host)


def test_a_lookup_outlives_the_attempt_that_started_it():
    """If the attempt that started a lookup is cancelled, the other attempts get the answer."""
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
    """Closing cancels running lookups, and their late answers log no error."""
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
    """An error of the lookup is raised in the call of `resolve`."""

    def lookup(host):
        raise failure

    with pytest.raises(type(failure)):
        resolve(lookup)
