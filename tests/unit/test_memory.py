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
    """A database in memory."""
    return Memory()


@pytest.fixture
def store(memory):
    """A store on the database in memory."""
    return memory_store(memory)


async def ids(memory):
    """The ids of the stored invoices."""
    return [row["id"] for row in await rows_of(memory, invoices)]


async def test_an_unavailable_memory_raises_and_stores_nothing(store, memory):
    """While the memory is unavailable, reads and writes raise and nothing is stored."""
    memory.is_away = True
    for asked in (store.accept(an_invoice()), store.history.find_invoice("dev", "1"), store.ping()):
        with pytest.raises(StorageUnavailable):
            await asked

    memory.is_away = False
    assert [] == await ids(memory)
    assert Acceptance.STORED is await store.accept(an_invoice())


async def test_a_connection_can_be_lost_before_or_after_a_commit(store, memory):
    """Both losses raise the same error, but only a loss after the commit leaves a row."""
    memory.losses.extend([Loss.BEFORE, Loss.AFTER, None])

    for id_ in ("before", "after"):
        with pytest.raises(StorageUnavailable):
            await store.accept(an_invoice(id_))
    await store.accept(an_invoice("none"))

    assert ["after", "none"] == await ids(memory)
    assert Acceptance.REPLAYED is await store.accept(an_invoice("after"))


async def test_writes_can_be_held_back(store, memory):
    """Held writes wait, and are all written once the memory is opened."""
    memory.shut()
    accepting = [asyncio.create_task(store.accept(an_invoice(str(number)))) for number in range(3)]
    await memory.reached()
    await idle()
    assert [] == await ids(memory)

    memory.open()

    assert [Acceptance.STORED] * 3 == await asyncio.gather(*accepting)


async def test_returned_rows_are_copies(store, memory):
    """A change of a returned row does not change the stored row."""
    await store.accept(an_invoice())

    (await store.history.find_invoice("dev", "1"))["status"] = "changed"
    (await rows_of(memory, invoices))[0]["status"] = "changed"

    assert "received" == (await store.history.find_invoice("dev", "1"))["status"]
