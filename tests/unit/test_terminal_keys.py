"""Keys are read one by one, and the terminal is as before afterwards."""

from __future__ import annotations

import asyncio
import os
import termios

import pytest

from service.cli import terminal_keys
from service.cli.terminal_keys import keys_pressed
from tests.clock import PATIENCE_SECONDS


@pytest.fixture
def terminal(monkeypatch):
    """The other side of a terminal that is the standard input."""
    ours, theirs = os.openpty()
    with os.fdopen(theirs) as standard_input:
        monkeypatch.setattr(terminal_keys.sys, "stdin", standard_input)
        yield ours
    os.close(ours)


def test_a_key_calls_its_action(run, terminal):
    """A key works without Enter, in either case; other keys do nothing."""
    pressed = []

    async def press():
        done = asyncio.Event()
        with keys_pressed({"p": lambda: pressed.append("p"), "q": done.set}):
            os.write(terminal, b"xPp\x1bq")
            async with asyncio.timeout(PATIENCE_SECONDS):
                await done.wait()

    before = termios.tcgetattr(terminal)
    run(press())

    assert ["p", "p"] == pressed
    assert before == termios.tcgetattr(terminal)
