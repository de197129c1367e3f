"""
The composition root: settings in, a wired service out.

The only place where the rooms meet. Who judges, who signs and who renders is decided here and
handed in as plain functions, so that the rooms need not know each other.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any

from service import __version__
from service.accounts.gate import Gate
from service.accounts.rate import RateLimit
from service.accounts.register import Register
from service.accounts.secrets import Secretary
from service.accounts.vault import Vault
from service.api.application import Parts, make_application, make_health_application
from service.api.openapi import build_document
from service.api.routes import OPERATIONS
from service.api.server import Server
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.callbacks.url import CallbackUrl
from service.clock import SystemClock
from service.collection.loop import Collection
from service.collection.sandbox import Sandbox
from service.delivery.attempt import Performer, Rules
from service.delivery.dispatcher import Dispatcher, Limits
from service.delivery.egress import DEV_NETWORKS, EgressPolicy
from service.delivery.sender import Sender
from service.delivery.signing import DEV_SECRET, Signer
from service.errors import ConfigurationError, StorageRefused, StorageUnavailable
from service.rounds import POLL
from service.settings import Settings
from service.storage.engine import Database, open_database
from service.storage.keys import new_key
from service.storage.schema import migrate, prepare
from service.storage.steps import NewDelivery
from service.storage.store import Store

log = logging.getLogger("invoices")

CALLBACKS = {callback.name: callback for callback in (INVOICE_NOTIFICATION,)}
"""Every declared callback by its name."""

DEV_ACCOUNT = "dev"


NO_ENCRYPTION_KEY = """\
INVOICES_ENCRYPTION_KEY is not set, and signing secrets are not kept in the clear.
Make a key with: invoices encryption-key
and keep it as safe as the database, in another place. On a laptop: invoices serve --dev"""


class Role(StrEnum):
    """What a process does of the road of an invoice."""

    API = "api"
    """Accepts, and answers questions."""
    DISPATCHER = "dispatcher"
    """Collects and delivers."""
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Place:
    """What one process is among those that serve: its role, and whether others share its port."""

    role: Role = Role.ALL
    is_port_shared: bool = False
    is_development: bool = False


ALONE = Place()
"""One process that does everything."""

DEVELOPMENT = Place(is_development=True)
"""The same, with an account that needs no key."""


def for_development(settings: Settings) -> Settings:
    """*settings* as `--dev` has them: receivers on this machine and this network, without TLS."""
    networks = (*settings.callback_allow, *DEV_NETWORKS)
    return replace(settings, callback_allow=networks, callback_require_https=False)


def document_of(settings: Settings) -> dict[str, Any]:
    """
    The OpenAPI document, without starting anything.

    Raises:
        DeclarationError: if a callback promises what its operation cannot keep.
    """
    return build_document(OPERATIONS, version=__version__, public_url=settings.public_url)


async def upgrade(settings: Settings) -> tuple[str | None, str | None]:
    """Bring the database to the newest schema; the revisions before and now."""
    database = _database(settings)
    try:
        return await migrate(database)
    finally:
        await database.close()


@asynccontextmanager
async def register_of(settings: Settings) -> AsyncIterator[Register]:
    """
    The accounts of the database, which gets its schema if it has none.

    Raises:
        ConfigurationError: if there is no encryption key.
    """
    if not settings.encryption_key:
        raise ConfigurationError(NO_ENCRYPTION_KEY)
    database = _database(settings)
    try:
        await (migrate if settings.is_embedded else prepare)(database)
        yield Register(Store(database), Vault(settings.encryption_key), SystemClock())
    finally:
        await database.close()


@dataclass(frozen=True, slots=True)
class Running:
    """A process that runs; *failed* is done once one of its loops has ended by itself."""

    port: int
    failed: asyncio.Future[None]


async def reach_database(settings: Settings, stop: asyncio.Event) -> bool:
    """
    Wait until a database that is a server answers; False if *stop* was set before it did.

    Services are started in any order, and a database takes its time.

    Raises:
        StorageRefused: if it answers, and does not let us in.
    """
    if settings.is_embedded:
        return True
    database = _database(settings)
    try:
        while not stop.is_set():
            try:
                await Store(database).ping()
                return True
            except StorageRefused:
                raise
            except StorageUnavailable as error:
                log.warning("storage.awaited", extra={"fields": {"detail": str(error)}})
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL.total_seconds()):
                    await stop.wait()
        return False
    finally:
        await database.close()


@asynccontextmanager
async def running(settings: Settings, place: Place = ALONE) -> AsyncIterator[Running]:
    """
    A service that does what its *place* says; it is drained at the end of the block.

    Raises:
        ConfigurationError: before anything is started.
        OSError: if the address cannot be listened on.
    """
    document = document_of(settings)
    database = _database(settings)
    try:
        await (migrate if settings.is_embedded else prepare)(database)
        store = Store(database)
        secretary = _secretary(settings, store)
        if not place.is_development:
            await secretary.check()
        store.listen()
        async with (
            _loops(settings, place.role, store, secretary) as loops,
            _served(settings, place, store, loops, document) as port,
        ):
            yield Running(port, loops.failed)
    finally:
        await database.close()


@dataclass(frozen=True, slots=True)
class Loops:
    """The loops of this process, if it has any; *failed* is done once one ended by itself."""

    tasks: Sequence[asyncio.Task[None]]
    failed: asyncio.Future[None]

    def are_running(self) -> bool:
        """Whether what this process is to collect and deliver, it does."""
        return not self.failed.done()


@asynccontextmanager
async def _loops(
    settings: Settings, role: Role, store: Store, secretary: Secretary
) -> AsyncIterator[Loops]:
    """Collection and dispatcher, drained at the end of the block; none in an API alone."""
    clock = SystemClock()
    async with _sender(settings) as sender:
        collection = Collection(store, Sandbox(settings.sandbox_delay), announce, clock)
        dispatcher = _dispatcher(settings, store, sender, signer_of(secretary), clock)
        loops: Sequence[Collection | Dispatcher] = (collection, dispatcher)
        if role is Role.API:
            loops = ()
        tasks = [asyncio.create_task(loop.run()) for loop in loops]
        try:
            yield Loops(tasks, _first_to_end(tasks))
        finally:
            await _drain(
                [(loop.drain, task) for loop, task in zip(loops, tasks, strict=True)],
                timeout_seconds=settings.drain_timeout.total_seconds(),
            )


@asynccontextmanager
async def _served(
    settings: Settings, place: Place, store: Store, loops: Loops, document: dict[str, Any]
) -> AsyncIterator[int]:
    """The API, or the health of a process without one; the port it listens on."""
    clock = SystemClock()
    default_account_id = DEV_ACCOUNT if place.is_development else None
    # What runs on a laptop is measured and attacked there; nobody else reaches it.
    per_second = 0 if place.is_development else settings.rate_limit
    parts = Parts(
        store=store,
        clock=clock,
        document=document,
        authenticate=Gate(store, clock, default_account_id=default_account_id).account_of,
        limit=RateLimit(per_second, settings.rate_burst, clock).take,
        currency=settings.currency,
        judge=judge_of(settings),
        is_ready=loops.are_running,
    )
    make = make_health_application if place.role is Role.DISPATCHER else make_application
    server = Server(make(parts))
    try:
        yield await server.start(settings.host, settings.port, is_shared=place.is_port_shared)
    finally:
        await server.stop()


def announce(name: str, description: str, paid: bool) -> NewDelivery:
    """The delivery that brings an event of an invoice, rendered as the callback declares."""
    body = CALLBACKS[name].render({"description": description, "paid": paid})
    return NewDelivery(f"msg_{new_key()}", body)


def judge_of(settings: Settings) -> Callable[[CallbackUrl], str | None]:
    """What says why a URL may not be called, in words that tell nothing about our network."""
    # The same few receivers are called again and again.
    permits_host = lru_cache(maxsize=4096)(_policy(settings).permits_host)

    def judge(url: CallbackUrl) -> str | None:
        if settings.callback_require_https and url.scheme != "https":
            return "must be an https:// URL"
        if not permits_host(url.host):
            return "is an address that cannot be called"
        return None

    return judge


def _database(settings: Settings) -> Database:
    return open_database(
        settings.database_url, has_prepared_statements=settings.database_prepared_statements
    )


def _policy(settings: Settings) -> EgressPolicy:
    return EgressPolicy(settings.callback_allow)


def _sender(settings: Settings) -> Sender:
    return Sender(
        _policy(settings),
        timeout_seconds=settings.callback_timeout.total_seconds(),
        concurrency=settings.callback_concurrency,
    )


SignerOf = Callable[[str], Awaitable[Signer]]


def signer_of(secretary: Secretary) -> SignerOf:
    """What signs for an account. Everybody knows the secret of the development account."""
    signer_with = lru_cache(maxsize=4096)(Signer)

    async def find(account_id: str) -> Signer:
        if account_id == DEV_ACCOUNT:
            return signer_with((DEV_SECRET,))
        return signer_with(await secretary.secrets_of(account_id))

    return find


def _secretary(settings: Settings, store: Store) -> Secretary:
    vault = Vault(settings.encryption_key) if settings.encryption_key else None
    return Secretary(store, vault, SystemClock())


def _dispatcher(
    settings: Settings, store: Store, sender: Sender, sign: SignerOf, clock: SystemClock
) -> Dispatcher:
    rules = Rules(
        retry_schedule=settings.retry_schedule,
        is_strict=settings.receiver_contract == "strict",
        user_agent=f"invoices/{__version__}",
        chance=random.random,
    )
    limits = Limits(
        concurrency=settings.callback_concurrency,
        origin_concurrency=settings.origin_concurrency,
        timeout=settings.callback_timeout,
    )
    performer = Performer(sender, sign, CALLBACKS, rules, clock)
    return Dispatcher(store, performer, limits, clock)


def _first_to_end(loops: Sequence[asyncio.Task[None]]) -> asyncio.Future[None]:
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(_loop: asyncio.Task[None]) -> None:
        if not ended.done():
            ended.set_result(None)

    for loop in loops:
        loop.add_done_callback(tell)
    return ended


async def _drain(
    roads: Sequence[tuple[Callable[[], None], asyncio.Task[None]]], *, timeout_seconds: float
) -> None:
    """
    Drain one loop after the other, so that what the first hands on is still taken.

    What is in flight after *timeout_seconds* is left to its lease.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            for drain, loop in roads:
                drain()
                await asyncio.wait([loop])
    except TimeoutError:
        log.warning("drain.timed_out", extra={"fields": {"timeout_seconds": timeout_seconds}})
    for _, loop in roads:
        loop.cancel()
    ended = await asyncio.gather(*(loop for _, loop in roads), return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            log.error("loop.failed", exc_info=error)
