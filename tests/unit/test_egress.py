import asyncio
import errno
import socket
import threading
from ipaddress import ip_network

import pytest

from service.delivery.egress import (
    ADDRESSES_PER_FAMILY,
    DENIED_IPV4,
    DENIED_IPV6,
    LOOKUPS_PER_DOMAIN,
    METADATA,
    RECEIVE_BUFFER_BYTES,
    AddressDenied,
    EgressPolicy,
    Resolver,
    domain_of,
    socket_factory,
)
from service.development import DEV_NETWORKS

STRICT = EgressPolicy()
DEV = EgressPolicy(DEV_NETWORKS)
PUBLIC_IPV4, PUBLIC_IPV6 = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"


@pytest.mark.parametrize("network", DENIED_IPV4 + DENIED_IPV6, ids=str)
def test_denied_networks_are_denied_from_end_to_end(network):
    """The first and the last address of every network in the tables are denied."""
    assert [False, False] == [STRICT.permits(str(network[end])) for end in (0, -1)]


@pytest.mark.parametrize(
    "address",
    [
        *("1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"),
        *("126.255.255.255", "128.0.0.0", "168.63.129.15", "168.63.129.17"),
        *("169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0"),
        *("192.0.1.0", "192.0.3.0", "192.167.255.255", "192.169.0.0"),
        *("198.17.255.255", "198.20.0.0", "223.255.255.255", PUBLIC_IPV4),
        *("2000::", "2001:200::", "2001:db7:ffff::", "2001:db9::", "2003::"),
        *("2620:4f:8001::", "3ffe:ffff::", "3fff:1000::", PUBLIC_IPV6),
    ],
)
def test_neighbours_of_denied_networks_are_permitted(address):
    """The tables deny what they name and nothing beside it."""
    assert STRICT.permits(address)


@pytest.mark.parametrize(
    "address",
    [
        *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:93.184.215.14"),
        *("64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "1fff::1", "4000::1", "5f00::1"),
        *("fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1"),
        *("2001::1", "2002:7f00:1::1"),
    ],
)
def test_ipv6_outside_global_unicast_is_denied(address):
    """Every IPv6 address that is not plainly global is denied, however it carries IPv4."""
    assert not STRICT.permits(address)


@pytest.mark.parametrize(
    "text",
    [
        *("", "localhost", "*", "0x7f.1", "127.1", "2130706433", "127.0.0.01", "1.2.3.4/32"),
        *("fe80::1%eth0", f"{PUBLIC_IPV6}%2", f"[{PUBLIC_IPV6}]", "1.2.3.4 ", "１.２.３.４", "\0"),
    ],
)
def test_what_is_not_a_plain_numeric_address_is_denied(text):
    """Only the one canonical spelling of an address can be permitted, and no zones."""
    assert not EgressPolicy((ip_network("0.0.0.0/0"), ip_network("::/0"))).permits(text)


def test_allowed_networks_are_permitted_and_no_others():
    """An operator's exception opens the network it names and nothing beside it."""
    policy = EgressPolicy((ip_network("10.1.0.0/16"), ip_network("fd12::/32")))

    assert [True, True] == [policy.permits(address) for address in ("10.1.2.3", "fd12::1")]
    assert [False, False] == [policy.permits(address) for address in ("10.2.0.0", "fd13::1")]


@pytest.mark.parametrize("allowed", ["10.0.0.0/8", "::ffff:0:0/96", "::/0"])
def test_mapped_ipv4_is_denied_whatever_is_allowed(allowed):
    """IPv4 in IPv6 clothes has another spelling that can be allowed; this one cannot."""
    assert not EgressPolicy((ip_network(allowed),)).permits("::ffff:10.0.0.1")


@pytest.mark.parametrize("address", METADATA, ids=str)
def test_metadata_is_permitted_by_its_own_name_alone(address):
    """No network opens the way to a machine's credentials but one that holds nothing else."""
    around = [ip_network((address, length), strict=False) for length in (0, 8, 24, 31)]
    alone = ip_network(address)

    assert [False] * 4 == [EgressPolicy((one,)).permits(str(address)) for one in around]
    assert not EgressPolicy((*around, *DEV_NETWORKS)).permits(str(address))
    assert EgressPolicy((*around, alone)).permits(str(address))


@pytest.mark.parametrize(
    ("address", "is_permitted"),
    [
        *((address, True) for address in ("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.0.1")),
        *((address, True) for address in ("::1", "fd00::1", PUBLIC_IPV4, PUBLIC_IPV6)),
        *((address, False) for address in ("169.254.169.254", "0.0.0.0", "fe80::1", "100.64.0.1")),
    ],
)
def test_development_reaches_private_networks_but_not_link_local(address, is_permitted):
    """The development mode reaches its neighbours, and never the machine's credentials."""
    assert is_permitted == DEV.permits(address)


@pytest.mark.parametrize(
    ("host", "is_permitted"),
    [
        *((host, True) for host in ("example.com", "localhost", "internal", "a.127.0.0.1.nip.io")),
        *((host, True) for host in (PUBLIC_IPV4, f"[{PUBLIC_IPV6}]", "0x8.8.8.8", "face.b00c")),
        *((host, False) for host in ("127.0.0.1", "127.0.0.1.", "0x7f.1", "2130706433", "0177.1")),
        *((host, False) for host in ("127.1", "0", "[::1]", "::1", "[::ffff:7f00:1]", "[v1.a:b]")),
        ("[fe80::1%25eth0]", False),
    ],
)
def test_only_literal_hosts_are_judged_without_lookup(host, is_permitted):
    """A denied literal is refused in every spelling; names are left for the connection."""
    assert is_permitted == STRICT.permits_host(host)


def addr_info(address):
    """What a connector tells its socket factory about *address*."""
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 80))


def test_no_socket_is_opened_for_a_denied_address():
    """The refusal is an OSError with an errno, and its text is the same for all addresses."""
    refusals = []
    for address in ("127.0.0.1", "10.0.0.1"):
        with pytest.raises(AddressDenied) as refusal:
            socket_factory(STRICT)(addr_info(address))
        refusals.append(refusal.value)

    assert [errno.EACCES, errno.EACCES] == [refusal.errno for refusal in refusals]
    assert str(refusals[0]) == str(refusals[1])
    assert ["127.0.0.1", "10.0.0.1"] == [refusal.address for refusal in refusals]


def test_sockets_do_not_block_and_buffer_little():
    """A permitted address gets a socket that never blocks the loop and takes in little."""
    with socket_factory(DEV)(addr_info("127.0.0.1")) as opened:
        # Linux doubles what it is told.
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 2 * RECEIVE_BUFFER_BYTES
        assert not opened.getblocking()


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
    """A name with denied addresses only is told apart from one that is not found."""
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


def test_the_system_is_asked_by_default():
    """Without another lookup, names are found as the system finds them."""

    async def resolved():
        return await Resolver(DEV, concurrency=1).resolve("localhost", 80)

    assert {"127.0.0.1", "::1"} >= {answer["host"] for answer in asyncio.run(resolved())}


class SlowNames:
    """Answers when told to; counts how often each name was asked for."""

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


def test_one_lookup_serves_all_who_wait_for_the_name():
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


def test_hanging_lookups_leave_the_others_and_the_loop_alone():
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


def test_hanging_lookups_of_one_domain_leave_the_others_alone():
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


def test_a_lookup_whose_turn_does_not_come_is_never_made():
    """Who asked is gone by then: what waits behind a dead name server does not pile up."""
    names = SlowNames()

    async def resolved():
        resolver = Resolver(STRICT, concurrency=1, patience_seconds=0.05, lookup=names)
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
    """Names of one owner are counted together, and those of two are not, as far as names tell."""
    assert domain == domain_of(host)


def test_one_who_gives_up_leaves_the_lookup_to_the_others():
    """A lookup outlives the attempt that started it, for those who wait for the same name."""
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


def test_lookups_under_way_do_not_hold_up_the_end():
    """Closing forgets the lookups under way, and nothing complains about their late answers."""
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
