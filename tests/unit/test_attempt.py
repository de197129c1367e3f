import asyncio
from dataclasses import replace

import orjson
import pytest
from standardwebhooks import Webhook

from service.delivery.attempt import STORED_BYTES, log_fields
from service.delivery.failures import NoAnswer
from service.delivery.signing import Signer
from service.development import DEV_SECRET
from service.domain.delivery import Dead, Delivered, Retry
from service.domain.outcomes import AttemptOutcome
from service.domain.states import DeadReason, DeliveryStatus
from service.errors import StorageUnavailable
from tests import rows
from tests.clock import START, ManualClock, idle
from tests.fakes import NO_ANSWERS, answer, making_attempts
from tests.rows import SECOND, a_step, an_event, an_invoice

URL = "https://receiver.example/s3cret-path/invoices/1?token=s3cret"
BODY = '{"description":"Invoice paid – thanks","paid":true}'.encode()
ENDED_AT = START + SECOND / 4


def a_delivery(**changes):
    """A delivery that is leased for its first attempt."""
    invoice = an_invoice(at=START - 2 * SECOND, request_id="the-request")
    step = a_step(invoice, event=an_event(at=START - SECOND))
    values = {"url": URL, "origin": "https://receiver.example:443", "body": BODY}
    return replace(rows.a_delivery(step, leased_until=START + 25 * SECOND), **{**values, **changes})


class SlowReceiver:
    """Implements `Sends`: every request takes 250 ms of the clock and gets the same answer."""

    def __init__(self, clock, given):
        self.clock = clock
        self.given = given
        self.requests = []

    async def send(self, request):
        """Keep *request*, and return the answer."""
        self.requests.append(request)
        self.clock.advance(SECOND / 4)
        return self.given


async def made(given, *deliveries, **options):
    """Attempt each of *deliveries*; return the attempts and the requests."""
    clock = ManualClock()
    receiver = SlowReceiver(clock, given)
    attempts = making_attempts(receiver, clock=clock, **options)
    return [await attempts.make(one) for one in deliveries or (a_delivery(),)], receiver.requests


async def attempted(given, **changes):
    """The attempt of a delivery with *changes* and the answer *given*."""
    (attempt,), _ = await made(given, a_delivery(**changes))
    return attempt


# Sign and send


async def test_the_request_is_as_documented():
    """Method, URL, headers and body are as documented for receivers."""
    _, (request,) = await made(answer())

    headers = dict(request.headers)
    assert headers.pop("webhook-signature").startswith("v1,")
    assert {
        "Content-Type": "application/json",
        "User-Agent": "invoices/1.2.3",
        "Invoices-Collector": "sandbox",
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(START.timestamp())),
        "webhook-attempt": "1",
    } == headers
    assert ("POST", URL, BODY) == (request.method, request.url, request.body)


async def test_a_signature_verifies():
    """A receiver that knows the secret can verify that the body is from this service."""
    (attempt,), (request,) = await made(answer())
    webhook = Webhook(DEV_SECRET)

    expected = webhook.sign("msg_1", attempt.started_at, BODY.decode())
    assert expected == request.headers["webhook-signature"]


async def test_every_attempt_has_the_same_id_and_bytes():
    """A receiver can recognise a repeated callback: only timestamp and signature change."""
    first, later = a_delivery(), a_delivery(attempt_count=3, failure_count=2, lease_token=4)

    _, requests = await made(answer(500), *[first, later] * 4)

    assert {("msg_1", BODY, URL)} == {
        (request.headers["webhook-id"], request.body, request.url) for request in requests
    }
    assert ["0", "1"] == sorted(
        {str(int(one.headers["webhook-timestamp"]) - int(START.timestamp())) for one in requests}
    )


async def test_a_request_is_signed_with_the_secrets_of_its_account():
    """Each request is signed with the secrets of the account that owns the delivery."""
    asked = []

    async def signer_of(account_id):
        asked.append(account_id)
        return Signer((DEV_SECRET,))

    await made(answer(), a_delivery(account_id="acme"), signer_of=signer_of)

    assert ["acme"] == asked


async def test_an_attempt_records_its_start_and_end():
    """The recorded instants are directly before and directly after the request."""
    (attempt,), _ = await made(answer(), a_delivery())

    assert (START, ENDED_AT) == (attempt.started_at, attempt.ended_at)


# What is recorded


async def test_an_attempt_records_the_answer():
    """Number, instant, duration, status, outcome and body are recorded."""
    (attempt,), _ = await made(answer(500, b"oops"), a_delivery(attempt_count=2))

    assert (3, START, 250) == (attempt.number, attempt.started_at, attempt.duration_ms)
    assert (500, AttemptOutcome.REFUSED) == (attempt.status_code, attempt.outcome)
    assert ("the receiver answered 500", "oops") == (attempt.detail, attempt.response_body)


@pytest.mark.parametrize("outcome", NO_ANSWERS)
async def test_an_attempt_without_an_answer_records_the_reason(outcome):
    """Without an answer, the attempt has no status and no body, and its detail has the reason."""
    (attempt,), _ = await made(NoAnswer(outcome, "no answer within 15 s"))

    assert (None, None) == (attempt.status_code, attempt.response_body)
    assert (outcome, "no answer within 15 s") == (attempt.outcome, attempt.detail)


async def test_an_incomplete_body_keeps_the_status():
    """The status of a 2xx with an incomplete body is recorded."""
    attempt = await attempted(NoAnswer(AttemptOutcome.TIMEOUT, "", status_code=200))

    assert (200, None) == (attempt.status_code, attempt.response_body)


async def test_an_empty_answer_is_an_answer():
    """An answer with an empty body is recorded as an answer."""
    (attempt,), _ = await made(answer(204, b""))

    assert (204, "") == (attempt.status_code, attempt.response_body)


@pytest.mark.parametrize(
    ("expected", "body"),
    [
        ("x" * STORED_BYTES, b"x" * STORED_BYTES),
        ("x" * STORED_BYTES, b"x" * (STORED_BYTES + 1)),
        ("x" * STORED_BYTES, b"x" * 65536),
        ("x" * (STORED_BYTES - 1) + "\ufffd", b"x" * (STORED_BYTES - 1) + "é".encode()),
        ("a\ufffdb", b"a\0b"),
        ("a\ufffdb", b"a\xffb"),
        ("a\ufffd\ufffd\ufffdb", b"a\xed\xa0\x80b"),
        ("a\ufffd", b"a\xc3"),
        ("a\ufffd[2J\ufffdb\ufffd\ufffd", b"a\x1b[2J\x07b\x7f" + "\x9b".encode()),
        ("añ😀\r\n\t", "añ😀\r\n\t".encode()),
    ],
    ids=[
        *("4 KiB", "one more", "far more", "half a character"),
        *("NUL", "not UTF-8", "surrogate", "cut off", "controls", "text"),
    ],
)
async def test_four_kib_of_an_answer_are_stored_as_text(expected, body):
    """The first 4 KiB of any body become text that every database can store."""
    (attempt,), _ = await made(answer(500, body))

    stored = attempt.response_body
    assert expected == stored
    assert stored.encode()
    assert "\0" not in stored


def test_the_documented_limit_is_4_kib():
    """The limit in the code is the limit in the documentation."""
    assert 4 * 1024 == STORED_BYTES


# The settlement


async def test_a_delivered_attempt_settles_the_delivery():
    """An acknowledgement settles the delivery as delivered, at its end, under its lease."""
    attempt = await attempted(answer(), lease_token=7)

    assert ("msg_1", 7) == (attempt.delivery.id, attempt.delivery.lease_token)
    assert (Delivered(), ENDED_AT) == (attempt.decision, attempt.ended_at)
    assert DeliveryStatus.DELIVERED is attempt.decision.status
    assert None is attempt.held_until


async def test_a_failed_attempt_leaves_the_delivery_pending():
    """The next attempt is due after the end of this one and the delay."""
    attempt = await attempted(answer(500))

    assert DeliveryStatus.PENDING is attempt.decision.status
    assert (Retry(5 * SECOND), ENDED_AT) == (attempt.decision, attempt.ended_at)
    assert ENDED_AT + 5 * SECOND == log_fields(attempt)["due_at"]
    assert None is attempt.held_until


async def test_lost_attempts_do_not_count_as_failures():
    """An attempt that was lost on our side does not count in the schedule."""
    attempt = await attempted(answer(500), attempt_count=9, failure_count=1)

    assert Retry(300 * SECOND) == attempt.decision
    assert 10 == attempt.number


async def test_retry_after_holds_the_origin():
    """Delivery and origin are on hold from the end of the attempt."""
    attempt = await attempted(answer(503, retry_after="60"))

    assert Retry(60 * SECOND) == attempt.decision
    assert ENDED_AT + 60 * SECOND == attempt.held_until
    assert "https://receiver.example:443" == attempt.delivery.origin


@pytest.mark.parametrize(
    ("reason", "given", "failure_count"),
    [
        (DeadReason.GONE, answer(410), 0),
        (DeadReason.BLOCKED, NoAnswer(AttemptOutcome.BLOCKED, ""), 0),
        (DeadReason.EXHAUSTED, answer(500), 2),
        (DeadReason.EXHAUSTED, NoAnswer(AttemptOutcome.TIMEOUT, ""), 2),
    ],
)
async def test_every_dead_delivery_has_a_reason(reason, given, failure_count):
    """A dead delivery has a reason and no due instant."""
    attempt = await attempted(given, failure_count=failure_count)

    assert Dead(reason) == attempt.decision
    assert DeliveryStatus.DEAD is attempt.decision.status
    assert (None, None) == (log_fields(attempt)["due_at"], attempt.held_until)


async def test_a_denied_name_is_attempted_again_and_the_operator_sees_why():
    """The schedule is that of an unreachable receiver; log and metrics say `blocked`."""
    denied, unreachable = [
        await attempted(NoAnswer(AttemptOutcome.UNREACHABLE, "no", is_denied=is_denied))
        for is_denied in (True, False)
    ]

    assert isinstance(denied.decision, Retry)
    assert (unreachable.decision, unreachable.outcome) == (denied.decision, denied.outcome)
    assert unreachable.is_receiver_available == denied.is_receiver_available
    assert AttemptOutcome.BLOCKED == log_fields(denied)["outcome"]
    assert AttemptOutcome.UNREACHABLE == log_fields(unreachable)["outcome"]


async def test_the_last_failure_still_holds_the_origin():
    """Other deliveries of the origin wait for the hold, although this delivery is dead."""
    attempt = await attempted(answer(503, retry_after="60"), failure_count=2)

    assert DeadReason.EXHAUSTED is attempt.decision.reason
    assert ENDED_AT + 60 * SECOND == attempt.held_until


async def test_a_lenient_contract_delivers_and_records_the_difference():
    """Any 2xx delivers, and the difference from the declared body is recorded."""
    (attempt,), _ = await made(answer(200, b"<html>"), is_strict=False)

    assert DeliveryStatus.DELIVERED is attempt.decision.status
    assert attempt.detail.startswith("accepted although")
    assert "<html>" == attempt.response_body


# Errors on our side


async def test_an_error_on_our_side_is_not_an_attempt():
    """Without a signature no request is sent, and the caller gets the error."""

    async def signer_of(_account_id):
        raise LookupError("no secret")

    receiver = SlowReceiver(ManualClock(), answer())
    attempts = making_attempts(receiver, signer_of=signer_of)

    with pytest.raises(LookupError, match="no secret"):
        await attempts.make(a_delivery())
    assert [] == receiver.requests


async def test_a_defect_while_settling_is_logged(caplog):
    """If the store raises, the other attempts continue, and the lease runs out."""

    class Broken:
        async def settle(self, _attempt):
            raise ZeroDivisionError

    clock = ManualClock()
    attempts = making_attempts(SlowReceiver(clock, answer()), clock=clock, store=Broken())

    await attempts.settle(await attempts.make(a_delivery()))

    assert ["attempt.failed"] == caplog.messages


class AwayStore:
    """A store that refuses every write and counts the refused settlements."""

    def __init__(self):
        self.asked_count = 0

    async def settle(self, _attempt):
        """Fail like an unavailable database."""
        self.asked_count += 1
        raise StorageUnavailable("away")


async def test_settling_is_retried_until_the_lease_ends():
    """A failed settlement is retried while the lease lasts, and not afterwards."""
    clock, store = ManualClock(), AwayStore()
    attempts = making_attempts(SlowReceiver(clock, answer()), clock=clock, store=store)
    attempt = await attempts.make(a_delivery(leased_until=START + 5 * SECOND))
    settling = asyncio.create_task(attempts.settle(attempt))
    while not settling.done():
        await idle()
        clock.advance(SECOND)

    assert 3 == store.asked_count


async def test_a_drain_does_not_wait_for_the_database():
    """During a drain a failed settlement is retried once, and then the lease runs out."""
    clock, store = ManualClock(), AwayStore()
    attempts = making_attempts(SlowReceiver(clock, answer()), clock=clock, store=store)
    attempt = await attempts.make(a_delivery())
    settling = asyncio.create_task(attempts.settle(attempt))
    await clock.parked()

    attempts.drain()
    await settling

    assert (2, ENDED_AT) == (store.asked_count, clock.now())


# The log line


GIVEN = [
    answer(),
    answer(500, b"s3cret"),
    answer(429, retry_after="60"),
    answer(410),
    *(NoAnswer(one, "no connection to the receiver could be made") for one in NO_ANSWERS),
]


@pytest.mark.parametrize("given", GIVEN)
async def test_one_flat_record_describes_an_attempt(given):
    """Every attempt is logged with the same fields, and none of them is nested."""
    (attempt,), _ = await made(given)

    fields = log_fields(attempt)
    assert {
        "request_id",
        "delivery_id",
        "invoice_id",
        "account_id",
        "callback",
        "origin",
        "number",
        "cause",
        "outcome",
        "detail",
        "status_code",
        "duration_ms",
        "status",
        "reason",
        "due_at",
        "held_until",
        "age_ms",
    } == set(fields)
    assert (1, 250, 1250) == (fields["number"], fields["duration_ms"], fields["age_ms"])
    assert orjson.dumps(fields)
    assert not any(isinstance(value, dict | list | tuple) for value in fields.values())


@pytest.mark.parametrize("given", GIVEN)
async def test_the_log_contains_no_secrets(given):
    """The path and query of the URL, the bodies and the secret are not logged."""
    (attempt,), _ = await made(given)

    line = repr(log_fields(attempt))
    assert "s3cret" not in line
    assert "Invoice paid" not in line
    assert DEV_SECRET not in line
