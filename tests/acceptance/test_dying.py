import asyncio
import signal
from dataclasses import dataclass, field

import aiohttp
import pytest

from tests.acceptance.leases import let_leases_run_out
from tests.processes import receiving, serving, starting

SETTINGS = {"RETRY_SCHEDULE": "50ms,50ms"}
PAID_LATER = {"SANDBOX_DELAY": "50ms"}
"""With this setting the sending and the payment are two steps, and the second needs a lease."""

MAILED = {"customer_email": "richie@example.com"}
"""An invoice that gets a mail is accepted first, and takes its first step then."""


@dataclass(frozen=True, kw_only=True)
class Crash:
    """The step at which a process is killed, and the expected result after the next process."""

    step: str
    outcomes: tuple[str, ...]
    call_count: int
    repeated: int = 200
    """The status of the same invoice when it is sent again to the next process."""
    may_be_answered: bool = True
    """Whether the process may have answered 202 before the kill."""
    refusal_count: int = 0
    settings: dict = field(default_factory=dict)
    content: dict = field(default_factory=dict)
    """What the invoice has besides."""


NOT_STORED = {
    **{"outcomes": ("delivered",), "call_count": 1},
    **{"repeated": 202, "may_be_answered": False},
}
"""What is expected where the process ends before the invoice is committed."""

CRASHES = (
    Crash(step="begun-written", **NOT_STORED),
    Crash(
        step="begun-committed",
        outcomes=("lost", "delivered"),
        call_count=1,
        may_be_answered=False,
    ),
    Crash(step="acceptance-written", **NOT_STORED, content=MAILED),
    Crash(
        step="acceptance-committed",
        outcomes=("delivered",),
        call_count=1,
        may_be_answered=False,
        content=MAILED,
    ),
    Crash(step="invoice-leased", outcomes=("delivered",), call_count=1, settings=PAID_LATER),
    Crash(step="step-written", outcomes=("delivered",), call_count=1, settings=PAID_LATER),
    Crash(
        step="step-committed",
        outcomes=("lost", "delivered"),
        call_count=1,
        settings=PAID_LATER,
    ),
    Crash(step="step-written", outcomes=("delivered",), call_count=1, content=MAILED),
    Crash(step="step-committed", outcomes=("lost", "delivered"), call_count=1, content=MAILED),
    Crash(
        step="delivery-leased",
        outcomes=("refused", "lost", "delivered"),
        call_count=2,
        refusal_count=1,
    ),
    Crash(step="request-ready", outcomes=("lost", "delivered"), call_count=1),
    Crash(step="answer-received", outcomes=("lost", "delivered"), call_count=2),
    Crash(step="settlement-written", outcomes=("lost", "delivered"), call_count=2),
    Crash(step="settlement-committed", outcomes=("delivered",), call_count=1),
    # A settlement with a retry is tested as well.
    Crash(
        step="settlement-committed",
        outcomes=("refused", "delivered"),
        call_count=2,
        refusal_count=1,
    ),
)


def named(crash):
    """The step, whether the receiver refuses the first attempt, and whether there is a mail."""
    of_mail = "-of-mail" if crash.content else ""
    return f"{crash.step}{'-of-refusal' * crash.refusal_count}{of_mail}"


@pytest.mark.parametrize("crash", CRASHES, ids=named)
async def test_a_kill_at_any_step_loses_nothing(tmp_path, warm, database_url, crash):
    """After a kill at any step, the next process delivers each event and settles it once."""
    place = {"database_url": database_url, "start": warm.start, **SETTINGS, **crash.settings}
    async with receiving() as receiver:
        for _ in range(crash.refusal_count):
            receiver.answer(status=500, text="")
        program = ("tests.acceptance.dying", crash.step)
        async with starting(tmp_path, program=program, **place) as service:
            await service.logged("service.started")
            answered = await sent(service, receiver, **crash.content)
            assert -signal.SIGKILL == await service.ended()

        let_leases_run_out(database_url)
        async with serving(tmp_path, **place) as service:
            repeated = await sent(service, receiver, **crash.content)
            delivery = await service.delivery_of("1", is_settled=True)
            await service.at_rest()

    assert answered in ({None, 202} if crash.may_be_answered else {None})
    assert crash.repeated == repeated
    assert_recorded(delivery, crash.outcomes)
    ((id_, calls),) = receiver.calls().items()
    assert ("1", crash.call_count) == (id_, len(calls))
    # Each request for the same event has the same id and the same bytes.
    assert {delivery["id"]} == {webhook_id for webhook_id, _ in calls}
    assert 1 == len(set(calls))


async def test_an_attempt_without_an_answer_is_repeated(tmp_path, warm, database_url):
    """An attempt that a kill interrupts before its answer is recorded as lost and repeated."""
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

    assert_recorded(delivery, ("lost", "delivered"))
    ((_, calls),) = receiver.calls().items()
    assert (2, 1) == (len(calls), len(set(calls)))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_kill_during_the_migration_leaves_no_partial_schema(tmp_path, warm, kind, request):
    """After a kill during the migration, the next start makes the schema and serves."""
    url = None if "sqlite" == kind else request.getfixturevalue("empty_postgres_url")
    place = {"database_url": url, "start": warm.start}
    program = ("tests.acceptance.dying", "schema-written")
    async with starting(tmp_path, program=program, **place) as service:
        assert -signal.SIGKILL == await service.ended()
    assert [] == service.lines("service.started")

    async with receiving() as receiver, serving(tmp_path, **place) as service:
        assert 202 == await sent(service, receiver)
        delivery = await service.delivery_of("1", is_settled=True)

    assert_recorded(delivery, ("delivered",))


async def sent(service, receiver, **content):
    """The status of the response to an invoice; None if the process died before it."""
    try:
        async with asyncio.timeout(10):
            status, _ = await service.send("1", receiver.url, **content)
    except aiohttp.ClientError:
        return None
    return status


def assert_recorded(delivery, outcomes):
    """The delivery is delivered, and its attempts are recorded once and in order."""
    recorded = [(attempt["number"], attempt["outcome"]) for attempt in delivery["attempts"]]
    assert list(enumerate(outcomes, 1)) == recorded
    assert ("delivered", len(outcomes)) == (delivery["status"], delivery["attempt_count"])
