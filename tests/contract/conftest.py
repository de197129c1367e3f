"""The application on a database of its own: asked in process, or over a socket."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from service.api.application import make_application
from service.api.dependencies import Dependencies
from service.app import document_of, judge_of
from service.database.sqlite import SqliteDatabase
from service.development import for_development
from service.settings import Settings
from service.storage.store import Store
from service.telemetry.metrics import Metrics
from service.web import server as server_module
from service.web.connections import ConnectionLimits
from service.web.server import Server
from tests.clock import START, ManualClock
from tests.fakes import everybody_is_dev, unlimited

HOST = "127.0.0.1"
PATIENCE_SECONDS = 20


@pytest.fixture
def metrics():
    """What is counted."""
    return Metrics("1.2.3")


@pytest.fixture
async def store(tmp_path, new_database, metrics):
    """The store on a new database."""
    path = shutil.copy(new_database, tmp_path / "invoices.db")
    database = SqliteDatabase(f"sqlite:///{path}")
    yield Store(database, metrics.committed)
    await database.close()


@pytest.fixture(scope="session")
def document():
    """The document with default settings."""
    return document_of(Settings())


@pytest.fixture
def served_document():
    """What the application serves as its document: only its own tests need the real one."""
    return {"openapi": "3.1.0"}


@pytest.fixture
def dependencies(store, metrics, served_document):
    """What the application of these tests is made of; receivers are judged as in production."""
    return Dependencies(
        store=store,
        accept=store.accept,
        metrics=metrics,
        clock=ManualClock(START),
        document=served_document,
        authenticate=everybody_is_dev,
        limit=unlimited,
        currency="USD",
        judge=judge_of(Settings()),
        is_ready=lambda: True,
    )


@pytest.fixture
async def api(aiohttp_client, dependencies):
    """Asks the application in process."""
    return await aiohttp_client(make_application(dependencies))


@pytest.fixture
async def dev_api(aiohttp_client, dependencies):
    """Asks the application as `--dev` has it: receivers may be anywhere."""
    settings = for_development(Settings())
    return await aiohttp_client(make_application(replace(dependencies, judge=judge_of(settings))))


@dataclass(frozen=True)
class Wire:
    """Sends bytes to the listening service."""

    port: int

    async def connect(self):
        """A reader and a writer of one connection."""
        return await asyncio.open_connection(HOST, self.port)

    async def talk(self, *pieces):
        """Send *pieces* and return everything that is answered until the service hangs up."""
        reader, writer = await self.connect()
        answer = bytearray()
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            async with asyncio.timeout(PATIENCE_SECONDS):
                while some := await reader.read(2**16):
                    answer += some
        except ConnectionError:
            # It hung up without reading all: what it said before that counts.
            pass
        finally:
            writer.close()
        return bytes(answer)


@asynccontextmanager
async def listening(dependencies, **limits):
    """The service on a real socket, behind the server that it has in production."""
    server = Server(make_application(dependencies), ConnectionLimits(**limits))
    port = await server.start(HOST, 0)
    yield Wire(port)
    await server.stop()


@pytest.fixture
def short_linger(monkeypatch):
    """What is left of refused requests is thrown away for a moment only."""
    monkeypatch.setattr(server_module, "LINGER_SECONDS", 0.05)


@pytest.fixture
async def wire(dependencies, short_linger):
    """The service on a real socket."""
    async with listening(dependencies) as wire:
        yield wire
