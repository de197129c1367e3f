import asyncio
import threading

import pytest
from sqlalchemy import func, insert, select

from service.database import group_commit
from service.database.group_commit import GroupCommit
from service.database.sqlite import SqliteDatabase
from service.errors import StorageUnavailable
from service.storage.tables import origins
from tests.clock import PATIENCE_SECONDS, START
from tests.rows import a_database


class CountedDatabase(SqliteDatabase):
    """A database that counts its write transactions and can be made unavailable."""

    transaction_count = 0
    is_available = True

    async def write(self, work, *args, **options):
        """Count the transaction, then write, or fail while the database is unavailable."""
        self.transaction_count += 1
        if not self.is_available:
            raise StorageUnavailable("database is locked")
        return await super().write(work, *args, **options)


@pytest.fixture
async def database(tmp_path, migrated):
    """A database that counts its write transactions."""
    async with a_database(tmp_path, CountedDatabase) as database:
        database.transaction_count = 0
        yield database


@pytest.fixture
def commits(database):
    """The group commit under test, on that database."""
    return GroupCommit(database, observe_size=lambda _size: None)


def write_names(tx, names):
    """Write a row for each of *names*; a name that is None cannot be written."""
    tx.execute(insert(origins), [{"origin": name, "held_until": START} for name in names])
    return [f"{name} is written" for name in names]


def count_names(tx, names):
    """Return the number of rows, once for each of *names*."""
    return [tx.scalar(select(func.count()).select_from(origins)) for _ in names]


async def written(database):
    """The names that a reader sees."""
    return await database.read(lambda tx: list(tx.scalars(select(origins.c.origin))))


async def outcomes(*awaitables):
    """The result of each awaitable; a failure is its exception."""
    return await asyncio.gather(*awaitables, return_exceptions=True)


class Gate:
    """Work that waits inside its transaction until the test allows the commit."""

    def __init__(self):
        self.has_written = threading.Event()
        self.may_commit = threading.Event()

    def write(self, tx, names):
        """Write the rows, report that, and wait."""
        results = write_names(tx, names)
        self.has_written.set()
        assert self.may_commit.wait(PATIENCE_SECONDS)
        return results

    async def reached(self):
        """Wait until the work has written its rows and waits."""
        assert await asyncio.to_thread(self.has_written.wait, PATIENCE_SECONDS)


async def test_concurrent_work_is_committed_together(database, commits):
    """Ten concurrent callers share one transaction, and each gets its own result."""
    names = [f"n{number}" for number in range(10)]

    results = await asyncio.gather(*(commits.run(write_names, name) for name in names))

    assert [f"{name} is written" for name in names] == results
    assert names == sorted(await written(database))
    assert 1 == database.transaction_count


async def test_single_work_is_committed_at_once(database, commits):
    """Work that comes alone is committed without a delay: there is no timer."""
    for name in ("a", "b", "c"):
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert f"{name} is written" == await commits.run(write_names, name)

    assert 3 == database.transaction_count


async def test_work_that_arrives_during_a_commit_shares_the_next(database, commits):
    """All work that arrives during one commit is written by the next transaction."""
    gate = Gate()
    first = asyncio.ensure_future(commits.run(gate.write, "first"))
    await gate.reached()
    others = [asyncio.ensure_future(commits.run(write_names, f"n{n}")) for n in range(5)]
    await database.read(lambda tx: None)

    gate.may_commit.set()
    await asyncio.gather(first, *others)

    assert 6 == len(await written(database))
    assert 2 == database.transaction_count


async def test_work_of_different_kinds_shares_a_transaction(database, commits):
    """A lease round, an invoice and a settlement can share one commit."""
    results = await asyncio.gather(
        commits.run(write_names, "a"), commits.run(count_names, "-"), commits.run(write_names, "b")
    )

    assert ["a is written", 2, "b is written"] == results
    assert 1 == database.transaction_count


async def test_results_come_after_the_commit(database, commits):
    """A caller gets its result only after readers can see the rows."""
    gate = Gate()
    running = asyncio.ensure_future(commits.run(gate.write, "a"))
    await gate.reached()

    assert [] == await written(database)
    assert not running.done()

    gate.may_commit.set()
    assert "a is written" == await running
    assert ["a"] == await written(database)


async def test_an_item_that_cannot_be_written_fails_alone(database, commits):
    """An item that fails does not fail the other items of its transaction."""
    given = await outcomes(
        commits.run(write_names, "a"), commits.run(write_names, None), commits.run(write_names, "b")
    )

    assert ("a is written", "b is written") == (given[0], given[2])
    assert isinstance(given[1], Exception)
    assert ["a", "b"] == sorted(await written(database))


async def test_a_failed_item_leaves_no_rows(database, commits):
    """The rows that an item wrote before it failed are rolled back."""

    def write_and_fail(tx, names):
        write_names(tx, names)
        raise LookupError("afterwards")

    with pytest.raises(LookupError):
        await commits.run(write_and_fail, "a")

    assert [] == await written(database)


async def test_work_is_committed_after_a_failure(database, commits):
    """After a failed transaction the next work is committed."""
    await outcomes(commits.run(write_names, None))

    assert "a is written" == await commits.run(write_names, "a")


async def test_an_unavailable_database_fails_all_and_stores_nothing(database, commits):
    """While the database is unavailable, every caller fails and nothing is stored."""
    database.is_available = False

    given = await outcomes(*(commits.run(write_names, f"n{n}") for n in range(3)))

    assert [StorageUnavailable] * 3 == [type(one) for one in given]
    assert [] == await written(database)

    database.is_available = True
    assert "n0 is written" == await commits.run(write_names, "n0")


async def test_an_unavailable_database_is_tried_once_for_all_callers(database, commits):
    """A hundred waiting callers cause one attempt to write, and not a hundred slow ones."""
    database.is_available = False

    await outcomes(*(commits.run(write_names, f"n{n}") for n in range(100)))

    assert 1 == database.transaction_count


async def test_a_cancelled_caller_does_not_disturb_the_others(database, commits):
    """A cancelled caller gets no result, and the other callers get theirs."""
    gate = Gate()
    first = asyncio.ensure_future(commits.run(gate.write, "first"))
    await gate.reached()
    leaving = asyncio.ensure_future(commits.run(write_names, "leaving"))
    staying = asyncio.ensure_future(commits.run(write_names, "staying"))
    await database.read(lambda tx: None)

    leaving.cancel()
    first.cancel()
    gate.may_commit.set()

    assert "staying is written" == await staying
    assert [True, True] == [
        isinstance(one, asyncio.CancelledError) for one in await outcomes(first, leaving)
    ]


async def test_an_observer_that_raises_does_not_disturb_commits(database, caplog):
    """An exception of the metrics is logged; this commit and the next one succeed."""

    def broken(_size):
        raise ZeroDivisionError

    commits = GroupCommit(database, broken)
    assert "one is written" == await commits.run(write_names, "one")
    assert "two is written" == await commits.run(write_names, "two")

    assert ["commit.unobserved"] * 2 == caplog.messages
    assert ["one", "two"] == sorted(await written(database))


async def test_work_with_too_few_results_is_not_committed(database, commits):
    """Work that returns too few results fails and writes nothing; the next work succeeds."""

    def forgets(tx, items):
        return []

    with pytest.raises(AssertionError, match="has not returned a result for every item"):
        await commits.run(forgets, 1)

    assert 2 == await commits.run(lambda tx, items: [item + 1 for item in items], 1)


@pytest.fixture
def are_gathered(monkeypatch):
    """Items for which nobody waits join the next transaction; alone, they wait for ever."""
    monkeypatch.setattr(group_commit, "GATHER_SECONDS", 0)
    monkeypatch.setattr(group_commit, "COMPANY_SECONDS", 3600)


@pytest.mark.usefixtures("are_gathered")
async def test_work_that_nobody_awaits_shares_the_next_transaction(database, commits):
    """It begins no transaction: the next work that is awaited takes it along."""
    alone = commits.run(write_names, "patient", is_awaited=False)
    await database.read(lambda tx: None)
    assert 0 == database.transaction_count

    await commits.run(write_names, "awaited")

    assert alone.done()
    assert ["awaited", "patient"] == sorted(await written(database))
    assert 1 == database.transaction_count


async def test_work_that_nobody_awaits_waits_for_more_of_it(database, commits, monkeypatch):
    """For a moment it joins no transaction: many such items in one cost less than one in each."""
    monkeypatch.setattr(group_commit, "GATHER_SECONDS", 3600)
    monkeypatch.setattr(group_commit, "COMPANY_SECONDS", 7200)
    patient = commits.run(write_names, "patient", is_awaited=False)

    await commits.run(write_names, "awaited")

    assert not patient.done()
    assert ["awaited"] == await written(database)


async def test_work_that_nobody_awaits_is_committed_soon(database, commits):
    """Without company it is committed all the same, after a moment."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert "a is written" == await commits.run(write_names, "a", is_awaited=False)

    assert ["a"] == await written(database)


@pytest.mark.usefixtures("are_gathered")
async def test_work_that_nobody_awaits_is_not_committed_behind_another(database, commits):
    """What arrives during a commit and is not awaited waits for company too."""
    gate = Gate()
    first = asyncio.ensure_future(commits.run(gate.write, "first"))
    await gate.reached()
    patient = [commits.run(write_names, f"n{n}", is_awaited=False) for n in range(3)]

    gate.may_commit.set()
    await first
    await commits.run(write_names, "last")

    assert all(one.done() for one in patient)
    assert 2 == database.transaction_count
