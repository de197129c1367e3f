"""The addresses that the service listens on, and the error messages when it cannot."""

import errno
import socket

import pytest

from service.errors import AddressError
from service.web import addresses
from service.web.addresses import OPTIONS, SETTINGS, listening_sockets
from tests.processes import free_port

LOOPBACKS = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}


def has_ipv6():
    """Whether this machine has an IPv6 loopback address."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def listen():
    """Opens listening sockets, and closes them after the test."""
    opened = []

    def listen_(*hosts, port=0, names=SETTINGS, is_shared=False):
        sockets = listening_sockets(hosts, port, names, is_shared=is_shared)
        opened.extend(sockets)
        return sockets

    yield listen_
    for one in opened:
        one.close()


def answers(host, port):
    """Whether a connection to *host* is accepted."""
    with socket.socket(LOOPBACKS[host]) as client:
        return client.connect_ex((host, port)) == 0


@needs_ipv6
@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (["::"], {"127.0.0.1", "::1"}),
        (["0.0.0.0"], {"127.0.0.1"}),
        (["::1"], {"::1"}),
        (["127.0.0.1"], {"127.0.0.1"}),
        (["127.0.0.1", "::1"], {"127.0.0.1", "::1"}),
        (["::", "0.0.0.0"], {"127.0.0.1", "::1"}),
        (["127.0.0.1", "::"], {"127.0.0.1", "::1"}),
        (["127.0.0.1", "127.0.0.1"], {"127.0.0.1"}),
        (["0.0.0.0", "127.0.0.1", "::1"], {"127.0.0.1", "::1"}),
    ],
)
def test_every_named_address_is_listened_on(listen, hosts, expected):
    """All addresses get one port, `::` listens on both families, and no address is bound twice."""
    port = listen(*hosts)[0].getsockname()[1]

    assert expected == {host for host in LOOPBACKS if answers(host, port)}


def test_without_ipv6_the_wildcard_is_ipv4_only(listen, monkeypatch):
    """On a machine without IPv6, `::` listens on every IPv4 address."""

    class NoIpv6(socket.socket):
        def __init__(self, family, kind):
            if family is socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "not supported")
            super().__init__(family, kind)

    monkeypatch.setattr(addresses.socket, "socket", NoIpv6)

    assert ["0.0.0.0"] == [one.getsockname()[0] for one in listen("::")]


@pytest.mark.parametrize(
    ("names", "named"),
    [(SETTINGS, "INVOICES_PORT"), (OPTIONS, "--port")],
    ids=["setting", "option"],
)
def test_the_error_for_a_port_in_use_names_the_setting(listen, names, named):
    """The message names the port, and the setting or option that changes it."""
    port = listen("127.0.0.1")[0].getsockname()[1]

    with pytest.raises(AddressError) as refusal:
        listen("127.0.0.1", port=port, names=names)

    assert (
        f"Port {port} of 127.0.0.1 is in use by another program: stop that program, or set {named} "
        "to another port."
    ) == str(refusal.value)


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("192.0.2.1", "This machine does not have the address 192.0.2.1: change INVOICES_HOST."),
        (
            "no.such.name.invalid",
            "'no.such.name.invalid' is neither an IP address nor a name that this machine knows: "
            "change INVOICES_HOST.",
        ),
        (
            "a..b",
            "'a..b' is neither an IP address nor a name that this machine knows: "
            "change INVOICES_HOST.",
        ),
    ],
)
def test_the_error_for_an_unusable_address_names_the_setting(listen, host, sentence):
    """The message for an address of another machine or an unknown name names INVOICES_HOST."""
    with pytest.raises(AddressError) as refusal:
        listen("127.0.0.1", host)

    assert sentence == str(refusal.value)


def test_an_error_leaves_no_socket_open(listen):
    """If one address fails, the sockets of the others are closed and the port is free again."""
    with pytest.raises(AddressError):
        listen("127.0.0.1", "192.0.2.1", port=(port := free_port()))

    assert not answers("127.0.0.1", port)


def test_workers_share_a_port(listen):
    """Several processes may listen on one port if it is shared."""
    port = listen("127.0.0.1", is_shared=True)[0].getsockname()[1]

    assert port == listen("127.0.0.1", port=port, is_shared=True)[0].getsockname()[1]


def test_the_error_for_a_privileged_port_names_unprivileged_ports(listen, monkeypatch):
    """The message for a port that needs more rights names the ports that need none."""

    class Unprivileged(socket.socket):
        def bind(self, address):
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(addresses.socket, "socket", Unprivileged)

    with pytest.raises(AddressError, match=r"needs more rights .* INVOICES_PORT .* above 1023"):
        listen("127.0.0.1", port=80)
