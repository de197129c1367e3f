"""Which addresses a callback URL can reach, at its acceptance and at the connection."""

from __future__ import annotations

import asyncio
import errno
import socket
from ipaddress import ip_network

import pytest

from service.callbacks.url import parse_url
from service.delivery.connection import verified_tls
from service.delivery.egress import EgressPolicy
from service.delivery.sender import OutgoingRequest, Sender
from service.development import DEV_NETWORKS
from service.domain.outcomes import AttemptOutcome

STRICT = EgressPolicy()
DEV = EgressPolicy(DEV_NETWORKS)

# Written out and not computed from the policy, so that the test is independent of it.
PUBLIC = (
    *("1.1.1.1", "8.8.8.8", "93.184.215.14", "11.0.0.1", "100.128.0.1", "126.255.255.255"),
    *("128.0.0.1", "168.63.129.17", "169.253.255.255", "172.32.0.1", "172.15.255.255"),
    *("192.0.1.1", "192.169.0.1", "198.20.0.1", "203.0.114.1", "223.255.255.254", "9.9.9.9"),
)
PUBLIC_IPV6 = (
    *("2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450:4001:80b::200e", "2400:cb00::1"),
    *("2001:200::1", "2003::1", "2600::1", "3ffe::1", "2c0f:fb50:4003::"),
)
PRIVATE = (
    *("127.0.0.1", "127.0.0.2", "127.255.255.254", "127.1.2.3", "10.0.0.1", "10.255.255.255"),
    *("172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.254"),
)
PRIVATE_IPV6 = ("::1", "fc00::1", "fd00::1", "fdff:ffff::1", "fd12:3456:789a::1", "fd00:ec2::1")
METADATA = (
    *("169.254.169.254", "169.254.170.2", "169.254.170.23", "168.63.129.16", "100.100.100.200"),
    "192.0.0.192",
)
METADATA_IPV6 = (
    *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42"),
    *("fd00:0ec2:0:0:0:0:0:254", "FD00:EC2::254", "fd00:ec2:0::0:254", "fd00:ec2::0.0.2.84"),
)
SPECIAL = (
    *("0.0.0.0", "0.0.0.1", "0.255.255.255", "100.64.0.1", "100.127.255.255", "169.254.0.1"),
    *("169.254.255.255", "192.0.0.1", "192.0.0.170", "192.0.2.1", "192.31.196.1", "192.52.193.1"),
    *("192.88.99.1", "192.175.48.1", "198.18.0.1", "198.19.255.255", "198.51.100.1"),
    *("203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
)
SPECIAL_IPV6 = (
    *("::", "0:0:0:0:0:0:0:0", "::7f00:1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1"),
    *("::ffff:10.0.0.1", "::ffff:169.254.169.254", "::FFFF:a9fe:a9fe", "::ffff:0:127.0.0.1"),
    *("::ffff:8.8.8.8", "0:0:0:0:0:ffff:127.0.0.1", "0000:0000:0000:0000:0000:ffff:7f00:0001"),
    *("64:ff9b::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1"),
    *("64:ff9b:1::8.8.8.8", "2002:7f00:1::", "2002:7f00:0001::1", "2002:a9fe:a9fe::1"),
    *("2002:808:808::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1"),
    *("2001:20::1", "2001:2::1", "2001:db8::1", "3fff::1", "5f00::1", "100::1", "100:0:0:1::1"),
    *("fe80::1", "fe80::a9fe:a9fe", "febf::1", "fec0::1", "ff01::1", "ff02::1", "ff05::1:3"),
    *("ff0e::1", "4000::1", "1fff::1", "e000::1", "2620:4f:8000::1", "::2"),
)

# Spellings that resolvers and browsers read as 127.0.0.1 or 169.254.169.254.
ODD_SPELLINGS = (
    *("127.1", "127.0.1", "127.0.0.01", "127.0.0.0x1", "0177.0.0.1", "0177.0.0.01", "0177.1"),
    *("017700000001", "00000177.0.0.1", "0x7f.0.0.1", "0x7f.1", "0x7f000001", "0X7F000001"),
    *("0x7f.0x0.0x0.0x1", "2130706433", "02130706433", "4294967295", "4294967296", "0", "00"),
    *("0x0", "1", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "0xa9.0xfe.0xa9.0xfe"),
    *("169.254.43518", "169.16689662", "025177524776", "169.254.169.0376", "0xa9.254.169.254"),
    *("127.0.0.1.", "169.254.169.254.", "127.1.", "0x7f.1.", "2130706433.", "127.0.0.1.."),
    *("127.0.0.256", "256.0.0.1", "127.0.0.1.1", "1.2.3", "127.0.0", "127..0.1", ".127.0.0.1"),
    *("127.0.0.1%00", "127.0.0.1%2e", "127%2e0%2e0%2e1", "127.0.0.1%0a", "%31%32%37.0.0.1"),
    *("１２７.０.０.１", "①②⑦.⓪.⓪.①", "127。0。0。1", "127．0．0．1", "𝟙𝟚𝟟.0.0.1", "١٢٧.0.0.1"),
    *("127.0.0.1\t", "127.0.0.1\n", "127.0.0.1\r\nX: y", " 127.0.0.1", "127.0.0.1 ", "127\0.0.0.1"),
    *("[127.0.0.1]", "[::1", "::1]", "[::1]]", "[[::1]]", "[]", "[:]", "[:::1]", "[::1%lo]"),
    *("[::1%25lo]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[fe80::1%252]", "[::ffff:127.0.0.1%1]"),
    *("[1::2::3]", "[12345::1]", "[::127.1]", "[::0x7f.1]", "[v1.a:b]", "[v6.::1]", "[::1]x"),
    *("*", "-", "-a.example", "a-.example", "a..example", "a,b", "a;b", "a'b", "a(b)", "a!b", "~a"),
    *(
        "lо\u0441alhost",
        "ｌocalhost",
        "lo\u00adcalhost",
        "loc\u200balhost",
        "localhost\u3002",
        "ⓛocalhost",
    ),
    *("bücher.example", "faß.example", "\u0430pple.example", "goo\u0261le.example", "❤.example"),
)

# URLs whose host a reader or a simple parser misreads.
CONFUSING_URLS = (
    *("http://8.8.8.8@127.0.0.1/", "http://127.0.0.1@8.8.8.8/", "http://a:b@127.0.0.1/"),
    *("http://@127.0.0.1/", "http://8.8.8.8:80@127.0.0.1:81/", "http://8.8.8.8%40127.0.0.1/"),
    *("http://8.8.8.8#@127.0.0.1/", "http://127.0.0.1#.example/", "http://8.8.8.8\\@127.0.0.1/"),
    *("http://127.0.0.1\\.example/", "http:\\\\127.0.0.1/", "http:/127.0.0.1/", "http:127.0.0.1/"),
    *("http:///127.0.0.1/", "http:////127.0.0.1/", "//127.0.0.1/", "127.0.0.1/", "/127.0.0.1"),
    *("http://127.0.0.1:80:80/", "http://127.0.0.1:/", "http://127.0.0.1:0/", "http://8.8.8.8:0/"),
    *("http://8.8.8.8:65536/", "http://8.8.8.8:-1/", "http://8.8.8.8:８０/", "http://8.8.8.8:80 /"),
    *("http://8.8.8.8:0x50/", "http://8.8.8.8:99999999999/", "http://8.8.8.8: 80/", "http://:80/"),
    *("http://?127.0.0.1", "http://#127.0.0.1", "http://", "http:", "http", "", " ", "\0"),
    *("ftp://8.8.8.8/", "file:///etc/passwd", "gopher://127.0.0.1:6379/_x", "dict://127.0.0.1/"),
    *(
        "ws://8.8.8.8/",
        "unix:///run/docker.sock",
        "http+unix://%2frun%2fdocker.sock/",
        "tcp://1.1.1.1/",
    ),
    *("javascript:alert(1)", "data:text/plain,x", "jar:http://8.8.8.8!/", "ldap://127.0.0.1/"),
    *("HTTP ://8.8.8.8/", "http ://8.8.8.8/", "\nhttp://8.8.8.8/", "http://8.8.8.8/\r\nX: y"),
    *("http://8.8.8.8/ HTTP/1.1", "http://8.8.8.8/é", "http://8.8.8.8/%zz", "http://8.8.8.8/%"),
    *("http://[::1]:80:81/", "http://[::1]80/", "http://::1/", "http://2606:4700::1/"),
)

# Names, the addresses that they resolve to, and those that each policy permits.
NAMES = (
    (["127.0.0.1"], [], ["127.0.0.1"]),
    (["10.0.0.1"], [], ["10.0.0.1"]),
    (["::1"], [], ["::1"]),
    (["169.254.169.254"], [], []),
    (["fd00:ec2::254"], [], []),
    (["fd20:ce::254"], [], []),
    (["168.63.129.16"], [], []),
    (["100.100.100.200"], [], []),
    (["0.0.0.0"], [], []),
    (["255.255.255.255"], [], []),
    (["::ffff:127.0.0.1"], [], []),
    (["fe80::1%eth0"], [], []),
    (["64:ff9b::7f00:1"], [], []),
    (["2002:7f00:1::"], [], []),
    (["127.1"], [], []),
    (["0x7f.1"], [], []),
    (["localhost"], [], []),
    ([""], [], []),
    (["1.1.1.1"], ["1.1.1.1"], ["1.1.1.1"]),
    (["2600::1"], ["2600::1"], ["2600::1"]),
    (["127.0.0.1", "1.1.1.1"], ["1.1.1.1"], ["127.0.0.1", "1.1.1.1"]),
    (["1.1.1.1", "127.0.0.1"], ["1.1.1.1"], ["1.1.1.1", "127.0.0.1"]),
    (["169.254.169.254", "1.1.1.1"], ["1.1.1.1"], ["1.1.1.1"]),
    (["1.1.1.1", "fd00:ec2::254"], ["1.1.1.1"], ["1.1.1.1"]),
    (["::1", "2600::1", "10.0.0.1", "8.8.8.8"], ["2600::1", "8.8.8.8"], None),
    (["127.0.0.1", "::1", "fe80::1", "224.0.0.1"], [], ["127.0.0.1", "::1"]),
    (["169.254.169.254"] * 50 + ["9.9.9.9"], ["9.9.9.9"], ["9.9.9.9"]),
)


def in_brackets(address):
    """*address* as it stands in a URL."""
    return f"[{address}]" if ":" in address else address


class Network:
    """A network that records and refuses every connection, and resolves names as the test says."""

    def __init__(self, answers=()):
        self.called = []
        self._answers = iter(answers)

    def look_up(self, host):
        """The next of the answers; a literal address resolves to itself, as in libc."""
        for answer in self._answers:
            return answer
        found = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
        return [str(sockaddr[0]) for *_, sockaddr in found]


@pytest.fixture
def network(monkeypatch):
    """The network of a test; no connection leaves this machine."""
    made = Network()

    async def connect(_loop, _socket, address):
        made.called.append(address[0])
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    def forbidden(*_):
        raise AssertionError("connected without sock_connect")

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", connect)
    monkeypatch.setattr(asyncio.SelectorEventLoop, "create_connection", forbidden)
    return made


TLS = verified_tls()


def sent(network, policy, url):
    """The outcome of sending to *url*, whether it would have been accepted or not."""

    async def send():
        async with Sender(policy, timeout_seconds=5, lookup=network.look_up, tls=TLS) as sender:
            return (await sender.send(OutgoingRequest(url, "POST", {}, b"{}"))).outcome

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(send())


def is_accepted(url, policy):
    """Whether an invoice with this callback URL is accepted."""
    try:
        return policy.permits_host(parse_url(url).host)
    except ValueError:
        return False


@pytest.mark.parametrize("policy", [STRICT, DEV], ids=["strict", "dev"])
@pytest.mark.parametrize("address", PUBLIC + PUBLIC_IPV6)
def test_public_addresses_are_called(network, policy, address):
    """A public address is accepted, and the connection goes to this address."""
    url = f"http://{in_brackets(address)}/x"

    assert is_accepted(url, policy)
    assert AttemptOutcome.UNREACHABLE == sent(network, policy, url)
    assert {address} == set(network.called)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("address", PRIVATE + PRIVATE_IPV6)
def test_private_addresses_are_called_only_in_development(network, address, scheme):
    """Loopback and private networks are permitted only in development mode."""
    url = f"{scheme}://{in_brackets(address)}:8080/"

    assert not is_accepted(url, STRICT)
    assert AttemptOutcome.BLOCKED == sent(network, STRICT, url)
    assert [] == network.called
    assert is_accepted(url, DEV)
    assert AttemptOutcome.UNREACHABLE == sent(network, DEV, url)
    assert {address} == set(network.called)


@pytest.mark.parametrize("policy", [STRICT, DEV], ids=["strict", "dev"])
@pytest.mark.parametrize("address", METADATA + METADATA_IPV6 + SPECIAL + SPECIAL_IPV6)
def test_special_addresses_are_never_called(network, policy, address):
    """Translated, metadata and reserved addresses are denied by both policies."""
    url = f"http://{in_brackets(address)}/latest/meta-data/"

    assert not is_accepted(url, policy)
    assert AttemptOutcome.BLOCKED == sent(network, policy, url)
    assert [] == network.called


@pytest.mark.parametrize("policy", [STRICT, DEV], ids=["strict", "dev"])
@pytest.mark.parametrize("host", ODD_SPELLINGS, ids=ascii)
def test_unusual_spellings_are_refused_and_reach_no_denied_address(network, policy, host):
    """An unusual spelling of a host is refused; if stored, it is denied at the connection."""
    url = f"http://{host}/"

    assert not is_accepted(url, policy)
    assert sent(network, policy, url) in (AttemptOutcome.BLOCKED, AttemptOutcome.UNREACHABLE)
    assert set() == set(network.called) - (set() if policy is STRICT else {*PRIVATE, *PRIVATE_IPV6})


@pytest.mark.parametrize("url", CONFUSING_URLS, ids=ascii)
def test_confusing_urls_are_refused_and_reach_no_denied_address(network, url):
    """A URL with a confusing host is refused; if stored, it is denied at the connection."""
    assert not is_accepted(url, STRICT)
    assert sent(network, STRICT, url) in (AttemptOutcome.BLOCKED, AttemptOutcome.UNREACHABLE)
    assert set() == set(network.called) - {*PUBLIC, *PUBLIC_IPV6}


@pytest.mark.parametrize("host", ["receiver.example", "xn--pple-43d.example", "xn--bcher-kva.de"])
@pytest.mark.parametrize(("found", "public", "in_development"), NAMES)
@pytest.mark.parametrize("policy", [STRICT, DEV], ids=["strict", "dev"])
def test_names_are_called_only_at_permitted_addresses(
    network, host, found, public, in_development, policy
):
    """Exactly the permitted addresses of a name are tried, for internationalised names too."""
    network._answers = iter([found])
    expected = public if policy is STRICT else in_development
    if expected is None:
        expected = found

    assert is_accepted(f"https://{host}/", policy)
    kind = sent(network, policy, f"https://{host}/")

    assert AttemptOutcome.UNREACHABLE == kind
    assert set(expected) == set(network.called)


@pytest.mark.parametrize("turned", [*PRIVATE, *PRIVATE_IPV6, *METADATA, "fd00:ec2::254", "::"])
def test_a_changed_dns_answer_is_checked_again(network, turned):
    """The address of a name is checked at the call, although the name was accepted before."""
    url = "http://rebinding.example/"
    network._answers = iter([["1.1.1.1"], [turned]])

    assert is_accepted(url, STRICT)
    assert AttemptOutcome.UNREACHABLE == sent(network, STRICT, url)
    assert AttemptOutcome.UNREACHABLE == sent(network, STRICT, url)
    assert {"1.1.1.1"} == set(network.called)


@pytest.mark.parametrize(
    ("allow", "address", "is_called"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", True),
        ("10.1.0.0/16", "10.2.0.1", False),
        ("10.1.2.3/32", "10.1.2.3", True),
        ("10.1.2.3/32", "10.1.2.4", False),
        ("fd12::/32", "fd12::1", True),
        ("fd12::/32", "fd13::1", False),
        ("fd00::/8", "fd00::1", True),
        ("fd00::/8", "fd00:ec2::254", False),
        ("fc00::/7", "fd20:ce::254", False),
        ("fd00:ec2::254/128", "fd00:ec2::254", True),
        ("fd00:ec2::/64", "fd00:ec2::254", False),
        ("169.254.0.0/16", "169.254.1.1", True),
        ("169.254.0.0/16", "169.254.169.254", False),
        ("169.254.169.254/32", "169.254.169.254", True),
        ("169.254.169.254/31", "169.254.169.254", False),
        ("100.64.0.0/10", "100.64.0.1", True),
        ("100.64.0.0/10", "100.100.100.200", False),
        ("0.0.0.0/0", "127.0.0.1", True),
        ("0.0.0.0/0", "168.63.129.16", False),
        ("0.0.0.0/0", "::1", False),
        ("::/0", "127.0.0.1", False),
        ("::/0", "::1", True),
        ("::/0", "fe80::1", True),
        ("::/0", "::ffff:127.0.0.1", False),
        ("::ffff:0:0/96", "::ffff:127.0.0.1", False),
        ("64:ff9b::/96", "64:ff9b::7f00:1", True),
        ("127.0.0.0/8", "127.0.0.1", True),
        ("127.0.0.0/8", "0.0.0.0", False),
    ],
)
def test_exceptions_of_the_operator_permit_only_their_network(network, allow, address, is_called):
    """An exception permits its network only; a metadata address needs an exception of its own."""
    policy = EgressPolicy((ip_network(allow),))
    url = f"http://{in_brackets(address)}/"

    assert is_called == is_accepted(url, policy)
    sent(network, policy, url)
    assert ({address} if is_called else set()) == set(network.called)
