"""Runs the service of one process, and drains it at the end."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from service import __version__
from service.api.application import OPERATIONS, make_application, make_health_application
from service.api.operations import Operation
from service.app.assembling import Service, assemble
from service.app.databases import migrated_database
from service.app.documents import document_of, receiver_document_of
from service.app.edges import Edges, connected_to_stripe, mail_transport_of, sender_of
from service.app.process import ALONE, Process, Role
from service.clock import Clock
from service.collection.sandbox import Sandbox
from service.delivery.sender import Sender
from service.development import served_hosts
from service.errors import StorageUnavailable
from service.loops import running_loops
from service.pages.console.serving import add_console
from service.pages.pay import add_pages
from service.receiver.document import VERSIONS
from service.settings import Settings
from service.telemetry.descriptors import Descriptors
from service.telemetry.exporter import exported_traces
from service.telemetry.metrics import Metrics
from service.web.addresses import SETTINGS
from service.web.connections import ConnectionLimits
from service.web.hosts import make_host_check
from service.web.server import Server

LEAVE_SECONDS = 2
"""How long a stop waits until the database has recorded it."""


@dataclass(frozen=True, slots=True)
class Running:
    """A process that serves; *failed* is done once one of its loops has ended by itself."""

    port: int
    database: str
    """The database product, and its version if it is a library in this program."""
    failed: asyncio.Future[None]


@asynccontextmanager
async def running(
    settings: Settings, process: Process = ALONE, operations: Sequence[Operation] = OPERATIONS
) -> AsyncIterator[Running]:
    """
    Run the service as *process* inside the block; at its end it is drained.

    Raises:
        ConfigurationError: before anything is started.
        AddressError: if an address cannot be listened on.
    """
    document = document_of(settings, operations, is_development=process.is_development)
    receiver_documents: dict[str, dict[str, Any]] = {
        openapi: receiver_document_of(settings, operations, openapi=openapi) for openapi in VERSIONS
    }
    async with (
        _counted(process) as metrics,
        exported_traces() as tracing,
        migrated_database(settings) as database,
        sender_of(settings) as sender,
        connected_to_stripe(settings) as stripe,
    ):
        edges = Edges(
            database=database,
            sender=sender,
            collector=Sandbox(settings.sandbox_delay),
            stripe=stripe,
            mail_transport=mail_transport_of(settings),
            tracing=tracing,
        )
        service = assemble(
            settings,
            process,
            edges,
            operations,
            document,
            metrics,
            receiver_documents=receiver_documents,
        )
        if not process.is_development:
            await service.signing_secrets.check()
        service.store.listen()
        drain_seconds = settings.drain_timeout.total_seconds()
        async with (
            _joined(service, edges.clock),
            running_loops(service.loops, drain_seconds=drain_seconds) as failed,
            _serving(service, settings, process, operations) as port,
            _watched_descriptors(sender, metrics),
        ):
            yield Running(port, database.product, failed)


@asynccontextmanager
async def _counted(process: Process) -> AsyncIterator[Metrics]:
    """The metrics of *process*, which are complete after the block."""
    metrics = Metrics(__version__, worker_number=process.worker_number)
    try:
        yield metrics
    finally:
        metrics.flush()


@asynccontextmanager
async def _serving(
    service: Service, settings: Settings, process: Process, operations: Sequence[Operation]
) -> AsyncIterator[int]:
    """Serve the API, or health and metrics alone; gives the port that is listened on."""
    checks = [make_host_check(served_hosts(settings))] if process.is_development else []
    if process.role is Role.DISPATCHER:
        app = make_health_application(service.dependencies, checks)
    else:
        app = make_application(service.dependencies, operations, checks)
        add_pages(app, service.payments)
        add_console(app, service.console)
    limits = ConnectionLimits(settings.connection_limit, settings.idle_timeout.total_seconds())
    server = Server(app, limits, service.dependencies.metrics.connections_open)
    try:
        yield await server.start(
            settings.host, settings.port, is_shared=process.is_worker, names=SETTINGS
        )
    finally:
        await server.stop()
        await service.open_deliveries.close()


@asynccontextmanager
async def _joined(service: Service, clock: Clock) -> AsyncIterator[None]:
    """Inside the block, a process with loops is one of those that take leases."""
    if not service.loops:
        yield
        return
    await service.store.join(clock.now())
    try:
        yield
    finally:
        # If this fails, other processes find it silent.
        with suppress(StorageUnavailable, TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await service.store.leave(clock.now())


@asynccontextmanager
async def _watched_descriptors(sender: Sender, metrics: Metrics) -> AsyncIterator[None]:
    """
    Inside the block, descriptors are counted; if none is left, idle connections are closed.

    Workers share what their accounts have at the same interval.
    """

    def report(used: int, allowed: int) -> None:
        metrics.descriptors(used, allowed)
        metrics.connections_kept(sender.kept_count)
        metrics.accounts.share()

    descriptors = Descriptors(metrics.descriptors_exhausted, report, sender.close_kept)
    sender.on_exhausted = descriptors.exhausted
    watching = asyncio.create_task(descriptors.watch())
    try:
        yield
    finally:
        watching.cancel()
