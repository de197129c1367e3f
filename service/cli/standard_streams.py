"""
Standard streams that were closed before the program started, as by `>&-` and some supervisors.

The next file that is opened would get the number of such a stream: what is printed would be written
to it, and the event loop ends the process when it closes a file of such a number.
"""

import os
import sys
from io import TextIOWrapper

NAMES = ("stdin", "stdout", "stderr")
"""The streams, each at the number of its file."""


def open_standard_streams() -> None:
    """Open the null device in place of each standard stream that is closed."""
    # The lowest free number is used first.
    while (number := os.open(os.devnull, os.O_RDWR)) < len(NAMES):
        os.set_inheritable(number, True)
        if getattr(sys, NAMES[number]) is None:
            setattr(sys, NAMES[number], _text(number))
    os.close(number)


def _text(number: int) -> TextIOWrapper:
    return open(number, "r" if number == 0 else "w", encoding="utf-8")
