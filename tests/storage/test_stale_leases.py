"""Leases of killed processes: ended at the start of a process that is known to be the only one."""

import asyncio
import fcntl
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.database.opening import open_database
from service.domain.invoice import Invoice
from service.storage.leases import LeaseRound
from service.storage.schema import migrate
from service.storage.store import Store
from tests.clock import PATIENCE_SECONDS, START
from tests.rows import LEASE, SECOND, add_delivery, an_invoice, lease_deliveries, lease_delivery

LATER = START + SECOND


@asynccontextmanager
async def a_process(url):
    """The store of a process that takes leases, until it ends."""
    database = open_database(url)
    try:
        store = Store(database)
        await store.join(LATER)
        yield store
    finally:
        await database.close()


def is_locked(path):
    """Whether another one that wants to share the lock of *path* has to wait."""
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.fixture
async def killed(database, store):
    """A delivery and an invoice whose leases were taken by a process that has ended."""
    await add_delivery(store)
    await lease_delivery(store)
    await store.accept(an_invoice("2", origin=None), START + LEASE)


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
async def test_the_only_process_continues_at_once(url, killed):
    """The attempt is recorded as lost, and delivery and invoice are leased without a delay."""
    async with a_process(url) as store:
        (delivery,) = await lease_deliveries(store, now=LATER)
        due = await store.lease_invoices(LeaseRound(LATER, LATER + LEASE, 9))

        assert ("msg_1", 1, 0) == (delivery.id, delivery.attempt_count, delivery.failure_count)
        assert ["2"] == [invoice.id for invoice in due.invoices if isinstance(invoice, Invoice)]
        (attempt,) = (await store.history.find_delivery("dev", "msg_1"))["attempts"]
        assert "lost" == attempt["outcome"]


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
async def test_leases_are_not_ended_beside_another_process(url, database, store):
    """A second process that starts takes nothing from the first one."""
    async with a_process(url) as first:
        await add_delivery(first)
        await lease_delivery(first)
        async with a_process(url) as second:
            assert [] == await lease_deliveries(second, now=LATER)


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
async def test_no_process_joins_while_leases_are_ended(url, database):
    """A process that starts meanwhile waits: its leases would be ended with the others."""
    another, joined = open_database(url), asyncio.Event()

    async def join():
        async with another.joining() as is_alone:
            joined.set()
            return is_alone

    async with database.joining() as is_alone:
        assert is_alone
        joining = asyncio.create_task(join())
        assert is_locked(Path(f"{url.removeprefix('sqlite:///')}-serving"))
        assert not joined.is_set()

    async with asyncio.timeout(PATIENCE_SECONDS):
        assert not await joining
    await another.close()


async def test_a_process_is_known_to_be_alone_on_sqlite_only(url, database, kind):
    """Processes that share PostgreSQL may be on other machines: their leases run out."""
    another = open_database(url)

    async with another.joining() as is_alone:
        assert (kind == "sqlite") == is_alone
    async with database.joining() as is_alone:
        assert not is_alone
    await another.close()


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_leases_on_postgresql_run_out(url, killed):
    """Nothing is leased before the end of the old lease."""
    async with a_process(url) as store:
        assert [] == await lease_deliveries(store, now=LATER)
        assert [] != await lease_deliveries(store, now=START + LEASE)


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
async def test_an_empty_database_has_no_lease_to_end(url, empty, caplog):
    """Nothing is logged where nothing was ended."""
    await migrate(empty)
    async with a_process(url):
        assert [] == [one for one in caplog.messages if one == "leases.ended"]
