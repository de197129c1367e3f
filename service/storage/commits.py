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

from service.errors import StorageUnavailable
from service.storage.engine import Database

Item = TypeVar("Item")
Result = TypeVar("Result")

Work = Callable[[Connection, Sequence[Item]], Sequence[Result]]
"""Writes several items in one transaction and answers one result for each, in their order."""

_Waiting = list[tuple[Any, "asyncio.Future[Any]"]]


class GroupCommit:
    """Runs the work of many callers in shared transactions, one transaction at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[Work[Any, Any], _Waiting] = {}
        self._committing: asyncio.Task[None] | None = None

    async def run(self, work: Work[Item, Result], item: Item) -> Result:
        """
        The result of *work* for *item*, once it is committed.

        An item that cannot be written fails alone: the others of its transaction are
        committed one by one.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(work, []).append((item, future))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_waiting())
        return await future

    async def _commit_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, {}
            await self._commit(batch)
        self._committing = None

    async def _commit(self, batch: dict[Work[Any, Any], _Waiting]) -> None:
        try:
            results = await self._database.write(lambda tx: _run_all(tx, batch))
        except StorageUnavailable as error:
            _fail([entry for waiting in batch.values() for entry in waiting], error)
            return
        except Exception as error:  # noqa: BLE001 -- every kind of it goes to who is waiting
            await self._commit_one_by_one(batch, error)
            return
        for waiting, answers in zip(batch.values(), results, strict=True):
            for (_, future), answer in zip(waiting, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def _commit_one_by_one(
        self, batch: dict[Work[Any, Any], _Waiting], error: Exception
    ) -> None:
        alone = [(work, entry) for work, waiting in batch.items() for entry in waiting]
        if len(alone) == 1:
            _fail([alone[0][1]], error)
            return
        for work, entry in alone:
            await self._commit({work: [entry]})


def _fail(waiting: _Waiting, error: Exception) -> None:
    for _, future in waiting:
        if not future.done():
            future.set_exception(error)


def _run_all(tx: Connection, batch: dict[Work[Any, Any], _Waiting]) -> list[Sequence[Any]]:
    return [work(tx, [item for item, _ in waiting]) for work, waiting in batch.items()]
