"""IPv4 addresses inside IPv6 addresses, in networks with DNS64 and NAT64."""

from ipaddress import IPv4Address, IPv6Network, ip_address, ip_network

import pytest

from service.delivery.egress import DENIED_IPV4, METADATA, EgressPolicy
from service.development import DEV_NETWORKS

STRICT = EgressPolicy()
PUBLIC = IPv4Address("162.159.138.232")
OWN_PREFIX = IPv6Network("2a00:1098:2b::/96")


def translated(address, prefix="64:ff9b::"):
    """*address* behind a prefix of 96 bits."""
    return str(ip_address(int(ip_address(prefix)) + int(address)))


def test_a_translated_public_address_is_permitted():
    """A public IPv4 address in the prefix of DNS64 is permitted."""
    assert "64:ff9b::a29f:8ae8" == translated(PUBLIC)
    assert STRICT.permits("64:ff9b::a29f:8ae8")
    assert STRICT.permits_host("[64:ff9b::a29f:8ae8]")


@pytest.mark.parametrize("network", DENIED_IPV4, ids=str)
def test_every_denied_ipv4_address_is_denied_when_translated(network):
    """A denied IPv4 address stays denied inside an IPv6 address."""
    assert [False, False] == [STRICT.permits(translated(network[end])) for end in (0, -1)]


@pytest.mark.parametrize("address", [one for one in METADATA if one.version == 4], ids=str)
@pytest.mark.parametrize("allowed", ["64:ff9b::/96", "::/0"])
def test_metadata_is_denied_when_translated(address, allowed):
    """An exception for the whole prefix does not permit a metadata address in it."""
    policy = EgressPolicy((ip_network(allowed), ip_network(address), *DEV_NETWORKS))

    assert not policy.permits(translated(address))
    assert EgressPolicy((ip_network(translated(address)),)).permits(translated(address))


def test_an_exception_for_ipv4_does_not_permit_its_translation():
    """An exception for an IPv4 network does not permit its addresses inside IPv6."""
    assert not EgressPolicy(DEV_NETWORKS).permits(translated(IPv4Address("10.0.0.1")))
    assert EgressPolicy((ip_network("64:ff9b::a00:0/104"),)).permits("64:ff9b::a00:1")


@pytest.mark.parametrize(
    "address",
    [
        *("64:ff9b:1::a29f:8ae8", "64:ff9b::1:a29f:8ae8", "::ffff:162.159.138.232"),
        *("::ffff:0:162.159.138.232", "64:ff9b::a29f:8ae8%eth0", "2001:db8:64::a29f:8ae8"),
    ],
)
def test_other_translations_stay_denied(address):
    """Other prefixes are denied unless the operator sets them."""
    assert not STRICT.permits(address)


@pytest.mark.parametrize(
    ("prefix", "public", "private"),
    [  # RFC 6052, section 2.4, with other addresses
        ("2001:db8::/32", "2001:db8:a29f:8ae8::", "2001:db8:a00:1::"),
        ("2001:db8:100::/40", "2001:db8:1a2:9f8a:e8::", "2001:db8:10a:0:1::"),
        ("2001:db8:122::/48", "2001:db8:122:a29f:8a:e800::", "2001:db8:122:a00:0:100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3a2:9f:8ae8::", "2001:db8:122:30a:0:1::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:a2:9f8a:e800::", "2001:db8:122:344:a:0:100::"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::a29f:8ae8", "2001:db8:122:344::a00:1"),
    ],
)
def test_prefixes_of_every_length_are_translated(prefix, public, private):
    """An address in a configured prefix is checked by its IPv4 address, for every prefix length."""
    policy = EgressPolicy(nat64_prefixes=(IPv6Network(prefix),))

    assert [True, False] == [policy.permits(public), policy.permits(private)]


def test_a_global_prefix_reaches_no_private_address():
    """An address in a configured global prefix is checked by its IPv4 address."""
    private = translated(IPv4Address("10.0.0.1"), "2a00:1098:2b::")
    policy = EgressPolicy(nat64_prefixes=(OWN_PREFIX,))

    assert not policy.permits(private)
    assert policy.permits(translated(PUBLIC, "2a00:1098:2b::"))
