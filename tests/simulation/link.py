"""
What lies between a process and the shared memory: delays, lost commits, and the end of a process.

Each process reaches the memory over a link of its own, which is its database. Every transaction is
watched there: by the invariants, and by the twin if there is one. Whatever a process does after it
was killed ends here: it waits for ever, and no effect of it reaches the memory.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

from service.database.group_commit import run_batch
from service.errors import StorageUnavailable
from tests.memory import Loss

AWAY_SECONDS = 1
"""How long it takes at most to find out that the database is away."""


async def delay(chance, seconds_max):
    """Nothing, a turn of the loop, or up to *seconds_max*: what decides who comes first."""
    kind = chance.random()
    if kind < 0.35:
        return
    await asyncio.sleep(0 if kind < 0.7 else round(chance.uniform(0, seconds_max), 6))


class WatchedDatabase:
    """Implements `service.database.engine.Database` for *process*: the memory, under watch."""

    def __init__(self, world, process):
        self.has_one_writer = world.memory.has_one_writer
        self._world = world
        self._process = process

    async def write(self, work, *args, **options):
        """Run *work* on the memory and on its twin, which must agree."""
        return await self._world.memory.write(self._transaction, work, args, options)

    async def read(self, work, *args, **options):
        """Run *work* on the memory and on its twin, which must agree."""
        return await self._world.memory.read(self._result, work, args, options)

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
        except Exception as error:
            self._world.story.violate("a transaction of {} failed: {!r}", self._process, error)
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
        """The result of *work*, which has a transaction of its own."""
        twin = self._world.twin
        expected = twin.do(work, *args, **options) if twin else None
        result = self._world.rules.watch(self._process, work, tx, args, options)
        if twin:
            twin.compare(work, expected, result)
        return result


class Link(WatchedDatabase):
    """The database of one process: every way takes its time, and may be interrupted."""

    def __init__(self, world, process):
        super().__init__(world, process)
        self._chance = world.chance
        self.signals = {}

    async def write(self, work, *args, **options):
        """Run *work* on the memory; the request and its answer both take their time."""
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
            self._world.story.add(self._process, "learns that {}", error)
            await delay(self._chance, AWAY_SECONDS)
            raise
        await self._travel("commit")
        return result

    async def read(self, work, *args, **options):
        """Run *work* on the memory."""
        await self._travel("read")
        if self._is_away() or self._world.loss():
            self._process.unavailable_count += 1
            raise StorageUnavailable("the memory is away")
        return await super().read(work, *args, **options)

    def listen(self, signals):
        """Receive notifications from now on."""
        self.signals = signals
        for signal in signals.values():
            signal.set()

    def notify(self, name):
        """Notify the other processes; each notification may be lost."""
        if not self._process.is_killed:
            self._world.notify(name, self._process)

    def _is_away(self):
        return self._world.memory.is_away or self._process.machine.is_cut_off

    async def _travel(self, station):
        """Go on after a while; a process may be killed on the way, and stays there then."""
        await self._process.lives_on(station)
        await delay(self._chance, self._world.plan.commit_seconds)
        await self._process.lives_on(station)
