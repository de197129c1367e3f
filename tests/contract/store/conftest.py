"""Every store there is, each on rows of its own, in as many processes as a test wants."""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack

import pytest

from service.database.opening import open_database
from service.storage.store import Store
from tests.memory import Memory, memory_store


@pytest.fixture(params=["sqlite", "postgresql", "memory"])
def kind(request):
    """Which store is asked to keep its promises."""
    return request.param


@pytest.fixture
def place(kind, request, tmp_path):
    """Where the rows of this test are: the URL of an empty database, or a memory."""
    if kind == "memory":
        return Memory()
    if kind == "postgresql":
        return request.getfixturevalue("postgres_url")
    new = request.getfixturevalue("new_database")
    return f"sqlite:///{shutil.copy(new, tmp_path / 'invoices.db')}"


@pytest.fixture
async def another_store(place):
    """Makes stores, each of which is what another process has."""
    async with AsyncExitStack() as stack:

        def make():
            if isinstance(place, Memory):
                return memory_store(place)
            database = open_database(place)
            stack.push_async_callback(database.close)
            return Store(database)

        yield make


@pytest.fixture
def store(another_store):
    """The store of this process."""
    return another_store()


@pytest.fixture
def elsewhere(another_store):
    """The store of another process, on the same rows."""
    return another_store()


@pytest.fixture
def database(store):
    """What the rows are in, to look at them as they are."""
    return store._database
