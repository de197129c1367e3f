"""
The service with a clock that jumps: `python -m tests.acceptance.jumping FILE serve`.

FILE holds by how many seconds its clock is wrong; it is read whenever the time is asked for. That
one function is wrapped, then the ordinary command line runs. What takes time, takes its time: the
clock that jumps is the one on the wall.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

from service.__main__ import main
from service.clock import SystemClock

_now = SystemClock.now


def jump(file, seconds):
    """From now on, the clock of whoever reads *file* is wrong by *seconds*."""
    # Read as a whole or not at all.
    written = file.with_suffix(".new")
    written.write_text(str(seconds))
    written.replace(file)


def wrap(file):
    """Have the clock of this process jump as *file* says."""

    def now(clock):
        return _now(clock) + timedelta(seconds=int(file.read_text()))

    SystemClock.now = now


if __name__ == "__main__":
    wrap(Path(sys.argv.pop(1)))
    main()
