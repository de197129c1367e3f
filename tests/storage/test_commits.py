import asyncio
import threading

import pytest
from sqlalchemy import func, insert, select

from service.database.group_commit import GroupCommit
from service.database.sqlite import SqliteDatabase
from service.errors import StorageUnavailable
from service.storage.tables import origins
from tests.clock import PATIENCE_SECONDS, START
from tests.rows import a_database


class CountedDatabase(SqliteDatabase):
    """A database that counts its write transactions, and is out of order when told to be."""

    transaction_count = 0
    is_available = True

    async def write(self, work, *args, **options):
        """Count, then do as it is."""
        self.transaction_count += 1
        if not self.is_available:
            raise StorageUnavailable("database is locked")
        return await super().write(work, *args, **options)


@pytest.fixture
async def database(tmp_path):
    """A database that counts."""
    async with a_database(tmp_path, CountedDatabase) as database:
        database.transaction_count = 0
        yield database


@pytest.fixture
def commits(database):
    """What is tested, on that database."""
    return GroupCommit(database, observe_size=lambda _size: None)


def write_names(tx, names):
    """Write a row for each of *names*; a name that is None cannot be written."""
    tx.execute(insert(origins), [{"origin": name, "held_until": START} for name in names])
    return [f"{name} is written" for name in names]


def count_names(tx, names):
    """Answer how many rows there are, once for each of *names*."""
    return [tx.scalar(select(func.count()).select_from(origins)) for _ in names]


async def written(database):
    """The names that a reader sees."""
    return await database.read(lambda tx: list(tx.scalars(select(origins.c.origin))))


async def outcomes(*awaitables):
    """What each comes to, its exception included."""
    return await asyncio.gather(*awaitables, return_exceptions=True)


class Gate:
    """Work that stands still inside its transaction until a test lets it go."""

    def __init__(self):
        self.has_written = threading.Event()
        self.may_commit = threading.Event()

    def write(self, tx, names):
        """Write, say so, wait."""
        results = write_names(tx, names)
        self.has_written.set()
        assert self.may_commit.wait(PATIENCE_SECONDS)
        return results

    async def reached(self):
        """Wait until the work has written and does not go on."""
        assert await asyncio.to_thread(self.has_written.wait, PATIENCE_SECONDS)


async def test_work_that_comes_together_is_committed_together(database, commits):
    """Ten callers wait for the disk once, and each gets its own result."""
    names = [f"n{number}" for number in range(10)]

    results = await asyncio.gather(*(commits.run(write_names, name) for name in names))

    assert [f"{name} is written" for name in names] == results
    assert names == sorted(await written(database))
    assert 1 == database.transaction_count


async def test_work_that_comes_alone_is_committed_at_once(database, commits):
    """Nobody waits for company: there is no timer."""
    for name in ("a", "b", "c"):
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert f"{name} is written" == await commits.run(write_names, name)

    assert 3 == database.transaction_count


async def test_work_that_comes_during_a_commit_shares_the_next(database, commits):
    """While one transaction is being committed, the work of all others gathers."""
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
    """A round of leasing, an invoice and a settlement may all be one commit."""
    results = await asyncio.gather(
        commits.run(write_names, "a"), commits.run(count_names, "-"), commits.run(write_names, "b")
    )

    assert ["a is written", 2, "b is written"] == results
    assert 1 == database.transaction_count


async def test_results_come_after_the_commit(database, commits):
    """Nobody is told of what a reader could not see yet."""
    gate = Gate()
    running = asyncio.ensure_future(commits.run(gate.write, "a"))
    await gate.reached()

    assert [] == await written(database)
    assert not running.done()

    gate.may_commit.set()
    assert "a is written" == await running
    assert ["a"] == await written(database)


async def test_what_cannot_be_written_fails_alone(database, commits):
    """A poisonous item takes none of the others of its transaction with it."""
    given = await outcomes(
        commits.run(write_names, "a"), commits.run(write_names, None), commits.run(write_names, "b")
    )

    assert ("a is written", "b is written") == (given[0], given[2])
    assert isinstance(given[1], Exception)
    assert ["a", "b"] == sorted(await written(database))


async def test_what_fails_leaves_nothing_behind(database, commits):
    """What was written before an item failed is rolled back with it."""

    def write_and_fail(tx, names):
        write_names(tx, names)
        raise LookupError("afterwards")

    with pytest.raises(LookupError):
        await commits.run(write_and_fail, "a")

    assert [] == await written(database)


async def test_everything_goes_on_after_a_failure(database, commits):
    """A failed transaction is followed by others."""
    await outcomes(commits.run(write_names, None))

    assert "a is written" == await commits.run(write_names, "a")


async def test_a_database_that_is_away_fails_all_and_stores_nothing(database, commits):
    """Everybody who waits is told that nothing was stored, and may come again."""
    database.is_available = False

    given = await outcomes(*(commits.run(write_names, f"n{n}") for n in range(3)))

    assert [StorageUnavailable] * 3 == [type(one) for one in given]
    assert [] == await written(database)

    database.is_available = True
    assert "n0 is written" == await commits.run(write_names, "n0")


async def test_a_database_that_is_away_is_not_asked_again_for_each(database, commits):
    """Where each try takes seconds, a hundred callers do not wait for a hundred of them."""
    database.is_available = False

    await outcomes(*(commits.run(write_names, f"n{n}") for n in range(100)))

    assert 1 == database.transaction_count


async def test_a_caller_that_leaves_disturbs_nobody(database, commits):
    """Who is cancelled while waiting gets no answer, and the others get theirs."""
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


async def test_an_observer_that_raises_disturbs_nobody(database, caplog):
    """A defect in the metrics is logged, and what was committed and what follows succeeds."""

    def broken(_size):
        raise ZeroDivisionError

    commits = GroupCommit(database, broken)
    assert "one is written" == await commits.run(write_names, "one")
    assert "two is written" == await commits.run(write_names, "two")

    assert ["commit.unobserved"] * 2 == caplog.messages
    assert ["one", "two"] == sorted(await written(database))


async def test_work_that_forgets_an_item_is_not_committed(database, commits):
    """A work that answers too few results fails, writes nothing, and blocks nobody after it."""

    def forgets(tx, items):
        return []

    with pytest.raises(AssertionError, match="has not returned a result for every item"):
        await commits.run(forgets, 1)

    assert 2 == await commits.run(lambda tx, items: [item + 1 for item in items], 1)
