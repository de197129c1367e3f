import asyncio

import pytest

from service.domain.states import Acceptance
from service.errors import StorageUnavailable
from service.storage.tables import invoices
from tests.clock import idle
from tests.memory import Loss, Memory, memory_store
from tests.rows import an_invoice, rows_of


@pytest.fixture
def memory():
    """What is tested."""
    return Memory()


@pytest.fixture
def store(memory):
    """A store in it."""
    return memory_store(memory)


async def ids(memory):
    """What is stored."""
    return [row["id"] for row in await rows_of(memory, invoices)]


async def test_a_memory_that_is_away_stores_and_tells_nothing(store, memory):
    """Writes and reads fail until it is back, and nothing is written meanwhile."""
    memory.is_away = True
    for asked in (store.accept(an_invoice()), store.find_invoice("dev", "1"), store.ping()):
        with pytest.raises(StorageUnavailable):
            await asked

    memory.is_away = False
    assert [] == await ids(memory)
    assert Acceptance.STORED is await store.accept(an_invoice())


async def test_a_commit_can_be_lost_before_and_after_it_was_made(store, memory):
    """Whoever asked cannot tell the two apart; only one of them has left something behind."""
    memory.losses.extend([Loss.BEFORE, Loss.AFTER, None])

    for id_ in ("before", "after"):
        with pytest.raises(StorageUnavailable):
            await store.accept(an_invoice(id_))
    await store.accept(an_invoice("none"))

    assert ["after", "none"] == await ids(memory)
    assert Acceptance.REPLAYED is await store.accept(an_invoice("after"))


async def test_writes_can_be_held_back(store, memory):
    """What waits at the gate is written together once it is opened."""
    memory.shut()
    accepting = [asyncio.create_task(store.accept(an_invoice(str(number)))) for number in range(3)]
    await memory.reached()
    await idle()
    assert [] == await ids(memory)

    memory.open()

    assert [Acceptance.STORED] * 3 == await asyncio.gather(*accepting)


async def test_what_was_read_is_no_part_of_the_memory(store, memory):
    """Nobody changes what is stored by changing what they were told."""
    await store.accept(an_invoice())

    (await store.find_invoice("dev", "1"))["status"] = "changed"
    (await rows_of(memory, invoices))[0]["status"] = "changed"

    assert "received" == (await store.find_invoice("dev", "1"))["status"]
