"""File descriptors: raised at the start, counted, and missed by nobody but the operator."""

import errno
import logging
import resource
import socket
import subprocess
import sys

import pytest
from aiohttp import ClientConnectorError
from aiohttp.client_reqrep import ConnectionKey

from service.app.edges import descriptors_needed
from service.delivery import egress
from service.delivery.egress import EgressPolicy
from service.delivery.failures import no_answer
from service.delivery.resolver import look_up
from service.delivery.sender import OutgoingRequest, Sender
from service.errors import DescriptorsExhausted
from service.settings import Settings
from service.telemetry import descriptors as module
from service.telemetry.descriptors import Descriptors, allowed

TO = OutgoingRequest("http://receiver.example/", "POST", {}, b"{}")
PUBLIC = "93.184.215.14"


def without_descriptors(*_arguments, **_options):
    """Fail as the system does where no descriptor is left."""
    raise OSError(errno.EMFILE, "Too many open files")


def test_the_soft_limit_is_raised_to_the_hard_one():
    """At the start a process may open as many files as the system permits it at most."""
    program = (
        "import resource; from service.telemetry.descriptors import raise_limit;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 700)); print(raise_limit(),"
        "*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout

    assert "700 700 700" == said.strip()


def test_the_defaults_need_more_than_many_systems_allow():
    """The sum of all connections is above 1024: a start with that limit is warned about."""
    assert 512 + 256 + 256 < descriptors_needed(Settings()) < 2048


def test_connections_to_stripe_are_counted():
    """Where Stripe collects, the connections to it need descriptors too."""
    with_stripe = descriptors_needed(Settings(collector="stripe"))

    assert descriptors_needed(Settings()) + 100 == with_stripe


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("form", ["one address", "two addresses"])
def test_no_descriptor_is_a_failure_on_our_side(number, form):
    """A connection that could not be opened for that reason says nothing about the receiver."""
    error = OSError(number, "Too many open files")
    if form == "two addresses":
        error = OSError(f"Multiple exceptions: {error}, [Errno 111] Connection refused")
    key = ConnectionKey("receiver.example", 80, False, True, None, None, None)

    with pytest.raises(DescriptorsExhausted):
        no_answer(ClientConnectorError(key, error), 15)


async def test_a_sender_without_descriptors_says_so(monkeypatch):
    """The request is not sent, and the operator's watch is told."""
    said = []
    async with Sender(EgressPolicy(), timeout_seconds=5, lookup=lambda _: [PUBLIC]) as sender:
        sender.on_exhausted = lambda: said.append("exhausted")
        monkeypatch.setattr(egress.socket, "socket", without_descriptors)
        with pytest.raises(DescriptorsExhausted):
            await sender.send(TO)
        monkeypatch.undo()

    assert ["exhausted"] == said


def test_a_lookup_without_descriptors_is_no_unknown_name(monkeypatch):
    """The system reports an unknown name where it could not ask for it."""

    def unknown(*_arguments, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(socket.gaierror):
        look_up("receiver.example")
    monkeypatch.setattr(socket, "socket", without_descriptors)
    with pytest.raises(OSError, match="Too many open files"):
        look_up("receiver.example")


def test_descriptors_are_counted():
    """The watch reports how many are in use, and how many are allowed."""
    seen = []
    watch = Descriptors(report=lambda *numbers: seen.append(numbers))
    watch.look()
    with socket.socket(), socket.socket():
        watch.look()

    assert 2 == seen[1][0] - seen[0][0]
    assert {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} == {one for _, one in seen} | {allowed()}


def test_a_process_notices_that_no_descriptor_is_left(monkeypatch):
    """The kernel closes what cannot be accepted; a probe every second shows why."""
    said = []
    watch = Descriptors(lambda: said.append("counted"))
    watch.probe()
    assert [] == said

    monkeypatch.setattr(module.os, "open", without_descriptors)
    watch.probe()
    assert ["counted"] == said


def test_exhausted_descriptors_are_logged_once_a_minute(monkeypatch, caplog):
    """Each time is counted, idle connections are closed, and one line names the cause."""
    monkeypatch.setattr(module, "_list_open", without_descriptors)
    happened, seen = [], []
    watch = Descriptors(
        lambda: happened.append("counted"),
        lambda *numbers: seen.append(numbers),
        lambda: happened.append("closed"),
    )

    with caplog.at_level(logging.ERROR, "invoices"):
        for _ in range(3):
            watch.look()

    assert 3 * ["counted", "closed"] == happened
    assert {(allowed(), allowed())} == set(seen)
    assert ["descriptors.exhausted"] == [record.message for record in caplog.records]
