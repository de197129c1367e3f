"""The egress policy: which addresses are permitted; no socket is opened to others."""

import errno
import socket
from ipaddress import ip_network

import pytest

from service.delivery.egress import (
    DENIED_IPV4,
    DENIED_IPV6,
    METADATA,
    RECEIVE_BUFFER_BYTES,
    AddressDenied,
    EgressPolicy,
    socket_factory,
)
from service.development import DEV_NETWORKS

STRICT = EgressPolicy()
DEV = EgressPolicy(DEV_NETWORKS)
PUBLIC_IPV4, PUBLIC_IPV6 = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"


@pytest.mark.parametrize("network", DENIED_IPV4 + DENIED_IPV6, ids=str)
def test_denied_networks_are_denied_completely(network):
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
    """The addresses directly before and after a denied network are permitted."""
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
    """Every IPv6 address outside global unicast is denied, with IPv4 inside or without."""
    assert not STRICT.permits(address)


@pytest.mark.parametrize(
    "text",
    [
        *("", "localhost", "*", "0x7f.1", "127.1", "2130706433", "127.0.0.01", "1.2.3.4/32"),
        *("fe80::1%eth0", f"{PUBLIC_IPV6}%2", f"[{PUBLIC_IPV6}]", "1.2.3.4 ", "１.２.３.４", "\0"),
    ],
)
def test_other_spellings_of_an_address_are_denied(text):
    """Only the canonical spelling of an address can be permitted, without a zone."""
    assert not EgressPolicy((ip_network("0.0.0.0/0"), ip_network("::/0"))).permits(text)


def test_only_the_allowed_networks_are_permitted():
    """An exception of the operator permits the named network, and no other."""
    policy = EgressPolicy((ip_network("10.1.0.0/16"), ip_network("fd12::/32")))

    assert [True, True] == [policy.permits(address) for address in ("10.1.2.3", "fd12::1")]
    assert [False, False] == [policy.permits(address) for address in ("10.2.0.0", "fd13::1")]


@pytest.mark.parametrize("allowed", ["10.0.0.0/8", "::ffff:0:0/96", "::/0"])
def test_mapped_ipv4_is_denied_whatever_is_allowed(allowed):
    """An IPv4-mapped IPv6 address stays denied whatever exception is set."""
    assert not EgressPolicy((ip_network(allowed),)).permits("::ffff:10.0.0.1")


@pytest.mark.parametrize("address", METADATA, ids=str)
def test_metadata_is_permitted_only_by_its_own_address(address):
    """A metadata address is permitted only by an exception for exactly this address."""
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
    """Development mode permits private networks, and never link-local addresses."""
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
def test_only_literal_hosts_are_decided_without_lookup(host, is_permitted):
    """A denied literal host is refused at once; names are checked at the connection."""
    assert is_permitted == STRICT.permits_host(host)


def addr_info(address):
    """The argument of the socket factory for *address*."""
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 80))


def test_no_socket_is_opened_for_a_denied_address():
    """A denied address raises an OSError with an errno and the same text for all addresses."""
    refusals = []
    for address in ("127.0.0.1", "10.0.0.1"):
        with pytest.raises(AddressDenied) as refusal:
            socket_factory(STRICT)(addr_info(address))
        refusals.append(refusal.value)

    assert [errno.EACCES, errno.EACCES] == [refusal.errno for refusal in refusals]
    assert str(refusals[0]) == str(refusals[1])
    assert ["127.0.0.1", "10.0.0.1"] == [refusal.address for refusal in refusals]


def test_sockets_do_not_block_and_buffer_little():
    """The socket for a permitted address is non-blocking and has a small buffer."""
    with socket_factory(DEV)(addr_info("127.0.0.1")) as opened:
        # Linux doubles the size that is set.
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 2 * RECEIVE_BUFFER_BYTES
        assert not opened.getblocking()
