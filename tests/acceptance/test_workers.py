import asyncio
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import values

from service.app.process import Process
from service.app.running import running
from service.development import for_development
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.workers import SHARED_FOLDER
from tests.acceptance.leases import let_leases_run_out
from tests.processes import receiving, starting, until
from tests.samples import samples_of

CONNECTION_COUNT = 32
ORIGIN_CONCURRENCY = 16
"""The limit of attempts in flight of one process to one receiver."""

STORED = 'invoices_received_total{acceptance="stored"}'


@pytest.fixture
async def two_workers(tmp_path, postgres_url):
    """A service with two processes on one port."""
    async with starting(tmp_path, "--workers", "2", database_url=postgres_url) as service:
        await service.logged("service.started", 2)
        yield service


@pytest.fixture
async def receiver():
    """The receiver of the callbacks."""
    async with receiving() as receiver:
        yield receiver


async def connected(service, count):
    """*count* connections that each had a response; the caller closes them."""
    port = int(service.url.rpartition(":")[2])
    writers = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP/1.1 200 OK\r\n" == await reader.readline()
        writers.append(writer)
    return writers


def servers_of(service, writers):
    """The process that serves each connection."""
    clients = {writer.get_extra_info("sockname")[:2] for writer in writers}
    return [
        worker.pid
        for worker in service.workers()
        for connection in worker.net_connections("tcp")
        if tuple(connection.raddr) in clients
    ]


async def send_all(service, receiver, numbers):
    """Send invoices, each on its own connection, so that both workers get some."""
    for number in numbers:
        assert 202 == (await service.send(f"i{number}", receiver.url))[0]


async def both_busy(service, receiver):
    """Make both workers have attempts in flight, which the receiver does not answer."""
    await send_all(service, receiver, range(20))
    await receiver.arrived.reaches(20)
    await service.at_rest()
    receiver.may_answer.clear()
    await send_all(service, receiver, range(20, 80))
    await receiver.arrived.reaches(20 + ORIGIN_CONCURRENCY + 4)

    async def are_counted():
        figures = await service.figures()
        in_flight = figures["invoices_attempts_in_flight"]
        return (80, True) == (figures[STORED], in_flight >= ORIGIN_CONCURRENCY + 4)

    await until(are_counted)
    return {f"i{number}" for number in range(80)}


async def test_workers_share_the_connections(two_workers):
    """A connection to the port is served by one of the two processes."""
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
    """Stop the first process, which stops the others."""
    service.signal(signal.SIGTERM)
    await service.logged("service.draining", 2)


async def stop_all(service):
    """Signal every process like Ctrl-C and systemd do; the first process gets the signal last."""
    for worker in service.workers():
        worker.send_signal(signal.SIGINT)
    await service.logged("service.draining", 2)
    service.signal(signal.SIGINT)


@pytest.mark.parametrize("stop", [stop_first, stop_all])
async def test_a_stop_drains_all_workers(two_workers, receiver, stop):
    """Whichever process is signalled, every worker finishes its attempts, and the status is 0."""
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
    """A new worker replaces a killed one, whose deliveries are leased again after their leases."""
    sent = await both_busy(two_workers, receiver)
    killed, kept = two_workers.workers()

    killed.kill()
    ended = await two_workers.logged("worker.ended")
    await two_workers.logged("service.started", 3)
    let_leases_run_out(postgres_url)
    receiver.may_answer.set()
    await two_workers.at_rest()

    assert (killed.pid, -signal.SIGKILL) == (ended["pid"], ended["status"])
    assert kept in two_workers.workers()
    assert 2 == len(two_workers.workers())
    calls = receiver.calls()
    assert sent == set(calls)
    assert {1} == {len(set(events)) for events in calls.values()}
    assert {"delivered"} == {one["status"] for one in (await two_workers.deliveries()).values()}


async def test_any_worker_exposes_the_metrics_of_all(two_workers, receiver):
    """Metrics are summed over the workers; the common backlog is not."""
    sent = await both_busy(two_workers, receiver)
    busy = [await two_workers.figures() for _ in range(10)]
    receiver.may_answer.set()

    async def are_delivered():
        figures = await two_workers.figures()
        return figures['invoices_attempts_total{outcome="delivered"}'] == len(sent) and figures

    figures = await until(are_delivered)
    assert {len(sent)} == {one[STORED] for one in busy}
    assert {2 * 256} == {one["invoices_attempts_slots"] for one in busy}
    assert all(one["invoices_attempts_in_flight"] > ORIGIN_CONCURRENCY for one in busy)
    assert all(one["invoices_storage_up"] == 1 for one in busy)
    assert 0 == figures["invoices_attempts_in_flight"]


async def test_any_worker_exposes_the_attempts_of_an_account_in_all(two_workers, receiver):
    """What an account has in flight is summed over the workers, who share it every few seconds."""
    await both_busy(two_workers, receiver)

    async def are_summed():
        figures = await two_workers.figures()
        by_account = [
            value
            for name, value in figures.items()
            if name.startswith("invoices_account_attempts_in_flight{")
        ]
        return by_account == [figures["invoices_attempts_in_flight"]]

    summed = [await until(are_summed) for _ in range(10)]
    receiver.may_answer.set()

    assert all(summed)


async def test_the_counters_of_a_killed_worker_stay(two_workers, receiver):
    """Counters never decrease; the attempts in flight of a killed worker are not counted."""
    sent = await both_busy(two_workers, receiver)
    killed, _ = two_workers.workers()
    before = await two_workers.figures()

    killed.kill()
    await two_workers.logged("worker.ended")
    await two_workers.logged("service.started", 3)
    after = await two_workers.figures()

    counts = [name for name in before if "_total" in name and "invoices_" in name]
    assert [] == [name for name in counts if after[name] < before[name]]
    assert len(sent) == after[STORED]
    assert after["invoices_attempts_in_flight"] < before["invoices_attempts_in_flight"]
    assert 2 * 256 == after["invoices_attempts_slots"]


async def test_the_counters_of_a_stopped_worker_are_complete(
    tmp_path, tmp_path_factory, monkeypatch
):
    """The others expose all that a worker has counted before it stopped, a moment before too."""
    monkeypatch.setenv(SHARED_FOLDER, str(tmp_path_factory.mktemp("metrics")))
    # The class of values is global in prometheus_client.
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setattr("service.telemetry.metrics.OUTLIVING_DELAY_SECONDS", 3600)
    settings = for_development(Settings(port=0, database_url=f"sqlite:///{tmp_path}/invoices.db"))
    invoice = {"id": "a", "customer": "Mr. Richie Rich", "total": "9999"}

    async with (
        running(settings, Process(is_development=True, worker_number=0)) as service,
        aiohttp.request(
            "POST", f"http://127.0.0.1:{service.port}/invoices/", json=invoice
        ) as response,
    ):
        assert 202 == response.status

    assert 1 == samples_of(Metrics(worker_number=1))[STORED]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_no_metrics_folder_remains(two_workers, number):
    """The metrics folder of the workers is removed at the end."""
    files = [file for worker in two_workers.workers() for file in worker.open_files()]
    (folder,) = {path.parent for file in files if (path := Path(file.path)).suffix == ".db"}
    assert folder.is_dir()

    two_workers.signal(number)
    await two_workers.ended()

    assert not folder.exists()


async def test_workers_end_with_the_first_process(two_workers):
    """No worker stays on the port after the first process has ended, for whatever reason."""
    workers = two_workers.workers()
    two_workers.signal(signal.SIGKILL)

    assert -signal.SIGKILL == await two_workers.ended()
    assert 2 == len(two_workers.lines("service.stopped"))

    async def are_gone():
        return not any(worker.is_running() for worker in workers)

    assert 2 == len(workers)
    assert await until(are_gone)


async def test_workers_that_cannot_start_end_the_service(tmp_path, older_postgres_url):
    """If another attempt would not help, the service ends at once with reason and status."""
    async with starting(tmp_path, "--workers", "2", database_url=older_postgres_url) as service:
        assert 2 == await service.ended()

    assert b"invoices migrate" in service.output
    assert [] == service.lines("worker.ended")


async def test_workers_take_no_module_from_the_working_directory(tmp_path, postgres_url):
    """A file named as one of our modules does not run in a worker, which has all secrets."""
    (tmp_path / "click.py").write_text("open('taken', 'w').close()\nraise SystemExit(1)\n")

    async def start(module, *arguments, env):
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", module, *arguments),
            cwd=tmp_path,
            env=env,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )

    async with starting(
        tmp_path, "--workers", "2", database_url=postgres_url, start=start
    ) as service:
        await service.logged("service.started", 2)

    assert not (tmp_path / "taken").exists()
