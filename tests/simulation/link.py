"""
What lies between a process and the shared memory: delays, lost commits, and the end of a process.

Each process reaches the memory over a link of its own. Whatever a process does after it was
killed ends here: it waits for ever, and nothing of it reaches the memory.
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext

from service.database.group_commit import GroupCommit
from service.errors import StorageUnavailable
from service.storage.store import Store
from tests import memory
from tests.memory import Loss, MemoryStore

AWAY_SECONDS = 1
"""How long it takes at most to find out that the database is away."""


async def delay(chance, most_seconds):
    """Nothing, a turn of the loop, or up to *most_seconds*: what decides who comes first."""
    kind = chance.random()
    if kind < 0.35:
        return
    await asyncio.sleep(0 if kind < 0.7 else round(chance.uniform(0, most_seconds), 6))


class Link:
    """Implements `service.database.engine.Database` for one process."""

    def __init__(self, world, process):
        self.has_one_writer = world.memory.has_one_writer
        self._world = world
        self._process = process
        self._chance = world.chance
        self.twin = world.twin
        self.signals = {}

    async def write(self, work):
        """Run *work* on the memory; the request and its answer both take their time."""
        await self._travel("write")
        loss = self._world.loss()
        if self._is_away():
            loss = Loss.BEFORE
        self._world.memory.losses.append(loss)
        try:
            result = await self._world.memory.write(lambda tx: self._watched(work, tx))
        except StorageUnavailable as error:
            self._process.unavailable_count += 1
            self._world.story.tell(self._process, "learns that {}", error)
            await delay(self._chance, AWAY_SECONDS)
            raise
        await self._travel("commit")
        return result

    async def read(self, work):
        """Run *work* on the memory."""
        await self._travel("read")
        if self._is_away() or self._world.loss():
            self._process.unavailable_count += 1
            raise StorageUnavailable("the memory is away")
        return await self._world.memory.read(work)

    def listen(self, signals):
        """Hear what others announce from now on."""
        self.signals = signals
        for signal in signals.values():
            signal.set()

    def announce(self, name):
        """Tell the others, unless they are deaf for it."""
        if not self._process.is_killed:
            self._world.announce(name, self._process)

    async def close(self):
        """Nothing has to be closed."""

    def _is_away(self):
        return self._world.memory.is_away or self._process.machine.is_cut_off

    def _watched(self, work, tx):
        twin = self._world.twin
        try:
            with twin.transaction(tx) if twin else nullcontext():
                result = work(tx)
            self._world.rules.look_at_states(tx)
            return result
        except Exception as error:
            self._world.story.violate("a transaction of {} failed: {!r}", self._process, error)
            raise

    async def _travel(self, station):
        """Go on after a while; a process may be killed on the way, and nothing goes on then."""
        await self._process.lives_on(station)
        await delay(self._chance, self._world.plan.commit_seconds)
        await self._process.lives_on(station)


class LinkedStore(MemoryStore):
    """The service's store at the end of a link; what it answers is compared with the memory."""

    def __init__(self, link, process, rules):
        super().__init__(link)
        self._rules = rules
        self._twin = link.twin
        self._commits = WatchedCommits(link, process, rules)

    async def settle(self, settlement):
        """As it is; the attempts to settle are remembered."""
        self._rules.settling(settlement)
        is_settled = await super().settle(settlement)
        self._rules.told_of_settlement(settlement, is_settled)
        return is_settled

    async def take_step(self, step):
        """As it is."""
        is_taken = await super().take_step(step)
        self._rules.told_of_step(step, is_taken)
        return is_taken

    async def _write(self, work, *given, **options):
        if self._twin:
            return await Store._write(self, self._done_twice(work), *given, **options)
        return await super()._write(work, *given, **options)

    def _done_twice(self, work):
        def done(tx, *given, **options):
            self._twin.do(work, *given, **options)
            return memory._WORK[work](tx, *given, **options)

        return done


class WatchedCommits(GroupCommit):
    """The service's group commit, whose work is done on the memory under watch."""

    def __init__(self, link, process, rules):
        super().__init__(link)
        self._process = process
        self._rules = rules
        self._twin = link.twin
        self._watched = {}

    def run(self, work, item):
        """As it is; *work* stays one and the same, so that it is grouped as ever."""
        if work not in self._watched:
            self._watched[work] = self._watch(work, memory._WORK[work])
        return super().run(self._watched[work], item)

    def _watch(self, work, done):
        def watched(tx, items):
            expected = self._twin.do_all(work, items) if self._twin else None
            answers = self._rules.watch(self._process, work, done, tx, items)
            if expected is not None and expected != answers:
                raise AssertionError(f"SQLite answers {expected}, and should {answers}")
            return answers

        return watched
