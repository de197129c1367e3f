import asyncio

import pytest

from tests.acceptance.leases import let_leases_run_out
from tests.acceptance.traffic import traffic
from tests.processes import receiving, serving

PROBLEM = "application/problem+json"
OUTAGES = {
    "stopped": ("stop", "start"),
    "killed": ("kill", "start"),
    # The service waits ten seconds before it fails, so this case is slow.
    "frozen": ("freeze", "thaw"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("ends", "begins"), OUTAGES.values(), ids=OUTAGES.keys())
async def test_an_outage_of_the_database_is_answered_with_503_and_recovered(
    tmp_path, own_server, ends, begins
):
    """While PostgreSQL is down requests get 503; afterwards no accepted invoice is lost."""
    async with (
        receiving() as receiver,
        serving(tmp_path, database_url=own_server.url()) as service,
    ):
        async with traffic([service], receiver) as clients:
            await clients.accepts(50)
            await asyncio.to_thread(getattr(own_server, ends))

            asked = asyncio.create_task(service.ask("/readyz"))
            async with asyncio.timeout(1):
                liveness = await service.ask("/healthz")
            await service.logged("storage.lost")
            readiness = await asked
            await clients.is_refused()

            await asyncio.to_thread(getattr(own_server, begins))
            await service.logged("storage.found")
            found = await service.ask("/readyz")
            await clients.accepts(50)
        let_leases_run_out(own_server.url())
        await service.at_rest()
        deliveries = await service.deliveries()

    status, headers, problem = readiness
    assert (503, PROBLEM, 503) == (status, headers["Content-Type"], problem["status"])
    assert (200, 200) == (liveness[0], found[0])
    assert {(PROBLEM, True)} == {
        (headers["Content-Type"], headers["Retry-After"].isdecimal()) for headers in clients.refused
    }
    calls = receiver.calls()
    assert set(clients.accepted) == set(calls) == set(deliveries)
    assert {1} == {len(set(events)) for events in calls.values()}
    assert {"delivered"} == {delivery["status"] for delivery in deliveries.values()}
    assert (1, 1) == tuple(len(service.lines(f"storage.{what}")) for what in ("lost", "found"))
