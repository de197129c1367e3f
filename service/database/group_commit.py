"""
Group commit: all that waits to be written shares the next transaction.

Waiting for the disk costs the same for one row as for a hundred. While one transaction is being
committed, the work of other requests gathers; the next transaction takes all of it. There is no
timer: work that arrives alone is committed alone, at once.

This module keeps invariant 1: `run` returns only after the commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection

from service.database.engine import Database
from service.errors import StorageUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

Work = Callable[[Connection, Sequence[Item]], Sequence[Result]]
"""Writes several items in one transaction and answers one result for each, in their order."""

_Batch = dict[Work[Any, Any], list[tuple[Any, "asyncio.Future[Any]"]]]
"""What waits for the next transaction: by the work to be done, its items and who waits for them."""


TellCount = Callable[[int], object]


def tell_nobody(_count: int) -> None:
    """Take no notice of a count."""


class GroupCommit:
    """
    Runs the work of many callers in shared transactions.

    Of each that was committed, *tell_committed* learns how many items shared it.

    Where the database has one writer, all work shares one transaction at a time. Where it has
    many, each kind of work has a transaction of its own beside those of the others: none waits
    for statements that it has no part in, and no two of ours take the same rows in another order.
    """

    def __init__(self, database: Database, tell_committed: TellCount = tell_nobody) -> None:
        self._database = database
        self._tell_committed = tell_committed
        self._lanes: dict[object, _Lane] = {}

    def run(self, work: Work[Item, Result], item: Item) -> asyncio.Future[Result]:
        """
        The result of *work* for *item*, to be awaited until it is committed.

        An item that cannot be written fails alone: its transaction is divided until it is
        found, and all others are committed.
        """
        key = None if self._database.has_one_writer else work
        if key not in self._lanes:
            self._lanes[key] = _Lane(self._database, self._tell_committed)
        return self._lanes[key].run(work, item)


class _Lane:
    """One transaction at a time, in the loop in which it was made."""

    def __init__(self, database: Database, tell_committed: TellCount) -> None:
        self._database = database
        self._tell_committed = tell_committed
        self._waiting: _Batch = {}
        # To ask which loop is running takes longer than to make a future of it.
        self._create_future = asyncio.get_running_loop().create_future
        self._committing: asyncio.Task[None] | None = None

    def run(self, work: Work[Item, Result], item: Item) -> asyncio.Future[Result]:
        """The result of *work* for *item*, to be awaited until it is committed."""
        future: asyncio.Future[Result] = self._create_future()
        self._waiting.setdefault(work, []).append((item, future))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_waiting())
        return future

    async def _commit_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, {}
            await self._commit(batch)
        self._committing = None

    async def _commit(self, batch: _Batch) -> None:
        """Commit *batch*; if one of its items cannot be written, each half for itself."""
        try:
            results = await self._database.write(lambda tx: _run_all(tx, batch))
        except StorageUnavailable as error:
            _fail(batch, error)
        except Exception as error:  # noqa: BLE001 -- every kind of it goes to who is waiting
            halves = _halves(batch)
            if not halves:
                _fail(batch, error)
            for half in halves:
                await self._commit(half)
        else:
            self._tell_committed(sum(map(len, batch.values())))
            _answer(batch, results)


def _run_all(tx: Connection, batch: _Batch) -> list[list[Any]]:
    results = []
    for work, waiting in batch.items():
        answers = list(work(tx, [item for item, _ in waiting]))
        if len(answers) != len(waiting):
            # Found out before the commit: nobody may wait for an answer that does not come.
            raise AssertionError(f"{work.__name__} has not answered every item")
        results.append(answers)
    return results


def _halves(batch: _Batch) -> list[_Batch]:
    """*batch* in two parts; none if there is only one item in it."""
    entries = [(work, entry) for work, waiting in batch.items() for entry in waiting]
    middle = len(entries) // 2
    halves: list[_Batch] = []
    for part in (entries[:middle], entries[middle:]) if middle else ():
        half: _Batch = {}
        for work, entry in part:
            half.setdefault(work, []).append(entry)
        halves.append(half)
    return halves


def _answer(batch: _Batch, results: list[list[Any]]) -> None:
    for waiting, answers in zip(batch.values(), results, strict=True):
        for (_, future), answer in zip(waiting, answers, strict=True):
            if not future.done():
                future.set_result(answer)


def _fail(batch: _Batch, error: Exception) -> None:
    for waiting in batch.values():
        for _, future in waiting:
            if not future.done():
                future.set_exception(error)
