"""
Handing a new row straight to the loop that works on it, in the process that wrote it.

Most rows are worked on by whoever wrote them, a moment later. Such a row is born leased: the
lease is part of the row that is committed, and after the commit the row goes to the loop as it
is, without being looked up again. If the process dies in between, the lease runs out like any
other. Where the loop has no room, the row is born free and waits in the database.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Generic, Protocol, TypeVar

Row = TypeVar("Row")
Row_contra = TypeVar("Row_contra", contravariant=True)


class Takes(Protocol[Row_contra]):
    """A loop that takes rows which were born leased."""

    def reserve(self, origin: str) -> datetime | None:
        """
        Keep room for a row of *origin* that is about to be written.

        Returns:
            Until when to lease it; None if there is no room, or older rows wait for it.
        """
        ...

    def cancel(self, origin: str) -> None:
        """Give back the room of a row that was not written, or not leased."""
        ...

    def start(self, row: Row_contra) -> None:
        """Work on *row*, which is committed and leased."""
        ...


class Handover(Generic[Row]):
    """The way from a commit to the loop of this process, while there is one."""

    def __init__(self) -> None:
        self._loop: Takes[Row] | None = None

    def connect(self, loop: Takes[Row] | None) -> None:
        """Hand rows to *loop* from now on; to nobody if it is None."""
        self._loop = loop

    @contextmanager
    def connected(self, loop: Takes[Row]) -> Iterator[None]:
        """Hand rows to *loop* inside the block, and to nobody after it."""
        self.connect(loop)
        try:
            yield
        finally:
            self.connect(None)

    def reserve(self, origin: str) -> datetime | None:
        """Until when to lease a row of *origin* that is about to be written, if at all."""
        return self._loop.reserve(origin) if self._loop else None

    def finish(self, origin: str, reserved: datetime | None, row: Row | None) -> None:
        """Hand over *row*, or give back what was *reserved* for one that was not born leased."""
        if self._loop and row is not None:
            self._loop.start(row)
        elif self._loop and reserved:
            self._loop.cancel(origin)
