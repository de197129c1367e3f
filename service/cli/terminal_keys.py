"""Single keys of a terminal, read without Enter."""

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def keys_pressed(actions: Mapping[str, Callable[[], None]]) -> Iterator[None]:
    """Inside the block, a key that is pressed calls its action; Ctrl-C stays a signal."""
    descriptor, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(descriptor)

    def read() -> None:
        pressed = os.read(descriptor, 64).decode("ascii", "ignore")
        if not pressed:
            loop.remove_reader(descriptor)
        for key in pressed.lower():
            if key in actions:
                actions[key]()

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
