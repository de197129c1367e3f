"""A process without file descriptors: survived, named in the log, and no receiver's fault."""

import resource

import psutil
import pytest

from tests.processes import receiving, serving, until

COUNT = 40


@pytest.mark.slow
async def test_no_descriptors_cost_no_attempt(tmp_path):
    """What could not be sent is sent later, in its first attempt; one line names the cause."""
    async with (
        receiving() as receiver,
        serving(tmp_path, SANDBOX_DELAY="3s", ORIGIN_CONCURRENCY="100") as service,
    ):
        await service.send("opening", receiver.url)
        await service.at_rest()
        receiver.may_answer.clear()
        for number in range(COUNT):
            await service.send(f"i{number}", receiver.url)
        pid = service.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        few = psutil.Process(pid).num_fds() + 4
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, hard))
        await service.logged("descriptors.exhausted")

        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        receiver.may_answer.set()
        await service.at_rest()
        deliveries = await service.deliveries()

        async def is_counted():
            figures = await service.figures()
            return figures["invoices_descriptors_allowed"] == hard and figures

        figures = await until(is_counted)

    assert {("delivered", 1)} == {(d["status"], d["attempt_count"]) for d in deliveries.values()}
    assert 1 + COUNT == len(deliveries)
    assert 1 == len(service.lines("descriptors.exhausted"))
    assert 0 < figures['invoices_attempts_prevented_total{cause="descriptors"}']
    assert 0 < figures["invoices_descriptors_exhausted_total"]


async def test_a_limit_that_is_too_low_is_named_at_the_start(tmp_path):
    """The warning says how many descriptors the settings can need."""
    async with serving(tmp_path, CONNECTION_LIMIT="10000", CALLBACK_CONCURRENCY="10000") as service:
        hard = resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE)[1]
        lines = service.lines("descriptors.few")

    assert (hard < 20_384) == bool(lines)
