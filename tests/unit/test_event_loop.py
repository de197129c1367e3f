"""Signals that end a command."""

import asyncio
import os
import signal

import pytest

from service.cli.event_loop import stop_signal
from tests.clock import woken_by


@pytest.fixture
def handlers():
    """The handlers of signals are as before after the test."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
async def test_a_closed_terminal_stops_and_does_not_kill():
    """The shell and the system both send SIGHUP then: the second one ends no drain."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stop = stop_signal()

    os.kill(os.getpid(), signal.SIGHUP)
    await woken_by(stop)
    stop.clear()
    os.kill(os.getpid(), signal.SIGHUP)
    await woken_by(stop)

    asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)


@pytest.mark.usefixtures("handlers")
async def test_a_signal_that_is_ignored_stays_so():
    """A process that was started with nohup outlives its terminal."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop_signal()

    assert signal.SIG_IGN is signal.getsignal(signal.SIGHUP)
