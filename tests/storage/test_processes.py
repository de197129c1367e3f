"""Processes that share a server: the leases of those that have ended are free."""

from datetime import timedelta

import pytest

from service.database.opening import open_database
from service.heartbeat import BEAT, GAP, SILENCE, Heartbeat
from service.storage import processes
from service.storage.leases import LeaseRound
from service.storage.store import Store
from service.storage.tables import deliveries, invoices
from service.storage.tables import processes as processes_table
from service.telemetry.metrics import Metrics
from tests.clock import START, ManualClock
from tests.rows import (
    LEASE,
    SECOND,
    add_delivery,
    an_invoice,
    delivered,
    lease_deliveries,
    lease_delivery,
    rows_of,
)

LATER = START + SECOND


@pytest.fixture
def clock():
    """The clock of both processes."""
    return ManualClock()


@pytest.fixture
async def other(url, store):
    """The store of another process, which has joined."""
    database = open_database(url)
    other = Store(database)
    await other.beat(START)
    yield other
    await database.close()


@pytest.fixture
async def heartbeat(store, clock):
    """The heartbeat of this process, which has begun."""
    heartbeat = Heartbeat(store, clock, Metrics())
    await heartbeat.run_round()
    return heartbeat


async def passes(time, clock, *heartbeats):
    """Let *time* pass, in which *heartbeats* beat."""
    for _ in range(time // BEAT):
        clock.advance(BEAT)
        for one in heartbeats:
            await one.run_round()


async def test_a_lease_of_a_dead_process_delays_nobody_who_asks(store, other, heartbeat, clock):
    """Whoever asks by hand is attempted now, also if the process that has the lease is dead."""
    await add_delivery(other)
    await lease_delivery(other)
    _, while_alive = await store.redeliver("dev", "msg_1", LATER)

    await passes(SILENCE + BEAT, clock, heartbeat)
    _, is_changed = await store.redeliver("dev", "msg_1", LATER)

    assert (False, True) == (while_alive, is_changed)
    (delivery,) = await lease_deliveries(store, now=LATER)
    assert delivery.is_asked


async def test_the_end_of_a_process_wakes_every_loop(store, other):
    """Whatever a dead process has left, of each kind of row, is looked for at once."""
    await store.beat(START)
    ((id_, beat_count),) = (await store.beat(START)).items()
    signals = (
        store.invoices_due,
        store.deliveries_due,
        store.mails_due,
        store.money.checkouts_due,
        store.money.payments_due,
    )
    for signal in signals:
        signal.clear()

    assert await store.end_process(id_, beat_count, LATER)
    assert [True] * len(signals) == [signal.is_set() for signal in signals]


async def id_of(store, database):
    """The id of the only process that is recorded and not *store*."""
    (id_,) = await store.beat(START)
    return id_


async def test_a_dead_process_loses_its_leases(store, other, heartbeat, clock):
    """Of a process that is silent, deliveries and invoices are leased at once, and only then."""
    await add_delivery(other)
    await lease_delivery(other)
    await other.accept(an_invoice("2", origin=None), START + LEASE)

    await passes(SILENCE - BEAT, clock, heartbeat)
    assert [] == await lease_deliveries(store, now=LATER)
    assert () == tuple((await store.lease_invoices(LeaseRound(LATER, START + LEASE, 9))).invoices)

    await passes(2 * BEAT, clock, heartbeat)
    (delivery,) = await lease_deliveries(store, now=LATER)
    (invoice,) = (await store.lease_invoices(LeaseRound(LATER, START + LEASE, 9))).invoices
    assert ("msg_1", 1, 0) == (delivery.id, delivery.attempt_count, delivery.failure_count)
    assert "2" == invoice.id
    (attempt,) = (await store.history.find_delivery("dev", "msg_1"))["attempts"]
    assert "lost" == attempt["outcome"]


async def test_the_loops_look_at_once_for_what_a_dead_process_had(store, other, heartbeat, clock):
    """The signals of both loops are set with the end of a process."""
    await passes(SILENCE - BEAT, clock, heartbeat)
    store.invoices_due.clear()
    store.deliveries_due.clear()

    await passes(2 * BEAT, clock, heartbeat)

    assert (True, True) == (store.invoices_due.is_set(), store.deliveries_due.is_set())


async def test_a_process_that_beats_keeps_its_leases(store, other, heartbeat, clock):
    """However long it takes, a process that is alive is not taken for dead."""
    await add_delivery(other)
    await lease_delivery(other)

    await passes(4 * SILENCE, clock, heartbeat, Heartbeat(other, clock, Metrics()))

    assert [] == await lease_deliveries(store, now=LATER)


async def test_a_process_that_was_paused_takes_nobody_for_dead(store, other, heartbeat, clock):
    """Who could not look for a while begins anew: the others may have been unable to beat."""
    await add_delivery(other)
    await lease_delivery(other)
    clock.advance(6 * SILENCE)

    await heartbeat.run_round()
    assert [] == await lease_deliveries(store, now=LATER)

    await passes(SILENCE - BEAT, clock, heartbeat)
    assert [] == await lease_deliveries(store, now=LATER)


async def test_looks_with_gaps_end_no_process(store, other, heartbeat, clock):
    """Looks that are too far apart do not add up to a silence."""
    await add_delivery(other)
    await lease_delivery(other)
    for _ in range(10):
        clock.advance(GAP + BEAT)
        await heartbeat.run_round()

    assert [] == await lease_deliveries(store, now=LATER)


async def test_a_beat_in_the_last_moment_counts(store, other, heartbeat):
    """A process that has beaten since it was looked at is not ended."""
    ((id_, beat_count),) = (await store.beat(START)).items()
    await other.beat(START)

    assert not await store.end_process(id_, beat_count, LATER)
    assert await store.end_process(id_, beat_count + 1, LATER)
    assert not await store.end_process(id_, beat_count + 1, LATER)


async def test_a_process_that_wakes_changes_nothing(store, other, heartbeat, clock):
    """A process whose lease was taken over settles nothing, and goes on under another id."""
    await add_delivery(other)
    stale = await lease_delivery(other)
    before = await id_of(store, other)
    await passes(SILENCE + BEAT, clock, heartbeat)
    leased = await lease_delivery(store, now=LATER)

    assert not await other.settle(delivered(stale))
    assert {} == await other.beat(LATER)
    assert before != await id_of(store, other)
    assert await store.settle(delivered(leased))


async def test_a_process_that_was_taken_for_dead_takes_leases_that_hold(
    store, other, heartbeat, clock
):
    """Under its new id a process keeps what it leases."""
    await passes(SILENCE + BEAT, clock, heartbeat)
    await other.beat(LATER)
    await add_delivery(other)
    await lease_delivery(other)

    assert [] == await lease_deliveries(store, now=LATER)


async def test_a_process_says_that_it_goes_on_when_it_has_a_new_id(
    other, heartbeat, clock, monkeypatch, caplog
):
    """What is leased after the line in the log is not free for others."""
    register, said = processes.register, []

    def watched(*args):
        said.append("process.outlived" in caplog.messages)
        return register(*args)

    monkeypatch.setattr(processes, "register", watched)
    await passes(SILENCE + BEAT, clock, heartbeat)
    await other.beat(LATER)

    assert [False] == said
    assert 1 == caplog.messages.count("process.outlived")


async def test_a_lease_of_an_ended_process_can_be_settled_until_it_is_taken(
    store, other, heartbeat, clock
):
    """An answer that comes in time is recorded: the delivery is not repeated."""
    await add_delivery(other)
    leased = await lease_delivery(other)
    await passes(SILENCE + BEAT, clock, heartbeat)

    assert await other.settle(delivered(leased))
    assert [] == await lease_deliveries(store, now=LATER)


async def test_a_process_that_leaves_gives_up_its_leases(store, other):
    """What a stopped process did not finish is leased at once."""
    await add_delivery(other)
    await lease_delivery(other)
    await other.leave(START)

    assert 1 == len(await lease_deliveries(store, now=LATER))


async def test_rows_name_the_process_that_leased_them(store, database):
    """A row that is inserted leased, and one that is leased later, name it; a free row does not."""
    await store.beat(START)
    await add_delivery(store)
    leased = await lease_delivery(store)
    await store.accept(an_invoice("2"), START + LEASE)
    await store.accept(an_invoice("3"))

    (row,) = await rows_of(database, deliveries)
    holders = [one["leased_by"] for one in await rows_of(database, invoices)]
    assert row["leased_by"] is not None
    assert [None, row["leased_by"], None] == holders

    await store.settle(delivered(leased))
    assert [None] == [one["leased_by"] for one in await rows_of(database, deliveries)]


async def test_ended_processes_are_forgotten(store, other, heartbeat, database):
    """A row of a process is removed a day after its end, and its id is not given again."""
    ((id_, beat_count),) = (await store.beat(START)).items()
    await store.end_process(id_, beat_count, START)
    later = START + processes.KEPT + timedelta(microseconds=1)

    new = await database.write(processes.register, later)

    assert new > id_
    assert not await database.write(processes.end, id_, later)


@pytest.mark.parametrize("kind", ["postgresql"], indirect=True)
async def test_a_process_on_a_server_joins_and_leaves(store, other, database):
    """A process is among the others from its start to its stop."""
    await store.join(START)
    assert 1 == len(await other.beat(START))

    await store.leave(START)
    assert {} == await other.beat(START)


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
async def test_a_process_on_a_file_needs_no_beats(store, database):
    """There the lock of a file shows that a process is alive."""
    await store.join(START)

    assert [] == await rows_of(database, processes_table)
