import asyncio
import signal
from dataclasses import dataclass, field

import aiohttp
import pytest

from tests.acceptance.leases import let_leases_run_out
from tests.processes import receiving, serving, starting

SETTINGS = {"RETRY_SCHEDULE": "50ms,50ms"}
PAID_LATER = {"SANDBOX_DELAY": "50ms"}
"""With this an invoice is sent in one step and collected in another, for which it is leased."""


@dataclass(frozen=True, kw_only=True)
class Death:
    """Where a process dies, and what must be found when another has gone on."""

    step: str
    outcomes: tuple[str, ...]
    call_count: int
    repeated: int = 200
    """How the invoice is answered when it is sent in once more, to the process that goes on."""
    may_be_answered: bool = True
    """Whether the process may have got as far as to answer 202."""
    refusal_count: int = 0
    settings: dict = field(default_factory=dict)


DEATHS = (
    Death(
        step="acceptance-written",
        outcomes=("delivered",),
        call_count=1,
        repeated=202,
        may_be_answered=False,
    ),
    Death(
        step="acceptance-committed", outcomes=("delivered",), call_count=1, may_be_answered=False
    ),
    Death(step="invoice-leased", outcomes=("delivered",), call_count=1, settings=PAID_LATER),
    Death(step="step-written", outcomes=("delivered",), call_count=1),
    Death(step="step-committed", outcomes=("lost", "delivered"), call_count=1),
    Death(
        step="delivery-leased",
        outcomes=("refused", "lost", "delivered"),
        call_count=2,
        refusal_count=1,
    ),
    Death(step="request-ready", outcomes=("lost", "delivered"), call_count=1),
    Death(step="answer-received", outcomes=("lost", "delivered"), call_count=2),
    Death(step="settlement-written", outcomes=("lost", "delivered"), call_count=2),
    Death(step="settlement-committed", outcomes=("delivered",), call_count=1),
    # What is due again is a settlement as well.
    Death(
        step="settlement-committed",
        outcomes=("refused", "delivered"),
        call_count=2,
        refusal_count=1,
    ),
)


def named(death):
    """The step, and that the receiver refuses the first attempt."""
    return f"{death.step}{'-of-refusal' * death.refusal_count}"


@pytest.mark.parametrize("death", DEATHS, ids=named)
async def test_nothing_is_lost_wherever_a_process_dies(tmp_path, warm, database_url, death):
    """Killed at any step, the next process goes on: each event arrives, and is settled once."""
    place = {"database_url": database_url, "start": warm.start, **SETTINGS, **death.settings}
    async with receiving() as receiver:
        for _ in range(death.refusal_count):
            receiver.answer(status=500, text="")
        program = ("tests.acceptance.dying", death.step)
        async with starting(tmp_path, program=program, **place) as service:
            await service.logged("service.started")
            answered = await sent(service, receiver)
            assert -signal.SIGKILL == await service.ended()

        let_leases_run_out(database_url)
        async with serving(tmp_path, **place) as service:
            repeated = await sent(service, receiver)
            delivery = await service.delivery_of("1", is_settled=True)
            await service.at_rest()

    assert answered in ({None, 202} if death.may_be_answered else {None})
    assert death.repeated == repeated
    assert_told(delivery, death.outcomes)
    ((id_, calls),) = receiver.calls().items()
    assert ("1", death.call_count) == (id_, len(calls))
    # The same event is the same id and the same bytes, however often it arrived.
    assert {delivery["id"]} == {webhook_id for webhook_id, _ in calls}
    assert 1 == len(set(calls))


async def test_an_attempt_that_waits_for_its_answer_is_made_again(tmp_path, warm, database_url):
    """Killed while the receiver has the request and has not answered, it is told and repeated."""
    place = {"database_url": database_url, "start": warm.start}
    async with receiving() as receiver:
        receiver.may_answer.clear()
        async with serving(tmp_path, **place) as service:
            assert 202 == await sent(service, receiver)
            await receiver.arrived.reaches(1)
            service.signal(signal.SIGKILL)
            assert -signal.SIGKILL == await service.ended()
        receiver.may_answer.set()

        let_leases_run_out(database_url)
        async with serving(tmp_path, **place) as service:
            delivery = await service.delivery_of("1", is_settled=True)

    assert_told(delivery, ("lost", "delivered"))
    ((_, calls),) = receiver.calls().items()
    assert (2, 1) == (len(calls), len(set(calls)))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_schema_is_made_whole_or_not_at_all(tmp_path, warm, kind, request):
    """Killed in the midst of making the schema, the next start makes it and serves."""
    url = None if "sqlite" == kind else request.getfixturevalue("empty_postgres_url")
    place = {"database_url": url, "start": warm.start}
    program = ("tests.acceptance.dying", "schema-written")
    async with starting(tmp_path, program=program, **place) as service:
        assert -signal.SIGKILL == await service.ended()
    assert [] == service.lines("service.started")

    async with receiving() as receiver, serving(tmp_path, **place) as service:
        assert 202 == await sent(service, receiver)
        delivery = await service.delivery_of("1", is_settled=True)

    assert_told(delivery, ("delivered",))


async def sent(service, receiver):
    """How an invoice is answered; None if the process died before it answered."""
    try:
        async with asyncio.timeout(10):
            status, _ = await service.send("1", receiver.url)
    except aiohttp.ClientError:
        return None
    return status


def assert_told(delivery, outcomes):
    """The delivery is done, and every attempt at it is told, in order and once."""
    told = [(attempt["number"], attempt["outcome"]) for attempt in delivery["attempts"]]
    assert list(enumerate(outcomes, 1)) == told
    assert ("delivered", len(outcomes)) == (delivery["status"], delivery["attempt_count"])
