from dataclasses import replace
from datetime import timedelta

import orjson
import pytest
from standardwebhooks import Webhook

from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.delivery.attempt import (
    KEPT_BYTES,
    Performer,
    Rules,
    log_fields,
    record_of,
    settlement_of,
)
from service.delivery.failures import NoAnswer, NoAnswerKind
from service.delivery.signing import Signer
from service.development import DEV_SECRET
from service.domain.outcomes import AttemptOutcome
from service.domain.states import Cause, DeadReason, DeliveryStatus
from service.storage.deliveries import LeasedDelivery
from tests.clock import START, ManualClock
from tests.fakes import SILENT, answer, signing_with

SECOND = timedelta(seconds=1)
URL = "https://receiver.example/s3cret-path/invoices/1?token=s3cret"
BODY = '{"description":"Invoice paid – thanks","paid":true}'.encode()
RULES = Rules(
    retry_schedule=(5 * SECOND, 300 * SECOND),
    is_strict=True,
    user_agent="invoices/1.2.3",
    chance=lambda: 0.5,
)


def a_delivery(**changes):
    """A delivery that was leased for its first attempt."""
    values = {
        "id": "msg_1",
        "account_id": "dev",
        "invoice_id": "1",
        "collector": "sandbox",
        "callback": "invoice_notification",
        "url": URL,
        "origin": "https://receiver.example:443",
        "body": BODY,
        "attempt_count": 0,
        "failure_count": 0,
        "cause": Cause.EVENT,
        "accepted_at": START - 2 * SECOND,
        "created_at": START - SECOND,
        "leased_until": START + 25 * SECOND,
        "lease_token": 1,
        "request_id": "the-request",
        "traceparent": None,
    }
    return LeasedDelivery(**{**values, **changes})


class SlowReceiver:
    """Implements `Sends`: every request takes 250 ms of the clock and is answered the same."""

    def __init__(self, clock, given):
        self.clock = clock
        self.given = given
        self.requests = []

    async def send(self, request):
        """Keep *request* and answer."""
        self.requests.append(request)
        self.clock.advance(SECOND / 4)
        return self.given


async def performed(given, *deliveries, rules=RULES, secrets=(DEV_SECRET,)):
    """Attempt each of *deliveries*; the attempts and the requests that were made."""
    clock = ManualClock()
    receiver = SlowReceiver(clock, given)
    callbacks = {INVOICE_NOTIFICATION.name: INVOICE_NOTIFICATION}
    performer = Performer(receiver, signing_with(Signer(secrets)), callbacks, rules, clock, SILENT)
    attempts = [await performer.perform(delivery) for delivery in deliveries or (a_delivery(),)]
    return attempts, receiver.requests


async def settled(given, **changes):
    """What an attempt that was answered *given* means for its row."""
    (attempt,), _ = await performed(given, a_delivery(**changes))
    return settlement_of(attempt)


# Sign and send


async def test_the_request_is_what_the_contract_says():
    """Method, URL, headers and body are those that receivers build on."""
    _, (request,) = await performed(answer())

    headers = dict(request.headers)
    assert headers.pop("webhook-signature").startswith("v1,")
    assert {
        "Content-Type": "application/json",
        "User-Agent": "invoices/1.2.3",
        "Invoices-Collector": "sandbox",
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(START.timestamp())),
    } == headers
    assert ("POST", URL, BODY) == (request.method, request.url, request.body)


async def test_the_signature_verifies():
    """A receiver that knows the secret can tell that the body is ours."""
    (attempt,), (request,) = await performed(answer())
    webhook = Webhook(DEV_SECRET)

    expected = webhook.sign("msg_1", attempt.started_at, BODY.decode())
    assert expected == request.headers["webhook-signature"]


async def test_every_attempt_has_the_same_id_and_bytes():
    """A receiver recognises what it had, because only the timestamp and signature change."""
    first, later = a_delivery(), a_delivery(attempt_count=3, failure_count=2, lease_token=4)

    _, requests = await performed(answer(500), *[first, later] * 4)

    assert {("msg_1", BODY, URL)} == {
        (request.headers["webhook-id"], request.body, request.url) for request in requests
    }
    assert ["0", "1"] == sorted(
        {str(int(one.headers["webhook-timestamp"]) - int(START.timestamp())) for one in requests}
    )


async def test_the_account_signs_what_is_its_own():
    """Each request is signed with the secrets of the account whose delivery it is."""
    asked = []

    async def signer_of(account_id):
        asked.append(account_id)
        return Signer((DEV_SECRET,))

    clock = ManualClock()
    callbacks = {INVOICE_NOTIFICATION.name: INVOICE_NOTIFICATION}
    performer = Performer(SlowReceiver(clock, answer()), signer_of, callbacks, RULES, clock, SILENT)

    await performer.perform(a_delivery(account_id="acme"))

    assert ["acme"] == asked


async def test_an_attempt_knows_when_it_began_and_ended():
    """The instants are those right before and right behind the request."""
    (attempt,), _ = await performed(answer(), a_delivery())

    assert (START, START + SECOND / 4) == (attempt.started_at, attempt.ended_at)


# What is kept of it


async def test_an_attempt_is_kept_with_what_was_answered():
    """Number, instant, duration, status, outcome and body can be looked at later."""
    (attempt,), _ = await performed(answer(500, b"oops"), a_delivery(attempt_count=2))

    record = record_of(attempt)
    assert (3, START, 250) == (record.number, record.started_at, record.duration_ms)
    assert (500, AttemptOutcome.REFUSED) == (record.status_code, record.outcome)
    assert ("the receiver answered 500", "oops") == (record.detail, record.response_body)


@pytest.mark.parametrize("kind", NoAnswerKind)
async def test_an_attempt_without_an_answer_is_kept_with_the_reason(kind):
    """Where nothing came back there is no status and no body, and why is said."""
    (attempt,), _ = await performed(NoAnswer(kind, "no answer within 15 s"))

    record = record_of(attempt)
    assert (None, None) == (record.status_code, record.response_body)
    assert (AttemptOutcome(kind.value), "no answer within 15 s") == (record.outcome, record.detail)


async def test_an_empty_answer_is_not_no_answer():
    """A receiver that answered nothing at all did answer."""
    (attempt,), _ = await performed(answer(204, b""))

    assert (204, "") == (record_of(attempt).status_code, record_of(attempt).response_body)


@pytest.mark.parametrize(
    ("expected", "body"),
    [
        ("x" * KEPT_BYTES, b"x" * KEPT_BYTES),
        ("x" * KEPT_BYTES, b"x" * (KEPT_BYTES + 1)),
        ("x" * KEPT_BYTES, b"x" * 65536),
        ("x" * (KEPT_BYTES - 1) + "\ufffd", b"x" * (KEPT_BYTES - 1) + "é".encode()),
        ("a\ufffdb", b"a\0b"),
        ("a\ufffdb", b"a\xffb"),
        ("a\ufffd\ufffd\ufffdb", b"a\xed\xa0\x80b"),
        ("a\ufffd", b"a\xc3"),
        ("añ😀\r\n\t", "añ😀\r\n\t".encode()),
    ],
    ids=[
        *("4 KiB", "one more", "far more", "half a character"),
        *("NUL", "not UTF-8", "surrogate", "cut off", "text"),
    ],
)
async def test_four_kib_of_an_answer_are_kept_as_text(expected, body):
    """The beginning of any bytes becomes text that every database stores."""
    (attempt,), _ = await performed(answer(500, body))

    kept = record_of(attempt).response_body
    assert expected == kept
    assert kept.encode()
    assert "\0" not in kept


def test_four_kib_are_four_kib():
    """What is kept is what is documented."""
    assert 4 * 1024 == KEPT_BYTES


# What it means for the row


async def test_a_delivered_attempt_settles_the_delivery():
    """An acknowledgement is settled as delivered, at its end, for the lease it was made under."""
    settlement = await settled(answer(), lease_token=7)

    assert ("msg_1", 7) == (settlement.delivery_id, settlement.lease_token)
    assert (DeliveryStatus.DELIVERED, START + SECOND / 4) == (settlement.status, settlement.at)
    assert (None, None, None) == (settlement.reason, settlement.due_at, settlement.held_until)


async def test_a_failed_attempt_leaves_it_pending():
    """The next attempt is due the delay after the end of this one."""
    settlement = await settled(answer(500))

    assert DeliveryStatus.PENDING is settlement.status
    assert START + SECOND / 4 + 5 * SECOND == settlement.due_at
    assert (None, None) == (settlement.reason, settlement.held_until)


async def test_failures_count_and_attempts_do_not():
    """An attempt that was lost on our side does not use up the schedule."""
    settlement = await settled(answer(500), attempt_count=9, failure_count=1)

    assert START + SECOND / 4 + 300 * SECOND == settlement.due_at
    assert 10 == settlement.attempt.number


async def test_retry_after_holds_the_origin():
    """Delivery and origin are held from the end of the attempt."""
    settlement = await settled(answer(503, retry_after="60"))

    assert START + SECOND / 4 + 60 * SECOND == settlement.due_at == settlement.held_until
    assert "https://receiver.example:443" == settlement.origin


@pytest.mark.parametrize(
    ("reason", "given", "failure_count"),
    [
        (DeadReason.GONE, answer(410), 0),
        (DeadReason.BLOCKED, NoAnswer(NoAnswerKind.BLOCKED, ""), 0),
        (DeadReason.EXHAUSTED, answer(500), 2),
        (DeadReason.EXHAUSTED, NoAnswer(NoAnswerKind.TIMEOUT, ""), 2),
    ],
)
async def test_every_end_without_delivery_has_its_reason(reason, given, failure_count):
    """A dead delivery says why, and nothing is due any more."""
    settlement = await settled(given, failure_count=failure_count)

    assert (DeliveryStatus.DEAD, reason) == (settlement.status, settlement.reason)
    assert (None, None) == (settlement.due_at, settlement.held_until)


async def test_the_last_failure_still_holds_its_origin():
    """Other deliveries of the origin wait as it asked, although this one is dead."""
    settlement = await settled(answer(503, retry_after="60"), failure_count=2)

    assert DeadReason.EXHAUSTED is settlement.reason
    assert START + SECOND / 4 + 60 * SECOND == settlement.held_until


async def test_a_lenient_contract_delivers_and_notes():
    """Any 2xx settles, and the mismatch is kept on the attempt."""
    given = answer(200, b"<html>")
    (attempt,), _ = await performed(given, rules=replace(RULES, is_strict=False))

    settlement = settlement_of(attempt)
    assert DeliveryStatus.DELIVERED is settlement.status
    assert settlement.attempt.detail.startswith("accepted although")
    assert "<html>" == settlement.attempt.response_body


# The log line


GIVEN = [
    answer(),
    answer(500, b"s3cret"),
    answer(429, retry_after="60"),
    answer(410),
    *(NoAnswer(kind, "no connection to the receiver could be made") for kind in NoAnswerKind),
]


@pytest.mark.parametrize("given", GIVEN)
async def test_one_flat_record_tells_all(given):
    """Every attempt is logged with the same fields, none of them nested."""
    (attempt,), _ = await performed(given)

    fields = log_fields(attempt.delivery, settlement_of(attempt))
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
async def test_the_log_gives_nothing_away(given):
    """Path and query of the URL, the bodies and the secret are in no log."""
    (attempt,), _ = await performed(given)

    line = repr(log_fields(attempt.delivery, settlement_of(attempt)))
    assert "s3cret" not in line
    assert "Invoice paid" not in line
    assert DEV_SECRET not in line
