"""The event loop of a command, and the signals that end it."""

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import uvloop


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run *work* on uvloop; the exit status that it returns."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def stop_signal() -> asyncio.Event:
    """
    An event that SIGTERM, SIGINT or SIGHUP sets; a second SIGTERM or SIGINT ends the process.

    SIGHUP comes twice when a terminal is closed. Where it is ignored (nohup), it stays so.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def handle() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, stop.set)
    return stop


async def wait_until_set(event: asyncio.Event, seconds: float) -> None:
    """Wait until *event* is set, for *seconds* at most."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
