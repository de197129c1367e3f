import asyncio
from datetime import timedelta

import pytest

from service.accounts.memory import FRESH, KNOWN_MAX, Memory
from service.errors import StorageUnavailable

MICROSECOND = timedelta(microseconds=1)


class Source:
    """What is remembered: each read of a name says how many there were before it."""

    def __init__(self):
        self.names = []
        self.is_away = False

    async def read(self, name):
        """The number of this read."""
        if self.is_away:
            raise StorageUnavailable("away")
        self.names.append(name)
        return len(self.names)


@pytest.fixture
def source():
    """Where answers come from."""
    return Source()


@pytest.fixture
def memory(source, clock):
    """What is tested."""
    return Memory(source.read, clock)


def test_freshness_is_what_operators_are_told():
    """docs/operations.md speaks of five seconds."""
    assert timedelta(seconds=5) == FRESH


async def test_what_is_fresh_is_not_read_again(memory, source, clock):
    """However many ask within the time, one read serves them."""
    assert 1 == await memory.get("a")
    clock.advance(FRESH - MICROSECOND)

    assert 1 == await memory.get("a")
    assert ["a"] == source.names


async def test_what_is_no_longer_fresh_is_read_again(memory, source, clock):
    """After the time, the next who asks is told what is true then."""
    await memory.get("a")
    clock.advance(FRESH)

    assert 2 == await memory.get("a")
    assert ["a", "a"] == source.names


async def test_asking_does_not_prolong_freshness(memory, clock):
    """What is asked for all the time is read again all the same."""
    given = []
    for _ in range(10):
        given.append(await memory.get("a"))
        clock.advance(FRESH / 2)

    assert [1, 1, 2, 2, 3, 3, 4, 4, 5, 5] == given


async def test_names_are_remembered_apart(memory, source):
    """Nobody is told what is true of somebody else."""
    assert (1, 2, 1) == (await memory.get("a"), await memory.get("b"), await memory.get("a"))
    assert ["a", "b"] == source.names


async def test_that_there_is_nothing_is_remembered_too(clock):
    """A wrong key that comes again and again is looked up once in five seconds."""
    names = []

    async def find(name):
        names.append(name)

    memory = Memory(find, clock)

    assert [None, None] == [await memory.get("a") for _ in range(2)]
    assert ["a"] == names


async def test_a_clock_that_is_set_back_makes_nothing_last(memory, clock):
    """What was read in what is the future now is read again, and not fresh for an hour."""
    await memory.get("a")
    clock.advance(timedelta(hours=-1))

    assert 2 == await memory.get("a")


async def test_a_read_that_failed_is_not_remembered(memory, source):
    """As soon as the database is back, it is asked."""
    source.is_away = True
    with pytest.raises(StorageUnavailable):
        await memory.get("a")
    source.is_away = False

    assert 1 == await memory.get("a")


async def test_an_outage_does_not_make_old_answers_do(memory, source, clock):
    """What is no longer fresh is not told, even where nothing newer can be had."""
    await memory.get("a")
    source.is_away = True
    clock.advance(FRESH)

    with pytest.raises(StorageUnavailable):
        await memory.get("a")


async def test_memory_is_bounded(memory, source):
    """Of many names, those that were read longest ago are forgotten."""
    for number in range(KNOWN_MAX + 10):
        await memory.get(str(number))
    source.names.clear()

    assert KNOWN_MAX == len(memory._known)
    await memory.get(str(KNOWN_MAX + 9))
    assert [] == source.names
    await memory.get("0")
    assert ["0"] == source.names


async def test_a_name_that_is_read_again_is_not_the_oldest(memory, source, clock):
    """Who asks all the time is not forgotten for those who came once."""
    for number in range(KNOWN_MAX):
        await memory.get(str(number))
    clock.advance(FRESH)
    await memory.get("0")
    await memory.get("new")
    source.names.clear()

    await memory.get("0")
    assert [] == source.names


async def test_many_who_ask_at_once_are_all_answered(memory):
    """Nobody who asks while another's answer is on its way is left without one."""
    given = await asyncio.gather(*(memory.get("a") for _ in range(5)))

    assert 5 == len(given)
    assert await memory.get("a") in given
