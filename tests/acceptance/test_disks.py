from contextlib import closing, contextmanager

import psutil
import pytest

from service.database.sqlite_library import LIBRARY
from tests.acceptance.traffic import traffic
from tests.processes import receiving, serving

PROBLEM = "application/problem+json"
IN_FLIGHT_COUNT = 3


@contextmanager
def full_disk(service, file):
    """In the block, no file of the service can grow beyond the present size of its log."""
    process = psutil.Process(service.process.pid)
    _, most = process.rlimit(psutil.RLIMIT_FSIZE)
    size = file.with_name(f"{file.name}-wal").stat().st_size
    process.rlimit(psutil.RLIMIT_FSIZE, (size, most))
    yield
    process.rlimit(psutil.RLIMIT_FSIZE, (most, most))


@contextmanager
def locked_file(_service, file):
    """
    In the block, another process locks the file for writing.

    The service waits five seconds for the lock before it fails.
    """
    with closing(LIBRARY.connect(file, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@pytest.mark.parametrize(
    ("fault", "refusal_count"),
    [
        (full_disk, 5),
        # Each write takes five seconds, and one failure answers all waiting requests.
        (locked_file, 1),
    ],
)
async def test_an_outage_of_writes_is_answered_with_503_and_recovered(
    tmp_path, warm, fault, refusal_count
):
    """While writes fail, callers get 503; afterwards all work continues without help."""
    file = tmp_path / "invoices.db"
    async with receiving() as receiver, serving(tmp_path, start=warm.start) as service:
        await service.send("opening", receiver.url)
        await service.delivery_of("opening", is_settled=True)
        receiver.may_answer.clear()
        before = [f"before-{number}" for number in range(IN_FLIGHT_COUNT)]
        for id_ in before:
            assert 202 == (await service.send(id_, receiver.url))[0]
        await receiver.arrived.reaches(1 + IN_FLIGHT_COUNT)

        async with traffic([service], receiver) as clients:
            with fault(service, file):
                for _ in range(refusal_count):
                    await clients.is_refused()
                    # These attempts end while no outcome can be written.
                    receiver.may_answer.set()
            await service.logged("storage.found")
            await clients.accepts(20)
        await service.at_rest()
        deliveries = await service.deliveries()

    calls = receiver.calls()
    assert {"opening", *before, *clients.accepted} == set(calls) == set(deliveries)
    assert {1} == {len(set(events)) for events in calls.values()}
    assert {"delivered"} == {delivery["status"] for delivery in deliveries.values()}
    # An attempt whose outcome could not be written at first is not repeated.
    assert {1} == {deliveries[id_]["attempt_count"] for id_ in before}
    assert {(PROBLEM, True)} == {
        (headers["Content-Type"], headers["Retry-After"].isdecimal()) for headers in clients.refused
    }
    assert_quiet(service)


async def test_an_outage_of_writes_is_logged_once_although_reads_succeed(tmp_path, warm):
    """One outage of writes causes one log line, even if reads succeed meanwhile."""
    file = tmp_path / "invoices.db"
    async with serving(tmp_path, start=warm.start) as service:
        assert 202 == (await service.send("opening"))[0]
        with full_disk(service, file):
            for number in range(5):
                assert 503 == (await service.send(f"refused-{number}"))[0]
                assert {"id": "opening"}.items() <= (await service.get("/invoices/opening")).items()
        assert 202 == (await service.send("closing"))[0]

    assert_quiet(service)


async def test_a_service_that_cannot_write_is_not_ready(tmp_path, warm):
    """While no invoice can be stored, the service is alive but not ready."""
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
    """The log has the outage once, and no defect."""
    assert (1, 1) == tuple(len(service.lines(f"storage.{what}")) for what in ("lost", "found"))
    assert [] == [
        line
        for line in service.log.entries
        if "error" == line["level"] and "storage.lost" != line["event"]
    ]
    assert b"Traceback" not in service.output
