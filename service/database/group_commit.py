"""
Group commit: pending writes share the next transaction.

Waiting for the disk costs the same for one row as for a hundred. While one transaction is being
committed, the work of other requests is collected; the next transaction runs all of it. A lone
write is committed at once, unless nobody waits for it: then it waits a moment for others like it,
and shares a transaction that begins anyway.

Keeps invariant 1: `run` returns only after the commit.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection

from service.database.at_once import AtOnceByWork, Prepare
from service.database.engine import Database
from service.errors import StorageUnavailable

log = logging.getLogger("invoices.storage")

Item = TypeVar("Item")
Result = TypeVar("Result")

Work = Callable[[Connection, Sequence[Item]], Sequence[Result]]
"""Writes several items in one transaction and returns one result for each, in their order."""

Batch = dict[Work[Any, Any], list[Any]]
"""What one transaction writes: each kind of work with its items."""

_Futures = list["asyncio.Future[Any]"]
"""The futures of the results of a work, in the order of its items."""

_Waiting = dict[Work[Any, Any], tuple[list[Any], _Futures]]
"""What a transaction is to write."""

ObserveSize = Callable[[int], object]

GATHER_SECONDS = 0.01
"""
For so long, items for which nobody waits gather; then they join the next transaction of others.

At 600 invoices a second, seven settlements in each seventh transaction take less than one in each:
4 % of the processor time of an invoice on SQLite.
"""

COMPANY_SECONDS = 0.02
"""
How long an item for which nobody waits is kept back; without company, it is committed then.

A process that is killed loses it, and then repeats what it records: an attempt, for example.
"""


class GroupCommit:
    """
    Runs the work of many callers in shared transactions.

    *observe_size* is called after each commit with the number of items that shared it.

    If the database has one writer, all work shares one transaction at a time. Otherwise each kind
    of work has its own transactions, which run at the same time as those of others: it does not
    wait for other statements, and two of our transactions never lock rows in different orders.

    *at_once* has the kinds of work that one statement can do, for databases that take these.
    """

    def __init__(
        self, database: Database, observe_size: ObserveSize, at_once: AtOnceByWork | None = None
    ) -> None:
        self._database = database
        self._observe_size = observe_size
        self._at_once = (at_once or {}) if database.writes_at_once else {}
        self._lanes: dict[object, _Lane] = {}

    def run(
        self, work: Work[Item, Result], item: Item, *, is_awaited: bool = True
    ) -> asyncio.Future[Result]:
        """
        Run *work* for *item*; the future has its result after the commit.

        Unless it *is_awaited*, it is in a transaction that begins `GATHER_SECONDS` later for an
        item that is, or by itself after `COMPANY_SECONDS`.

        An item that cannot be written fails alone: its transaction is halved until it is found,
        and all other items are committed.
        """
        key = None if self._database.has_one_writer else work
        lane = self._lanes.get(key)
        if lane is None:
            prepare = self._at_once.get(work)
            lane = self._lanes[key] = _Lane(self._database, self._observe_size, prepare)
        return lane.run(work, item, is_awaited)


class _Lane:
    """One transaction at a time, in the event loop in which the lane was made."""

    def __init__(
        self, database: Database, observe_size: ObserveSize, prepare: Prepare | None
    ) -> None:
        self._database = database
        self._observe_size = observe_size
        self._prepare = prepare
        self._waiting: _Waiting = {}
        """What the next transaction writes."""
        self._patient: _Waiting = {}
        """Items for which nobody waits; those of `_waiting` go first in their transaction."""
        # Looking up the running loop takes longer than making a future of it.
        self._loop = asyncio.get_running_loop()
        self._create_future = self._loop.create_future
        self._committing: asyncio.Task[None] | None = None
        self._is_awaited = False
        """Whether the next transaction is to begin as soon as the last one has ended."""
        self._timer: asyncio.TimerHandle | None = None
        """When it begins at the latest, if some items are patient."""
        self._joins_at = 0.0
        """When these join a transaction, by the clock of the loop."""

    def run(self, work: Work[Item, Result], item: Item, is_awaited: bool) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] = self._create_future()
        _add(self._waiting if is_awaited else self._patient, work, item, future)
        if is_awaited:
            self._is_awaited = True
            if self._committing is None:
                self._begin()
        elif self._timer is None:
            self._joins_at = self._loop.time() + GATHER_SECONDS
            self._timer = self._loop.call_later(COMPANY_SECONDS, self._end_patience)
        return future

    def _end_patience(self) -> None:
        self._joins_at = self._loop.time()
        self._begin()

    def _begin(self) -> None:
        self._is_awaited = True
        if self._committing is None:
            self._committing = self._loop.create_task(self._commit_waiting())

    async def _commit_waiting(self) -> None:
        try:
            while self._is_awaited:
                waiting, self._waiting = self._waiting, {}
                self._is_awaited = False
                if self._timer is not None and self._loop.time() >= self._joins_at:
                    self._timer.cancel()
                    self._timer = None
                    patient, self._patient = self._patient, {}
                    for work, item, future in _entries(patient):
                        _add(waiting, work, item, future)
                await self._commit(waiting)
        finally:
            # Also after a defect: the next item must be committed.
            self._committing = None

    async def _commit(self, waiting: _Waiting) -> None:
        """Commit what is *waiting*; if one item cannot be written, each half by itself."""
        try:
            results = await self._write({work: items for work, (items, _) in waiting.items()})
        except StorageUnavailable as error:
            _fail(waiting, error)
        except Exception as error:  # noqa: BLE001 -- the callers that wait receive it
            halves = _halves(waiting)
            if not halves:
                _fail(waiting, error)
            for half in halves:
                await self._commit(half)
        else:
            _resolve(waiting, results)
            try:
                self._observe_size(sum(map(len, results)))
            except Exception:  # the observer must not stop the commits
                log.exception("commit.unobserved")

    async def _write(self, batch: Batch) -> list[Sequence[Any]]:
        """The results of each work in *batch*; if one statement can do it, without BEGIN."""
        if self._prepare is not None:
            ((work, items),) = batch.items()
            statement = self._prepare(items)
            if statement is not None:
                answers = await self._database.write_at_once(statement)
                if answers is not None:
                    return [_of_all(work, items, answers)]
        return await self._database.write(run_batch, batch)


def run_batch(tx: Connection, batch: Batch) -> list[Sequence[Any]]:
    """The results of each work in *batch*, in their order."""
    results = []
    for work, items in batch.items():
        # Checked before the commit: otherwise a caller would wait for its result forever.
        results.append(_of_all(work, items, work(tx, items)))
    return results


def _of_all(work: Work[Any, Any], items: Sequence[Any], answers: Sequence[Any]) -> Sequence[Any]:
    if len(answers) != len(items):
        raise AssertionError(f"{work.__name__} has not returned a result for every item")
    return answers


def _add(
    waiting: _Waiting, work: Work[Any, Any], item: object, future: "asyncio.Future[Any]"
) -> None:
    items, futures = waiting.setdefault(work, ([], []))
    items.append(item)
    futures.append(future)


def _entries(waiting: _Waiting) -> list[tuple[Work[Any, Any], Any, "asyncio.Future[Any]"]]:
    """Each item that is *waiting*, with its work and its future."""
    return [
        (work, item, future)
        for work, (items, futures) in waiting.items()
        for item, future in zip(items, futures, strict=True)
    ]


def _halves(waiting: _Waiting) -> list[_Waiting]:
    """What is *waiting* in two parts; none if it is only one item."""
    entries = _entries(waiting)
    middle = len(entries) // 2
    halves = list[_Waiting]()
    for part in (entries[:middle], entries[middle:]) if middle else ():
        half: _Waiting = {}
        for work, item, future in part:
            _add(half, work, item, future)
        halves.append(half)
    return halves


def _resolve(waiting: _Waiting, results: list[Sequence[Any]]) -> None:
    for (_, futures), answers in zip(waiting.values(), results, strict=True):
        for future, answer in zip(futures, answers, strict=True):
            if not future.done():
                future.set_result(answer)


def _fail(waiting: _Waiting, error: Exception) -> None:
    for _, futures in waiting.values():
        for future in futures:
            if not future.done():
                future.set_exception(error)
