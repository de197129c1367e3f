"""
The link between a process and the shared memory: delays, lost commits, and kills.

Each process has a link of its own, which is its database. Every transaction on it is checked: by
the invariants, and by the twin if there is one. A killed process stops at its next use of the
link: it waits for ever, and no write of it reaches the memory.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

from service.database.group_commit import run_batch
from service.domain.payment import NothingLeft
from service.errors import Conflict, StorageUnavailable
from service.storage import notices, observations, receiver_hours
from tests.memory import Loss

AWAY_SECONDS = 1
"""How long a process may need to notice that the database is unavailable."""


ASIDE = {observations.record, notices.find_due, notices.give, receiver_hours.remove_old}
"""
What no attempt depends on. It takes no time, and nothing random happens to it: worlds go as they
would without it, and are not harder to read for it.
"""


async def delay(chance, seconds_max):
    """Wait not at all, for one turn of the loop, or up to *seconds_max*, to vary the order."""
    kind = chance.random()
    if kind < 0.35:
        return
    await asyncio.sleep(0 if kind < 0.7 else round(chance.uniform(0, seconds_max), 6))


class WatchedDatabase:
    """Implements `service.database.engine.Database` for *process*: the memory, with checks."""

    def __init__(self, world, process):
        self.has_one_writer = world.memory.has_one_writer
        self.writes_at_once = False
        self.is_shared = False
        self._world = world
        self._process = process

    async def write(self, work, *args, **options):
        """Run *work* on the memory and on its twin; their results must be equal."""
        return await self._world.memory.write(self._transaction, work, args, options)

    async def read(self, work, *args, **options):
        """Run *work* on the memory and on its twin; their results must be equal."""
        return await self._world.memory.read(self._result, work, args, options)

    browse = read

    def _transaction(self, tx, work, args, options):
        twin = self._world.twin
        try:
            with twin.transaction(tx) if twin else nullcontext():
                if work is run_batch:
                    results = [self._results(tx, *entry) for entry in args[0].items()]
                else:
                    results = self._result(tx, work, args, options)
            self._world.rules.check_states(tx)
            return results
        except (Conflict, NothingLeft):
            # The answer to a request that asks for what is not possible.
            raise
        except Exception as error:
            self._world.log.violate("a transaction of {} failed: {!r}", self._process, error)
            raise

    def _results(self, tx, work, items):
        """The results for *items*, which share a transaction."""
        twin = self._world.twin
        expected = twin.do_all(work, items) if twin else None
        results = self._world.rules.watch_items(self._process, work, tx, items)
        if twin:
            twin.compare(work, expected, results)
        return results

    def _result(self, tx, work, args, options):
        """The result of *work*, which has its own transaction."""
        twin = self._world.twin
        expected = twin.do(work, *args, **options) if twin else None
        result = self._world.rules.watch(self._process, work, tx, args, options)
        if twin:
            twin.compare(work, expected, result)
        return result


class Link(WatchedDatabase):
    """The database of one process: each request takes time and may be interrupted."""

    def __init__(self, world, process):
        super().__init__(world, process)
        self._chance = world.chance
        self.signals = {}

    async def write(self, work, *args, **options):
        """Run *work* on the memory; the request and its answer both take time."""
        if work in ASIDE:
            self._world.memory.losses.append(Loss.BEFORE if self._is_away() else None)
            return await super().write(work, *args, **options)
        if work is run_batch:
            self._world.rules.batch_begins(args[0])
        await self._travel("write")
        loss = self._world.loss()
        if self._is_away():
            loss = Loss.BEFORE
        self._world.memory.losses.append(loss)
        try:
            result = await super().write(work, *args, **options)
        except StorageUnavailable as error:
            self._process.unavailable_count += 1
            self._world.log.add(self._process, "learns that {}", error)
            await delay(self._chance, AWAY_SECONDS)
            raise
        await self._travel("commit")
        return result

    async def read(self, work, *args, **options):
        """Run *work* on the memory."""
        if work in ASIDE:
            return await super().read(work, *args, **options)
        await self._travel("read")
        if self._is_away() or self._world.loss():
            self._process.unavailable_count += 1
            raise StorageUnavailable("the memory is unavailable")
        result = await super().read(work, *args, **options)
        if self._world.rules.fairness:
            self._world.rules.fairness.has_read(self._process, work, args, result)
        return result

    async def browse(self, work, account_id, *args, **options):
        """Run *work*, which an account has asked for, on the memory."""
        fairness = self._world.rules.fairness
        with fairness.reading(self._process, account_id) if fairness else nullcontext():
            return await self.read(work, account_id, *args, **options)

    def listen(self, signals):
        """Receive notifications from now on."""
        self.signals = signals
        for signal in signals.values():
            signal.set()

    def notify(self, name, details=()):
        """Notify the other processes; each notification may be lost."""
        if not self._process.is_killed:
            self._world.notify(name, details, self._process)

    def _is_away(self):
        return self._world.memory.is_away or self._process.machine.is_cut_off

    async def _travel(self, point):
        """Wait for a moment; a process that is killed meanwhile waits for ever."""
        await self._process.pass_kill_point(point)
        await delay(self._chance, self._world.plan.commit_seconds)
        await self._process.pass_kill_point(point)
