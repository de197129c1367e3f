"""
The interface of a database: write, read, notify and close; outages are logged here.

Work on it is an ordinary function of a connection and its arguments. The database decides in
which thread or loop it runs.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

from service.database.at_once import AtOnce, Found
from service.errors import StorageBusy, StorageUnavailable

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("invoices.storage")


class Wakes(Protocol):
    """Wakes whoever waits for it; see `service.loops.Signal`."""

    def set(self) -> None:
        """Wake for all that may be due."""
        ...

    def set_for(self, names: Collection[str], /) -> None:
        """Wake for *names*; without any, for all."""
        ...


def run_at_once(statement: AtOnce) -> Found:
    """Stands for the work of a *statement* that is a transaction of its own."""
    raise AssertionError(f"a database with transactions of statements runs {statement.text}")


class Lane(StrEnum):
    """What a transaction is for; each lane has connections of its own."""

    WRITE = "write"
    READ = "read"
    """Reads of the service itself: keys, secrets, readiness, the backlog."""
    BROWSE = "browse"
    """Reads that accounts ask for."""


class Database(ABC):
    """
    A database in which the service stores its data.

    One log line says when it becomes unavailable, and one when it is available again; the requests
    that fail in between are not logged, since their callers are informed. A database that can be
    read but not written to, because its disk is full for example, is unavailable too: that outage
    ends with the next successful write, and not with a read. Work that was begun before one of
    these lines says nothing about the time after it: its connection may be an older one.

    A statement that takes too long, or a transaction that finds no free connection, is no outage:
    it is logged as a defect.
    """

    product: str
    """Its name, and its version if it is a library in this program."""

    has_one_writer: bool
    """Whether all transactions that write wait for each other."""

    is_shared: bool
    """Whether processes on other machines may use it, whose end is seen by their silence alone."""

    writes_at_once: bool = False
    """Whether it has `write_at_once`."""

    def __init__(self) -> None:
        self._unavailable_since: float | None = None
        self._has_failed_to_write = False
        self._is_recovering = False
        self._turn_count = 0
        """How often it has become unavailable, or available again."""

    async def write(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        """
        Run *work* in a transaction and commit it; an exception rolls all of it back.

        Raises:
            StorageUnavailable: if the database cannot be written to now. If the connection was
                lost during the commit, the data may have been written nevertheless.
        """
        return await self._run(work, args, options, Lane.WRITE)

    async def write_at_once(self, statement: AtOnce) -> Sequence[Any] | None:
        """
        Run *statement*, which is a transaction of its own; returns its results, if it has them.

        Raises:
            StorageUnavailable: as `write` does.
        """
        return statement.results(await self._run(run_at_once, (statement,), {}, Lane.WRITE))

    async def read(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        """
        Run *work* on one consistent state of what has been committed.

        Raises:
            StorageUnavailable: if the database cannot be read now.
        """
        return await self._run(work, args, options, Lane.READ)

    async def browse(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **options: P.kwargs
    ) -> T:
        """
        As `read`, on other connections: for what accounts ask for, which may take long.

        Raises:
            StorageUnavailable: if the database cannot be read now.
        """
        return await self._run(work, args, options, Lane.BROWSE)

    @asynccontextmanager
    async def joining(self) -> AsyncIterator[bool]:
        """
        Count this process among those that take leases, until `close` or its end.

        Gives whether it is known to be the only one: every lease that is stored is then of a
        process that has ended. No other process joins inside the block.
        """
        yield False

    async def check(self) -> None:
        """
        Return if the database can be read, and written to if that has failed lately.

        Raises:
            StorageUnavailable: otherwise.
        """
        if self._has_failed_to_write:
            await self.write(self._probe_write)
            # The probe changes no row, so `write` has not counted it as a successful write.
            await self._has_answered(has_written=True)
        else:
            await self.read(self._probe_read)

    @abstractmethod
    async def change_schema(self, work: Callable[[Connection], T]) -> T:
        """
        As `write`, without a time limit, and in one process at a time.

        Raises:
            StorageUnavailable: as `write` does.
        """

    @abstractmethod
    def listen(self, signals: Mapping[str, Wakes]) -> None:
        """Set the signal of a name whenever another process notifies that name."""

    @abstractmethod
    def notify(self, name: str, details: Collection[str] = ()) -> None:
        """
        Wake the other processes soon; *details* say for what.

        A notification may be lost: the loops also poll.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finish what was begun, then close every connection."""

    async def _run(
        self,
        work: Callable[..., T],
        args: tuple[Any, ...],
        options: Mapping[str, Any],
        lane: Lane,
    ) -> T:
        turn = self._turn_count
        try:
            result, has_written = await self._transact(work, args, options, lane)
        except StorageBusy as error:
            fields = {"detail": str(error), "lane": lane, "work": work.__name__}
            log.error("storage.busy", exc_info=error, extra={"fields": fields})
            raise
        except StorageUnavailable as error:
            if turn == self._turn_count or self._unavailable_since is not None:
                self._has_failed(error, has_tried_to_write=lane is Lane.WRITE)
            raise
        if self._unavailable_since is not None and turn == self._turn_count:
            await self._has_answered(has_written=has_written)
        return result

    def _has_failed(self, error: StorageUnavailable, *, has_tried_to_write: bool) -> None:
        """Begin an outage, if none has begun yet."""
        self._has_failed_to_write |= has_tried_to_write
        if self._unavailable_since is None:
            self._unavailable_since = time.monotonic()
            self._turn_count += 1
            log.error("storage.lost", extra={"fields": {"detail": str(error)}})

    async def _has_answered(self, *, has_written: bool) -> None:
        """End an outage, unless writes have failed and none has succeeded since."""
        began_at = self._unavailable_since
        is_over = began_at is not None and (has_written or not self._has_failed_to_write)
        if began_at is None or not is_over or self._is_recovering:
            return
        self._is_recovering = True
        try:
            # Until then the outage goes on: what is from before it may fail once more.
            await self._recover()
        finally:
            self._is_recovering = False
        seconds = round(time.monotonic() - began_at, 3)
        self._unavailable_since, self._has_failed_to_write = None, False
        self._turn_count += 1
        log.warning("storage.found", extra={"fields": {"away_seconds": seconds}})

    @abstractmethod
    async def _transact(
        self,
        work: Callable[..., T],
        args: tuple[Any, ...],
        options: Mapping[str, Any],
        lane: Lane,
    ) -> tuple[T, bool]:
        """Run *work* in one transaction: its result, and whether anything was written."""

    async def _recover(self) -> None:  # noqa: B027 -- not every database has something to do
        """Do what the end of an outage needs."""

    @staticmethod
    @abstractmethod
    def _probe_read(tx: Connection) -> None:
        """Read something."""

    @staticmethod
    @abstractmethod
    def _probe_write(tx: Connection) -> None:
        """Write without changing a row."""
