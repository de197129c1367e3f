"""
A pipe to a program that reads the log, and may stop to do so for a while.

A pipe takes some 64 KiB that nobody has read; a write to a full one waits, and everything else of
the process with it. So nothing is written to a full pipe: the lines wait here, within a bound.
"""

import os
import select
import stat
from typing import Self, TextIO

HELD_BYTES_MAX = 2**20
"""Lines that wait for the reader; some thousands. Further ones are lost."""

LAST_WAIT_SECONDS = 1
"""How long the last lines of a process wait for the reader."""


class LogPipe:
    """Writes lines to the pipe or socket *descriptor*, and waits for its reader only on request."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held = bytearray()
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self.lost_count = 0

    @classmethod
    def below(cls, stream: TextIO) -> Self | None:
        """The pipe or socket that *stream* writes to, if it is one."""
        try:
            descriptor = stream.fileno()
            mode = os.fstat(descriptor).st_mode
        except (OSError, ValueError):  # it has no file, or a closed one
            return None
        return cls(descriptor) if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None

    @property
    def is_behind(self) -> bool:
        """Whether lines wait for the reader."""
        return bool(self._held)

    def write(self, text: str, *, wait_seconds: float = 0) -> None:
        """
        Write whole lines; what the pipe does not take in *wait_seconds* is kept for the next call.

        Raises:
            OSError: nobody reads any more; what was kept is dropped.
        """
        lines = text.encode("utf-8", "backslashreplace")
        if len(self._held) + len(lines) > HELD_BYTES_MAX:
            self.lost_count += text.count("\n")
        else:
            self._held += lines
        while self._held and self._poll.poll(wait_seconds * 1000):
            del self._held[: self._written()]

    def _written(self) -> int:
        """Write what a pipe takes at once, if it takes anything; returns how much it took."""
        piece = self._held[: select.PIPE_BUF]
        # Lines of several processes in one pipe do not mix if each is written at once.
        end = piece.rfind(b"\n") + 1 or len(piece)
        try:
            return os.write(self._descriptor, piece[:end])
        except BlockingIOError:
            return 0
        except OSError:
            self._held.clear()
            raise
