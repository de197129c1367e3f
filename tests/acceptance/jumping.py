"""
The service with a clock that jumps: `python -m tests.acceptance.jumping FILE serve`.

FILE holds the error of its clock in seconds; it is read at every read of the clock. One function is
wrapped, then the ordinary command line runs. Durations stay correct: only the wall clock jumps.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

from service.__main__ import main
from service.clock import SystemClock

_now = SystemClock.now


def jump(file, seconds):
    """Set the error of the clock that reads *file* to *seconds*."""
    # Readers see the old content or the new content, never a part.
    written = file.with_suffix(".new")
    written.write_text(str(seconds))
    written.replace(file)


def wrap(file):
    """Make the clock of this process follow *file*."""

    def now(clock):
        return _now(clock) + timedelta(seconds=int(file.read_text()))

    SystemClock.now = now


if __name__ == "__main__":
    wrap(Path(sys.argv.pop(1)))
    main()
