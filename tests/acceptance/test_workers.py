import asyncio
import signal
from pathlib import Path

import pytest

from tests.acceptance.leases import let_leases_run_out
from tests.processes import receiving, starting, until

CONNECTION_COUNT = 32
ORIGIN_CONCURRENCY = 16
"""Attempts that one process has in flight to one receiver at most."""


@pytest.fixture
async def two_workers(tmp_path, postgres_url):
    """A service of two processes on one port."""
    async with starting(tmp_path, "--workers", "2", database_url=postgres_url) as service:
        await service.logged("service.started", 2)
        yield service


@pytest.fixture
async def receiver():
    """Where callbacks go."""
    async with receiving() as receiver:
        yield receiver


async def connected(service, count):
    """So many connections that each had an answer; to be closed."""
    port = int(service.url.rpartition(":")[2])
    writers = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP/1.1 200 OK\r\n" == await reader.readline()
        writers.append(writer)
    return writers


def servers_of(service, writers):
    """Which process is at the other end of each connection."""
    clients = {writer.get_extra_info("sockname")[:2] for writer in writers}
    return [
        worker.pid
        for worker in service.workers()
        for connection in worker.net_connections("tcp")
        if tuple(connection.raddr) in clients
    ]


async def send_all(service, receiver, numbers):
    """Send invoices; each is a connection of its own, so that both workers get some."""
    for number in numbers:
        assert 202 == (await service.send(f"i{number}", receiver.url))[0]


async def both_busy(service, receiver):
    """Both workers have attempts in flight, which the receiver does not answer."""
    await send_all(service, receiver, range(20))
    await receiver.arrived.reaches(20)
    await service.at_rest()
    receiver.may_answer.clear()
    await send_all(service, receiver, range(20, 80))
    await receiver.arrived.reaches(20 + ORIGIN_CONCURRENCY + 4)
    return {f"i{number}" for number in range(80)}


async def test_workers_share_the_connections(two_workers):
    """Whoever connects to the one port is served by one process or the other."""
    writers = await connected(two_workers, CONNECTION_COUNT)
    try:
        servers = servers_of(two_workers, writers)
    finally:
        for writer in writers:
            writer.close()

    assert CONNECTION_COUNT == len(servers)
    assert {worker.pid for worker in two_workers.workers()} == set(servers)
    assert 2 == len(set(servers))


async def stop_first(service):
    """Tell the process that was started, which tells the others."""
    service.signal(signal.SIGTERM)
    await service.logged("service.draining", 2)


async def stop_all(service):
    """Tell every process, as a Ctrl-C does, and systemd; the one that was started comes last."""
    for worker in service.workers():
        worker.send_signal(signal.SIGINT)
    await service.logged("service.draining", 2)
    service.signal(signal.SIGINT)


@pytest.mark.parametrize("stop", [stop_first, stop_all])
async def test_a_stop_ends_all_workers_in_good_order(two_workers, receiver, stop):
    """Whoever is told, every worker finishes what it has in flight, and the status is 0."""
    await both_busy(two_workers, receiver)

    await stop(two_workers)
    receiver.may_answer.set()

    assert 0 == await two_workers.ended()
    assert 2 == len(two_workers.lines("service.stopped"))
    assert {"delivered"} == {line["outcome"] for line in two_workers.lines("attempt.settled")}
    assert len(receiver.arrived) == len(two_workers.lines("attempt.settled"))
    assert [] == two_workers.lines("worker.ended")


async def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(
    two_workers, receiver, postgres_url
):
    """Another takes the place of a worker that died, and its work once its leases ran out."""
    sent = await both_busy(two_workers, receiver)
    killed, kept = two_workers.workers()

    killed.kill()
    told = await two_workers.logged("worker.ended")
    await two_workers.logged("service.started", 3)
    let_leases_run_out(postgres_url)
    receiver.may_answer.set()
    await two_workers.at_rest()

    assert (killed.pid, -signal.SIGKILL) == (told["pid"], told["status"])
    assert kept in two_workers.workers()
    assert 2 == len(two_workers.workers())
    calls = receiver.calls()
    assert sent == set(calls)
    assert {1} == {len(set(events)) for events in calls.values()}
    assert {"delivered"} == {one["status"] for one in (await two_workers.deliveries()).values()}


async def test_any_worker_tells_the_figures_of_all(two_workers, receiver):
    """Figures add up over workers, whichever is asked; the backlog, which they share, does not."""
    sent = await both_busy(two_workers, receiver)
    busy = [await two_workers.figures() for _ in range(10)]
    receiver.may_answer.set()

    stored, delivered = (
        'invoices_received_total{acceptance="stored"}',
        'invoices_attempts_total{outcome="delivered"}',
    )

    async def are_delivered():
        figures = await two_workers.figures()
        return figures[delivered] == len(sent) and figures

    figures = await until(are_delivered)
    assert {len(sent)} == {one[stored] for one in busy}
    assert {2 * 256} == {one["invoices_attempts_slots"] for one in busy}
    assert all(one["invoices_attempts_in_flight"] > ORIGIN_CONCURRENCY for one in busy)
    assert all(one["invoices_storage_up"] == 1 for one in busy)
    assert 0 == figures["invoices_attempts_in_flight"]


async def test_what_a_killed_worker_has_counted_stays(two_workers, receiver):
    """Counters never fall; what was in flight in the worker is in flight no more."""
    sent = await both_busy(two_workers, receiver)
    killed, _ = two_workers.workers()
    before = await two_workers.figures()

    killed.kill()
    await two_workers.logged("worker.ended")
    await two_workers.logged("service.started", 3)
    after = await two_workers.figures()

    counts = [name for name in before if "_total" in name and "invoices_" in name]
    assert [] == [name for name in counts if after[name] < before[name]]
    assert len(sent) == after['invoices_received_total{acceptance="stored"}']
    assert after["invoices_attempts_in_flight"] < before["invoices_attempts_in_flight"]
    assert 2 * 256 == after["invoices_attempts_slots"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_no_folder_of_figures_is_left(two_workers, number):
    """What workers shared is gone with them."""
    folders = {worker.environ()["PROMETHEUS_MULTIPROC_DIR"] for worker in two_workers.workers()}
    (folder,) = map(Path, folders)
    assert folder.is_dir()

    two_workers.signal(number)
    await two_workers.ended()

    assert not folder.exists()


async def test_workers_end_with_the_process_that_started_them(two_workers):
    """No worker is left behind on the port, however the first process ended."""
    workers = two_workers.workers()
    two_workers.signal(signal.SIGKILL)

    assert -signal.SIGKILL == await two_workers.ended()
    assert 2 == len(two_workers.lines("service.stopped"))

    async def are_gone():
        return not any(worker.is_running() for worker in workers)

    assert 2 == len(workers)
    assert await until(are_gone)


async def test_workers_that_cannot_start_end_all_of_it(tmp_path, older_postgres_url):
    """A start that no other try would better ends once, with the reason and its status."""
    async with starting(tmp_path, "--workers", "2", database_url=older_postgres_url) as service:
        assert 2 == await service.ended()

    assert b"invoices migrate" in service.output
    assert [] == service.lines("worker.ended")
