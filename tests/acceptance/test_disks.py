import sqlite3
from contextlib import closing, contextmanager

import psutil
import pytest

from tests.acceptance.traffic import traffic
from tests.processes import receiving, serving

PROBLEM = "application/problem+json"
IN_FLIGHT_COUNT = 3


@contextmanager
def full_disk(service, file):
    """In the block, no file of the service can grow beyond what its log has already."""
    process = psutil.Process(service.process.pid)
    _, most = process.rlimit(psutil.RLIMIT_FSIZE)
    size = file.with_name(f"{file.name}-wal").stat().st_size
    process.rlimit(psutil.RLIMIT_FSIZE, (size, most))
    yield
    process.rlimit(psutil.RLIMIT_FSIZE, (most, most))


@contextmanager
def locked_file(_service, file):
    """
    In the block, another process writes to the file; for the service, we are another.

    It waits five seconds for us before it gives up.
    """
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@pytest.mark.parametrize(
    ("fault", "refusal_count"),
    [
        (full_disk, 5),
        # Each takes five seconds, and answers to requests that waited together.
        (locked_file, 1),
    ],
)
async def test_what_cannot_be_written_is_told_and_made_up_for(tmp_path, warm, fault, refusal_count):
    """While nothing can be written, callers are told to come again; then all goes on by itself."""
    file = tmp_path / "invoices.db"
    async with receiving() as receiver, serving(tmp_path, start=warm.start) as service:
        await service.send("opening", receiver.url)
        await service.delivery_of("opening", is_settled=True)
        receiver.may_answer.clear()
        before = [f"before-{number}" for number in range(IN_FLIGHT_COUNT)]
        for id_ in before:
            assert 202 == (await service.send(id_, receiver.url))[0]
        await receiver.arrived.reaches(1 + IN_FLIGHT_COUNT)

        async with traffic([service], receiver) as going_on:
            with fault(service, file):
                for _ in range(refusal_count):
                    await going_on.is_refused()
                    # These attempts end while nobody can write down how.
                    receiver.may_answer.set()
            await service.logged("storage.found")
            await going_on.accepts(20)
        await service.at_rest()
        deliveries = await service.deliveries()

    calls = receiver.calls()
    assert {"opening", *before, *going_on.accepted} == set(calls) == set(deliveries)
    assert {1} == {len(set(events)) for events in calls.values()}
    assert {"delivered"} == {delivery["status"] for delivery in deliveries.values()}
    # An answer that could not be recorded at first is not asked for again.
    assert {1} == {deliveries[id_]["attempt_count"] for id_ in before}
    assert {(PROBLEM, True)} == {
        (headers["Content-Type"], headers["Retry-After"].isdecimal())
        for headers in going_on.refused
    }
    assert_quiet(service)


async def test_an_outage_of_writes_is_told_once_though_reads_succeed(tmp_path, warm):
    """One outage is one line in the log, whoever reads from the database meanwhile."""
    file = tmp_path / "invoices.db"
    async with serving(tmp_path, start=warm.start) as service:
        assert 202 == (await service.send("opening"))[0]
        with full_disk(service, file):
            for number in range(5):
                assert 503 == (await service.send(f"refused-{number}"))[0]
                assert {"id": "opening"}.items() <= (await service.get("/invoices/opening")).items()
        assert 202 == (await service.send("closing"))[0]

    assert_quiet(service)


async def test_who_cannot_write_is_not_ready(tmp_path, warm):
    """While no invoice can be accepted or collected, traffic is not asked for."""
    file = tmp_path / "invoices.db"
    async with serving(tmp_path, start=warm.start) as service:
        assert 202 == (await service.send("opening"))[0]
        with full_disk(service, file):
            assert 503 == (await service.send("refused"))[0]
            readiness, _, _ = await service.ask("/readyz")
            liveness, _, _ = await service.ask("/healthz")
        found, _, _ = await service.ask("/readyz")

    assert (503, 200, 200) == (readiness, liveness, found)


def assert_quiet(service):
    """The log tells of the outage once, and of no defect."""
    assert (1, 1) == tuple(len(service.lines(f"storage.{what}")) for what in ("lost", "found"))
    assert [] == [
        line
        for line in service.log.entries
        if "error" == line["level"] and "storage.lost" != line["event"]
    ]
    assert b"Traceback" not in service.output
