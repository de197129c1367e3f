import asyncio
from collections import Counter

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.util import await_only

from service.database import connecting, postgres
from service.database.connecting import SETTINGS
from service.database.engine import Lane
from service.database.group_commit import GroupCommit
from service.database.notifications import TEXT_LENGTH_MAX, TEXTS_MAX
from service.database.postgres import BROWSER_COUNT, WRITER_COUNT, PostgresDatabase
from service.domain.states import Acceptance
from service.errors import StorageBusy, StorageUnavailable
from service.loops import Signal
from service.storage import deliveries, invoices, leases, steps, tables
from service.storage.schema import migrate
from service.storage.store import Store
from service.storage.tables import origins
from tests.clock import PATIENCE_SECONDS, START, woken_by
from tests.postgres import PostgresServer, new_database
from tests.rows import (
    LEASE,
    SECOND,
    a_receiver,
    add_delivery,
    an_invoice,
    delivered,
    lease_deliveries,
)
from tests.storage.writing import write_name

STORED, REPLAYED, CONFLICT = Acceptance.STORED, Acceptance.REPLAYED, Acceptance.CONFLICT


class Held:
    """A transaction that has done its work and waits for the test before it commits."""

    def __init__(self):
        self.has_worked = asyncio.Event()
        self.may_end = asyncio.Event()

    def behind(self, work):
        """Return work that does *work* and then waits."""

        def work_and_wait(tx):
            result = work(tx)
            self.has_worked.set()
            await_only(self.may_end.wait())
            return result

        return work_and_wait

    async def reached(self):
        """Wait until the transaction has done its work."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.has_worked.wait()


@pytest.fixture
async def open_here():
    """A function that opens databases; they are closed after the test."""
    opened = []

    def open_(url):
        opened.append(PostgresDatabase(url))
        return opened[-1]

    yield open_
    for database in opened:
        await database.close()


@pytest.fixture
def database(open_here, postgres_url):
    """A database on the newest schema."""
    return open_here(postgres_url)


@pytest.fixture
def store(database):
    """The store on that database."""
    return Store(database)


@pytest.fixture
def another(open_here, postgres_url):
    """The same database, opened by another process."""
    return open_here(postgres_url)


@pytest.fixture
def held():
    """Holds a transaction open."""
    return Held()


def names(tx):
    """The names of the stored rows."""
    return list(tx.scalars(select(origins.c.origin).order_by(origins.c.origin)))


def end_connection(tx):
    """Let the server end this connection, as it does with all of them when it stops."""
    tx.execute(select(func.pg_terminate_backend(func.pg_backend_pid()))).close()


def accepting(id_, **changes):
    """Work that accepts one invoice."""
    return lambda tx: invoices.accept(tx, [(an_invoice(id_, **changes), None, None)])


async def at_once(awaitable):
    """The result of *awaitable*, which must not wait for the transaction that another one holds."""
    async with asyncio.timeout(PATIENCE_SECONDS / 2):
        return await awaitable


# Concurrent transactions


async def test_deliveries_that_another_round_leases_are_skipped(store, database, another, held):
    """A lease round takes the free deliveries and does not wait for the transactions of others."""
    for number in (1, 2, 3):
        # The longest due first: of rows that are due at one instant, any may be.
        await add_delivery(store, f"{number}", at=START - (3 - number) * SECOND)
    some, all_ = (
        deliveries.LeaseRound(START, START + LEASE, {a_receiver(): limit}) for limit in (2, 9)
    )
    lease = held.behind(lambda tx: deliveries.lease_due(tx, [some]))
    leasing = asyncio.create_task(database.write(lease))
    await held.reached()

    (there,) = await at_once(another.write(lambda tx: deliveries.lease_due(tx, [all_])))

    held.may_end.set()
    (here,) = await leasing
    assert ["msg_1", "msg_2"] == [one.id for one in here.deliveries]
    assert ["msg_3"] == [one.id for one in there.deliveries]


async def test_invoices_that_another_round_leases_are_skipped(store, database, another, held):
    """A lease round takes the free invoices and does not wait for the transactions of others."""
    for number in (1, 2, 3):
        await store.accept(an_invoice(f"{number}", at=START - (3 - number) * SECOND))
    some, all_ = (leases.LeaseRound(START, START + LEASE, limit) for limit in (2, 9))
    leasing = asyncio.create_task(
        database.write(held.behind(lambda tx: steps.lease_due(tx, [some])))
    )
    await held.reached()

    (there,) = await at_once(another.write(lambda tx: steps.lease_due(tx, [all_])))

    held.may_end.set()
    (here,) = await leasing
    assert ["1", "2"] == [one.id for one in here.invoices]
    assert ["3"] == [one.id for one in there.invoices]


@pytest.mark.parametrize(("title", "expected"), [(None, REPLAYED), ("Another", CONFLICT)])
async def test_a_request_waits_for_the_transaction_that_stores_its_id(
    database, another, held, title, expected
):
    """Replay or conflict is decided after the transaction that stores the same id has committed."""
    first = asyncio.create_task(database.write(held.behind(accepting("1"))))
    await held.reached()
    second = asyncio.create_task(another.write(accepting("1", title=title)))
    await another.read(names)
    assert not second.done()

    held.may_end.set()

    assert ([STORED], [expected]) == (await first, await second)


async def test_an_id_of_a_rolled_back_transaction_is_free(database, another, held):
    """If the other transaction is rolled back, this one stores the invoice."""

    def fail(tx):
        raise LookupError("afterwards")

    waiting = held.behind(accepting("1"))
    first = asyncio.create_task(database.write(lambda tx: (waiting(tx), fail(tx))))
    await held.reached()
    second = asyncio.create_task(another.write(accepting("1", title="Another")))
    await another.read(names)

    held.may_end.set()

    with pytest.raises(LookupError):
        await first
    assert [STORED] == await second


async def until_waiting(database, count):
    """Wait until *count* transactions wait for another one."""
    query = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    async with asyncio.timeout(PATIENCE_SECONDS):
        # The server sets no event here.
        while await database.read(lambda tx: tx.scalar(query)) < count:
            pass


async def test_invoices_in_opposite_orders_cause_no_deadlock(
    database, open_here, postgres_url, held
):
    """Processes that accept the same ids in different orders do not deadlock."""
    first, second = (Store(open_here(postgres_url)) for _ in range(2))
    blocking = asyncio.create_task(database.write(held.behind(accepting("2"))))
    await held.reached()
    accepted = asyncio.gather(
        *(first.accept(an_invoice(id_)) for id_ in ("1", "2", "3")),
        *(second.accept(an_invoice(id_)) for id_ in ("3", "2", "1")),
    )
    await until_waiting(database, 2)

    held.may_end.set()

    assert [STORED] == await blocking
    assert {STORED: 2, REPLAYED: 4} == Counter(await accepted)


async def test_settlements_in_opposite_orders_cause_no_deadlock(
    store, database, open_here, postgres_url, held
):
    """Processes that settle the same deliveries in different orders do not deadlock."""
    for id_ in ("1", "2", "3"):
        await add_delivery(store, id_)
    found = await lease_deliveries(store)
    first, second = (Store(open_here(postgres_url)) for _ in range(2))
    row = select(tables.deliveries).where(tables.deliveries.c.id == "msg_2").with_for_update()
    blocking = asyncio.create_task(database.write(held.behind(lambda tx: tx.execute(row).close())))
    await held.reached()
    settled = asyncio.gather(
        *(first.settle(delivered(one)) for one in found),
        *(second.settle(delivered(one)) for one in reversed(found)),
    )
    await until_waiting(database, 2)

    held.may_end.set()

    await blocking
    assert {True: 3, False: 3} == Counter(await settled)


async def test_different_kinds_of_work_commit_concurrently(database, held):
    """While work of one kind is being committed, work of other kinds is committed too."""
    commits = GroupCommit(database, observe_size=lambda _size: None)

    def write_names(tx, given):
        return [write_name(tx, one) for one in given]

    def write_others(tx, given):
        return held.behind(lambda tx: write_names(tx, given))(tx)

    slow = asyncio.ensure_future(commits.run(write_others, "slow"))
    await held.reached()

    await at_once(commits.run(write_names, "quick"))

    assert ["quick"] == await database.read(names)
    held.may_end.set()
    await slow
    assert ["quick", "slow"] == await database.read(names)


async def test_reads_continue_during_a_write(database, held):
    """A long write delays no read, and the read sees what was committed before it."""
    writing = asyncio.create_task(database.write(held.behind(write_name)))
    await held.reached()

    assert [] == await at_once(database.read(names))

    held.may_end.set()
    await writing
    assert ["a"] == await database.read(names)


async def test_a_read_sees_one_snapshot(database, another):
    """Rows that are committed during a read are not part of it."""

    def read_twice(tx):
        before = names(tx)
        await_only(another.write(write_name))
        return before, names(tx)

    assert ([], []) == await database.read(read_twice)
    assert ["a"] == await database.read(names)


async def test_reads_write_nothing(database):
    """A read that would change a row is reported as a defect."""
    with pytest.raises(Exception, match="read-only"):
        await database.read(write_name)


async def test_a_transaction_that_raises_is_rolled_back(database):
    """A transaction that raises stores nothing."""

    def write_and_fail(tx):
        write_name(tx)
        raise LookupError("afterwards")

    with pytest.raises(LookupError):
        await database.write(write_and_fail)

    assert [] == await database.read(names)


def connection_of(tx):
    """The process of the server that serves this connection."""
    return tx.scalar(select(func.pg_backend_pid()))


async def test_a_connection_that_writes_is_kept(database):
    """Transactions one after the other use one connection, also after one that has failed."""
    before = await database.write(connection_of)

    with pytest.raises(ZeroDivisionError):
        await database.write(lambda tx: [write_name(tx), 1 / 0])

    assert before == await database.write(connection_of)
    assert [] == await database.read(names)


def names_of_statements(tx):
    """The names under which this connection has prepared its statements."""
    return tx.scalars(text("SELECT name FROM pg_prepared_statements")).all()


async def test_statements_are_never_those_of_another_process(open_here, postgres_url, monkeypatch):
    """
    No two processes prepare a statement under one name.

    A pooler gives a transaction a connection on which another process has prepared its statements.
    """
    found = []
    for _ in range(2):
        # Each process of the driver begins to count here.
        monkeypatch.setattr("asyncpg.connection._uid", 0)
        database = open_here(postgres_url)
        await database.read(names)
        found += await database.read(names_of_statements)

    assert len(set(found)) == len(found) > 2


async def test_a_transaction_that_is_cancelled_leaves_nothing(database, held):
    """Its connection is closed, since nobody knows what it has done; the next write succeeds."""
    before = await database.write(connection_of)
    writing = asyncio.create_task(database.write(held.behind(write_name)))
    await held.reached()

    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing

    assert before != await at_once(database.write(connection_of))
    assert [] == await database.read(names)


async def test_more_transactions_than_connections_wait_for_each_other(database):
    """Whoever waits for a connection gets the one that another transaction gives back."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(database.write(write_name, str(n)) for n in range(3 * WRITER_COUNT)))

    assert 3 * WRITER_COUNT == len(await database.read(names))


async def test_a_row_that_cannot_be_written_is_not_an_outage(database):
    """An error of a statement is not reported as an outage, because a retry would not help."""
    await database.write(write_name)

    with pytest.raises(IntegrityError):
        await database.write(write_name)


async def test_a_statement_that_takes_too_long_is_no_outage(database, caplog):
    """A statement timeout is a defect: it is logged as one, and the connections are kept."""

    def connection_of(tx):
        return tx.scalar(select(func.pg_backend_pid()))

    def take_too_long(tx):
        tx.execute(text("SET LOCAL statement_timeout = 1"))
        tx.execute(select(func.pg_sleep(60)))

    before = await database.browse(connection_of)

    with pytest.raises(StorageBusy):
        await database.browse(take_too_long)

    assert ["storage.busy"] == [record.msg for record in caplog.records]
    assert before == await database.browse(connection_of)


async def test_reads_of_accounts_delay_no_others(database, monkeypatch, caplog):
    """While reads of accounts have all their connections, the service reads; one waits in vain."""
    monkeypatch.setattr(database._engines[Lane.BROWSE].pool, "_timeout", 0.01)
    all_held = asyncio.Barrier(BROWSER_COUNT + 1)
    may_end = asyncio.Event()

    def wait(_tx):
        await_only(all_held.wait())
        await_only(may_end.wait())

    browsing = [asyncio.create_task(database.browse(wait)) for _ in range(BROWSER_COUNT)]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await all_held.wait()

    assert [] == await at_once(database.read(names))
    await database.check()
    with pytest.raises(StorageBusy):
        await database.browse(names)

    assert ["storage.busy"] == [record.msg for record in caplog.records]
    may_end.set()
    await asyncio.gather(*browsing)


@pytest.mark.parametrize("name", SETTINGS)
async def test_connections_have_their_settings(database, name):
    """Every connection has the settings for plans and for the duration of statements."""

    def setting(tx):
        return tx.scalar(text(f"SHOW {name}"))

    values = {await database.write(setting), await database.read(setting)}

    assert {SETTINGS[name]} == values


# Notifications between processes


async def test_a_notification_reaches_every_other_process(open_here, postgres_url):
    """A notification wakes every process that listens, except the process that sent it."""
    processes = [open_here(postgres_url) for _ in range(3)]
    signals = [{"invoices": Signal(), "deliveries": Signal()} for _ in processes]
    for process, heard in zip(processes, signals, strict=True):
        process.listen(heard)
        await woken_by(heard["deliveries"])
        await woken_by(heard["invoices"])

    processes[0].notify("invoices", ["one", "two"])
    for heard in signals[1:]:
        await woken_by(heard["invoices"])

    # Notifications arrive in order: its own one would have arrived before this one.
    processes[1].notify("deliveries")
    await woken_by(signals[0]["deliveries"])
    assert not signals[0]["invoices"].is_set()


async def test_a_notification_says_for_what(open_here, postgres_url):
    """The details arrive with the name; too many or too long ones are left out."""
    here, there = open_here(postgres_url), open_here(postgres_url)
    signal = Signal()
    there.listen({"deliveries": signal})
    here.listen({})
    await woken_by(signal)
    signal.take()

    for details, heard in (
        (["a receiver"], (["a receiver"], False)),
        ([], ([], True)),
        ([str(number) for number in range(TEXTS_MAX + 1)], ([], True)),
        (["x" * TEXT_LENGTH_MAX], ([], True)),
    ):
        here.notify("deliveries", details)
        await woken_by(signal)
        assert heard == signal.take()


# Servers that become unavailable


@pytest.fixture
def own_server():
    """A server that a test may stop or freeze."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
async def shaky(own_server, open_here):
    """A database on that server."""
    with new_database(own_server) as url:
        database = open_here(url)
        await migrate(database)
        yield database
        await database.close()
        own_server.thaw()


async def test_a_restarted_server_is_used_again(own_server, shaky, monkeypatch):
    """While the server is down all work fails as unavailable; after a restart all work succeeds."""
    monkeypatch.setattr(connecting, "RECONNECT_SECONDS", (0.0,))
    signal = asyncio.Event()
    shaky.listen({"invoices": signal})
    await woken_by(signal)
    await shaky.write(write_name)

    own_server.kill()
    with pytest.raises(StorageUnavailable):
        await shaky.write(lambda tx: write_name(tx, "b"))
    with pytest.raises(StorageUnavailable):
        await shaky.read(names)
    own_server.start()

    # A listener wakes after a reconnect, because it may have missed notifications.
    await woken_by(signal)
    await shaky.write(lambda tx: write_name(tx, "c"))
    assert ["a", "c"] == await shaky.read(names)


async def test_an_outage_is_logged_once_with_work_that_fails_after_its_end(
    own_server, shaky, held, monkeypatch, caplog
):
    """Work from before an outage says nothing about the server that answers after it."""
    monkeypatch.setattr(connecting, "RECONNECT_SECONDS", (0.0,))
    before = asyncio.create_task(shaky.read(held.behind(names)))
    await held.reached()
    own_server.kill()
    with pytest.raises(StorageUnavailable):
        await shaky.write(write_name)
    own_server.start()
    await shaky.write(write_name)

    held.may_end.set()
    with pytest.raises(StorageUnavailable):
        await before
    await shaky.check()

    assert ["storage.lost", "storage.found"] == [record.message for record in caplog.records]


async def test_an_answer_to_work_from_before_an_outage_does_not_end_it(database, held, caplog):
    """A server that stops ends its connections one after another."""
    before = asyncio.create_task(database.read(held.behind(names)))
    await held.reached()
    with pytest.raises(StorageUnavailable):
        await database.read(end_connection)

    held.may_end.set()
    await before

    assert ["storage.lost"] == [record.message for record in caplog.records]


async def test_a_frozen_server_is_given_up(own_server, shaky, monkeypatch):
    """A transaction on a server that does not answer fails after a time limit."""
    monkeypatch.setattr(connecting, "RECONNECT_SECONDS", (0.0,))
    # With the usual time limit: this opens a connection.
    await shaky.write(write_name)
    monkeypatch.setattr(postgres, "TRANSACTION_SECONDS", 0.2)
    own_server.freeze()

    with pytest.raises(StorageUnavailable):
        await shaky.write(lambda tx: write_name(tx, "b"))
    with pytest.raises(StorageUnavailable):
        await shaky.read(names)

    own_server.thaw()
    monkeypatch.setattr(postgres, "TRANSACTION_SECONDS", PATIENCE_SECONDS)
    assert "a" in await shaky.read(names)


async def test_a_server_that_lets_nobody_write_is_unavailable(own_server, open_here):
    """Providers do so where a disk is full; connections from that time are not used afterwards."""
    readers = "SET default_transaction_read_only ="
    with new_database(own_server) as url:
        administrator, database = open_here(url), open_here(url)
        await migrate(administrator)
        name = await administrator.read(lambda tx: tx.scalar(select(func.current_database())))
        alter = f'ALTER DATABASE "{name}" {readers}'
        await administrator.write(lambda tx: tx.execute(text(f"{alter} on")).close())

        with pytest.raises(StorageUnavailable, match="read-only"):
            await database.write(write_name)
        with pytest.raises(StorageUnavailable, match="lets nobody write"):
            await database.check()
        with pytest.raises(StorageUnavailable, match="read-only"):
            await database.write(write_name)
        await administrator.write(lambda tx: tx.execute(text(f"{alter} off")).close())

        await database.check()
        await database.write(write_name)
        assert ["a"] == await database.read(names)
        await database.close()
        await administrator.close()


async def test_an_unavailable_server_is_not_contacted_for_a_moment(open_here):
    """Between two connection attempts all work fails at once, with the reason."""
    # The path of a socket may not be long.
    database = open_here("postgresql://unknown@/none?host=/none")

    with pytest.raises(StorageUnavailable, match="No such file"):
        await database.read(names)
    with pytest.raises(StorageUnavailable, match="a moment ago"):
        await database.write(names)
