"""Every kind of store, with rows of its own for each test, in as many processes as a test needs."""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack

import pytest

from service.database.opening import open_database
from service.storage.store import Store
from tests.memory import Memory, memory_store


@pytest.fixture(params=["sqlite", "postgresql", "memory"])
def kind(request):
    """The kind of the store."""
    return request.param


@pytest.fixture
def place(kind, request, tmp_path):
    """The place of the rows: the URL of an empty database, or a memory."""
    if kind == "memory":
        return Memory()
    if kind == "postgresql":
        return request.getfixturevalue("postgres_url")
    new = request.getfixturevalue("new_database")
    return f"sqlite:///{shutil.copy(new, tmp_path / 'invoices.db')}"


@pytest.fixture
async def another_store(place):
    """A function that makes stores; each one stands for the store of another process."""
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
    """The database of the store, for reading its rows directly."""
    return store._database
