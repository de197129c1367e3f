"""A fuzzer calls every operation of the document and checks every response."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from random import Random

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks

from service.api.application import make_application
from service.app.assembling import assemble
from service.app.documents import document_of
from service.app.edges import Edges
from service.app.process import ALONE, DEVELOPMENT
from service.collection.sandbox import Sandbox
from service.database.sqlite import SqliteDatabase
from service.loops import running_loops
from service.settings import Settings
from service.storage.schema import migrate
from service.web.server import Server
from tests.clock import PATIENCE_SECONDS
from tests.fakes import FakeReceivers
from tests.mails import FakeTransport
from tests.rows import add_delivery, add_two_events

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The URL of a service that needs no key, with a few rows in its database."""
    with in_a_thread(tmp_path_factory.mktemp("open"), DEVELOPMENT) as url:
        yield url


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """The URL of the same service, where every request needs a key."""
    with in_a_thread(tmp_path_factory.mktemp("guarded"), ALONE) as url:
        yield url


@contextmanager
def in_a_thread(folder, process):
    """The URL of a service in a thread, wired as *process*."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()
    work = serve(folder / "invoices.db", process, started)
    thread = threading.Thread(target=asyncio.run, args=(work,))
    thread.start()
    loop, stop, port = started.result(timeout=30)
    yield f"http://127.0.0.1:{port}"
    loop.call_soon_threadsafe(stop.set)
    thread.join()


async def serve(path, process, started):
    """Serve a new database at *path* until it is stopped; sets the result of *started*."""
    database, stop = SqliteDatabase(f"sqlite:///{path}"), asyncio.Event()
    await migrate(database)
    collector = Sandbox(timedelta(0))
    edges = Edges(
        database=database,
        sender=FakeReceivers(),
        collector=collector,
        mail_transport=FakeTransport(),
        # Hypothesis, in another thread, forbids use of the random numbers that all share.
        chance=Random(0).random,
    )
    service = assemble(Settings(rate_limit=0), process, edges, document={"openapi": "3.1.0"})
    await add_delivery(service.store, "2expen51ve")
    await add_two_events(service.store, "two")
    server = Server(make_application(service.dependencies))
    async with running_loops(service.loops, drain_seconds=PATIENCE_SECONDS):
        port = await server.start("127.0.0.1", 0)
        started.set_result((asyncio.get_running_loop(), stop, port))
        await stop.wait()
        await server.stop()
    await database.close()


document = schemathesis.openapi.from_dict(document_of(Settings()))
# This service has no pages; `test_schemathesis` tries those of a whole one.
# A connection for events never ends by itself; `test_listening_api` opens it.
document = document.exclude(tag="pages")
schema = document.exclude(operation_id="open_stream")


def tried(count):
    """Generate *count* examples for each operation, the same ones in every run."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@schema.parametrize()
@tried(30)
def test_every_response_is_declared_in_the_document(case, served):
    """Every response is declared in the document, and none is a 500."""
    case.call_and_validate(base_url=served, checks=CHECKS)


@document.parametrize()
@tried(10)
def test_no_request_without_a_key_is_accepted(case, guarded):
    """Every request without a key to a private operation is refused as the document says."""
    answer = case.call(base_url=guarded)

    case.validate_response(answer, checks=CHECKS)
    is_open = [] == case.operation.definition.raw.get("security")
    # Methods that are not in the document are tried too, and reveal nothing about an account.
    is_declared = case.method.upper() == case.operation.method.upper()
    assert is_open or not is_declared or answer.status_code in {400, 401}
