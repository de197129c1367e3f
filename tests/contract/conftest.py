"""The wired service on its own database, called in process or over a socket."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest
from aiohttp import DummyCookieJar

from service.api.application import OPERATIONS, make_application
from service.app.assembling import assemble
from service.app.documents import document_of, receiver_document_of
from service.app.edges import Edges
from service.app.process import DEVELOPMENT
from service.collection.sandbox import Sandbox
from service.database import group_commit
from service.database.sqlite import SqliteDatabase
from service.development import for_development
from service.pages.console.serving import add_console
from service.receiver.document import VERSIONS
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.web import server as server_module
from service.web.connections import ConnectionLimits
from service.web.server import Server
from tests.clock import START, ManualClock
from tests.fakes import SILENT, FakeReceivers
from tests.mails import FakeTransport
from tests.pages import ConsoleBrowser

HOST = "127.0.0.1"
PATIENCE_SECONDS = 20


class FaultyDatabase(SqliteDatabase):
    """SQLite; an error that *fault* returns for the work of a transaction is raised instead."""

    @staticmethod
    def fault(_work):
        """No transaction fails unless a test replaces this function."""

    async def write(self, work, *args, **options):
        """As it is, unless it fails."""
        if error := self.fault(work):
            raise error
        return await super().write(work, *args, **options)

    async def read(self, work, *args, **options):
        """As it is, unless it fails."""
        if error := self.fault(work):
            raise error
        return await super().read(work, *args, **options)

    async def browse(self, work, *args, **options):
        """As it is, unless it fails."""
        if error := self.fault(work):
            raise error
        return await super().browse(work, *args, **options)


@pytest.fixture
def settings():
    """The default settings: receivers are checked as in production."""
    return Settings()


@pytest.fixture
def process():
    """Every request without a key belongs to the account `dev`."""
    return DEVELOPMENT


@pytest.fixture
def metrics():
    """The metrics of the service."""
    return Metrics("1.2.3")


@pytest.fixture
def clock(monkeypatch):
    """The clock of the whole service."""
    # For others, a settlement waits in the time of the machine.
    monkeypatch.setattr(group_commit, "COMPANY_SECONDS", 0)
    return ManualClock(START)


@pytest.fixture
def receivers():
    """The fake of all receivers."""
    return FakeReceivers()


@pytest.fixture
async def database(tmp_path, new_database):
    """A new database."""
    path = shutil.copy(new_database, tmp_path / "invoices.db")
    database = FaultyDatabase(f"sqlite:///{path}")
    yield database
    await database.close()


@pytest.fixture(scope="session")
def document():
    """The document with default settings."""
    return document_of(Settings())


@pytest.fixture
def served_document():
    """A short document to serve: only the tests of the document need the real one."""
    return {"openapi": "3.1.0"}


@pytest.fixture
def assembled(settings, process, metrics, clock, receivers, database, served_document):
    """Wires the service; a test may pass other settings, operations or edges."""

    def make(settings=settings, operations=OPERATIONS, document=served_document, **edges):
        usual = {
            "database": database,
            "sender": receivers,
            "collector": Sandbox(timedelta(0)),
            "mail_transport": FakeTransport(),
            "clock": clock,
            "chance": lambda: 0.5,
            "tracing": SILENT,
        }
        edges = Edges(**{**usual, **edges})
        of_receiver = {
            openapi: receiver_document_of(settings, operations, openapi=openapi)
            for openapi in (VERSIONS if "paths" in document else ())
        }
        return assemble(
            settings, process, edges, operations, document, metrics, of_receiver or None
        )

    return make


@pytest.fixture
def service(assembled):
    """The service; its loops run only if a test starts them."""
    return assembled()


@pytest.fixture
def store(service):
    """The store of the service."""
    return service.store


@pytest.fixture
def dependencies(service):
    """The dependencies of the application."""
    return service.dependencies


@pytest.fixture
async def api(aiohttp_client, dependencies):
    """A client of the application in process."""
    return await aiohttp_client(make_application(dependencies))


@pytest.fixture
async def dev_api(aiohttp_client, assembled):
    """A client of the application in development mode, which permits receivers at any address."""
    dependencies = assembled(for_development(Settings())).dependencies
    return await aiohttp_client(make_application(dependencies))


@dataclass(frozen=True)
class Wire:
    """Sends bytes to the listening service."""

    port: int

    async def connect(self):
        """A reader and a writer of one connection."""
        return await asyncio.open_connection(HOST, self.port)

    async def talk(self, *pieces):
        """Send *pieces*; returns all that the service sends until it closes the connection."""
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
            # It closed the connection without reading all: what it sent before that counts.
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
    """Shortens the time in which the service discards the rest of refused requests."""
    monkeypatch.setattr(server_module, "LINGER_SECONDS", 0.05)


@pytest.fixture
async def wire(dependencies, short_linger):
    """The service on a real socket."""
    async with listening(dependencies) as wire:
        yield wire


@pytest.fixture
async def browsers(aiohttp_client, service):
    """Makes browsers in front of the service."""
    app = make_application(service.dependencies)
    add_console(app, service.console)
    # The cookies of one browser are not those of another one.
    client = await aiohttp_client(app, cookie_jar=DummyCookieJar())
    return lambda: ConsoleBrowser(client)


@pytest.fixture
def browser(browsers):
    """A browser in which nobody is signed in."""
    return browsers()
