"""The document, tried: a fuzzer asks everything that it declares and judges every answer."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks

from service.api.application import Parts, make_application
from service.api.server import Server
from service.app import document_of, judge_of
from service.clock import SystemClock
from service.settings import Settings
from service.storage.schema import migrate
from service.storage.sqlite import SqliteDatabase
from service.storage.store import Store
from tests.fakes import everybody_is_dev, unlimited
from tests.rows import add_delivery, add_two_events

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The URL of a service that runs in a thread, with a few rows to be found."""
    path = tmp_path_factory.mktemp("fuzzing") / "invoices.db"
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()
    thread = threading.Thread(target=asyncio.run, args=(serve(path, started),))
    thread.start()
    loop, stop, port = started.result(timeout=30)
    yield f"http://127.0.0.1:{port}"
    loop.call_soon_threadsafe(stop.set)
    thread.join()


async def serve(path, started):
    """Serve a new database at *path* until told to stop; tells *started* how."""
    database, stop = SqliteDatabase(f"sqlite:///{path}"), asyncio.Event()
    await migrate(database)
    store = Store(database)
    await add_delivery(store, "2expen51ve")
    await add_two_events(store, "two")
    app = make_application(
        Parts(
            store=store,
            clock=SystemClock(),
            document={"openapi": "3.1.0"},
            authenticate=everybody_is_dev,
            limit=unlimited,
            currency="USD",
            judge=judge_of(Settings()),
            is_ready=lambda: True,
        )
    )
    server = Server(app)
    port = await server.start("127.0.0.1", 0)
    started.set_result((asyncio.get_running_loop(), stop, port))
    await stop.wait()
    await server.stop()
    await database.close()


schema = schemathesis.openapi.from_dict(document_of(Settings()))


@schema.parametrize()
@settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_operation_keeps_the_document(case, served):
    """Whatever is asked, the answer is one that the document declares, and never a 500."""
    case.call_and_validate(base_url=served, checks=CHECKS)
