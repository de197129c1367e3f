"""
One attempt: signed, sent, classified, decided, and then told as a settlement and as a log line.

Each step is a small function of what is known so far, and the finished attempt is a value. The
ends are a closed set (`service.delivery.decision`), and each means one state of the row.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import urlsplit

from service.callbacks.declaration import Callback
from service.clock import Clock
from service.delivery.decision import Dead, Delivered, Outcome, Retry, Verified, classify, decide
from service.delivery.failures import NoAnswer, NoAnswerKind
from service.delivery.sender import Answer, OutgoingRequest
from service.delivery.signing import Signer
from service.domain.outcomes import AttemptOutcome
from service.domain.states import DeliveryStatus
from service.storage.deliveries import LeasedDelivery
from service.storage.settlements import AttemptRecord, Settlement
from service.telemetry.tracing import TRACEPARENT, Tracing
from service.values import value

KEPT_BYTES = 4096
"""How much of an answer is kept for the receiver's developer to see."""


class Sends(Protocol):
    """What performs one request; see `service.delivery.sender.Sender`."""

    async def send(self, request: OutgoingRequest) -> Answer | NoAnswer:
        """Send *request* once; always comes back with a value, within the deadline."""
        ...


@value(kw_only=True)
class Rules:
    """What holds for every attempt: the operator's decisions, and where chance comes from."""

    retry_schedule: tuple[timedelta, ...]
    is_strict: bool
    user_agent: str
    chance: Callable[[], float]


@value(kw_only=True)
class Attempt:
    """One HTTP request that was made for one leased delivery, and what came of it."""

    delivery: LeasedDelivery
    started_at: datetime
    ended_at: datetime
    duration: timedelta
    """As it passed: the difference of the two instants, unless somebody set the clock between."""
    answer: Answer | NoAnswer
    verified: Verified
    outcome: Outcome

    @property
    def is_answered(self) -> bool:
        """
        Whether there is somebody at the other end who can take callbacks, if not this one.

        A receiver that fails (5xx) or has too much to do (429) cannot; one that refuses can.
        """
        if isinstance(self.answer, NoAnswer):
            return self.answer.kind is NoAnswerKind.BLOCKED
        code = self.answer.status_code
        return code < HTTPStatus.INTERNAL_SERVER_ERROR and code != HTTPStatus.TOO_MANY_REQUESTS

    @property
    def held_until(self) -> datetime | None:
        """Until when the receiver asked for the whole origin to wait, if it did."""
        hold = None if isinstance(self.outcome, Delivered) else self.outcome.hold
        return None if hold is None else self.ended_at + hold


class Performer:
    """Performs attempts for the declared *callbacks*, signed for their account."""

    def __init__(
        self,
        sender: Sends,
        signer_of: Callable[[str], Awaitable[Signer]],
        callbacks: Mapping[str, Callback],
        rules: Rules,
        clock: Clock,
        tracing: Tracing,
    ) -> None:
        self._sender = sender
        self._signer_of = signer_of
        self._callbacks = callbacks
        self._rules = rules
        self._clock = clock
        self._tracing = tracing

    async def perform(self, delivery: LeasedDelivery) -> Attempt:
        """Attempt *delivery* once and say what it came to; nothing is recorded yet."""
        name = f"{self._method_of(delivery)} {delivery.callback}"
        with self._tracing.calling(name, delivery.traceparent) as span:
            attempt = await self._attempt(delivery, span.traceparent)
            if span.is_recorded:
                span.set_attributes(
                    {"http.request.method": self._method_of(delivery), **_traced(attempt)}
                )
                if attempt.verified.outcome is not AttemptOutcome.DELIVERED:
                    span.fail(attempt.verified.outcome.value)
            return attempt

    async def _attempt(self, delivery: LeasedDelivery, traceparent: str | None) -> Attempt:
        started_at, started_after = self._clock.now(), self._clock.elapsed()
        request = await self._signed(delivery, started_at, traceparent)
        answer = await self._sender.send(request)
        ended_at = self._clock.now()
        verified = self._classified(delivery, answer)
        return Attempt(
            delivery=delivery,
            started_at=started_at,
            ended_at=ended_at,
            duration=self._clock.elapsed() - started_after,
            answer=answer,
            verified=verified,
            outcome=self._decided(delivery, answer, verified, ended_at),
        )

    def failed(self, delivery: LeasedDelivery) -> Settlement:
        """
        Settle an attempt of *delivery* that could not be made, for a reason on our side.

        It is tried again by the schedule and ends with it: an attempt that can never be made
        must not be repeated for ever.
        """
        now = self._clock.now()
        verified = Verified(
            AttemptOutcome.LOST,
            "An error on our side ended this attempt; it has been logged. "
            "Your receiver may have seen it, or nothing.",
        )
        nothing = NoAnswer(NoAnswerKind.MALFORMED, "")
        return settlement_of(
            Attempt(
                delivery=delivery,
                started_at=now,
                ended_at=now,
                duration=timedelta(0),
                answer=nothing,
                verified=verified,
                outcome=self._decided(delivery, nothing, verified, now),
            )
        )

    async def _signed(
        self, delivery: LeasedDelivery, at: datetime, traceparent: str | None
    ) -> OutgoingRequest:
        """The id and the bytes are the delivery's, the timestamp is the attempt's."""
        signer = await self._signer_of(delivery.account_id)
        headers = signer.headers(delivery.id, at, delivery.body)
        headers["Content-Type"] = "application/json"
        headers["User-Agent"] = self._rules.user_agent
        headers["Invoices-Collector"] = delivery.collector
        if traceparent:
            headers[TRACEPARENT] = traceparent
        return OutgoingRequest(delivery.url, self._method_of(delivery), headers, delivery.body)

    def _method_of(self, delivery: LeasedDelivery) -> str:
        return self._callbacks[delivery.callback].method.upper()

    def _classified(self, delivery: LeasedDelivery, answer: Answer | NoAnswer) -> Verified:
        callback = self._callbacks[delivery.callback]
        return classify(answer, callback, is_strict=self._rules.is_strict)

    def _decided(
        self,
        delivery: LeasedDelivery,
        answer: Answer | NoAnswer,
        verified: Verified,
        now: datetime,
    ) -> Outcome:
        return decide(
            verified,
            answer,
            failure_count=delivery.failure_count + 1,
            schedule=self._rules.retry_schedule,
            now=now,
            chance=self._rules.chance(),
        )


def settlement_of(attempt: Attempt) -> Settlement:
    """What *attempt* means for its delivery's row."""
    delivery, outcome = attempt.delivery, attempt.outcome
    return Settlement(
        account_id=delivery.account_id,
        delivery_id=delivery.id,
        lease_token=delivery.lease_token,
        attempt=record_of(attempt),
        status=STATUSES[type(outcome)],
        at=attempt.ended_at,
        reason=outcome.reason if isinstance(outcome, Dead) else None,
        due_at=attempt.ended_at + outcome.delay if isinstance(outcome, Retry) else None,
        origin=delivery.origin,
        held_until=attempt.held_until,
    )


STATUSES: Mapping[type[Outcome], DeliveryStatus] = {
    Delivered: DeliveryStatus.DELIVERED,
    Retry: DeliveryStatus.PENDING,
    Dead: DeliveryStatus.DEAD,
}
"""The closed set of ends, and the state that each leaves its delivery in."""


def record_of(attempt: Attempt) -> AttemptRecord:
    """*attempt*, as it is kept and shown."""
    answer = attempt.answer if isinstance(attempt.answer, Answer) else None
    return AttemptRecord(
        number=attempt.delivery.attempt_count + 1,
        started_at=attempt.started_at,
        duration_ms=round(attempt.duration.total_seconds() * 1000),
        status_code=attempt.answer.status_code,
        outcome=attempt.verified.outcome,
        detail=attempt.verified.detail,
        response_body=_as_text(answer.body) if answer else None,
        cause=attempt.delivery.cause,
    )


def log_fields(delivery: LeasedDelivery, settlement: Settlement) -> dict[str, Any]:
    """
    Everything about an attempt of *delivery* in one flat record, for one wide line in the log.

    The URL is not among it: its path and query are the API user's, and may hold a secret.
    """
    record, age = settlement.attempt, settlement.at - delivery.created_at
    return {
        "request_id": delivery.request_id,
        "delivery_id": delivery.id,
        "invoice_id": delivery.invoice_id,
        "account_id": delivery.account_id,
        "callback": delivery.callback,
        "origin": delivery.origin,
        "number": record.number,
        "cause": record.cause,
        "outcome": record.outcome,
        "detail": record.detail,
        "status_code": record.status_code,
        "duration_ms": record.duration_ms,
        "status": settlement.status,
        "reason": settlement.reason,
        "due_at": settlement.due_at,
        "held_until": settlement.held_until,
        "age_ms": round(age.total_seconds() * 1000),
    }


def _traced(attempt: Attempt) -> dict[str, str | int | None]:
    """What a trace says of *attempt*, by the names of OpenTelemetry where it has one."""
    delivery, origin = attempt.delivery, urlsplit(attempt.delivery.origin)
    return {
        "http.response.status_code": attempt.answer.status_code,
        "server.address": origin.hostname,
        "server.port": origin.port,
        "invoices.request_id": delivery.request_id,
        "invoices.account_id": delivery.account_id,
        "invoices.invoice_id": delivery.invoice_id,
        "invoices.delivery_id": delivery.id,
        "invoices.attempt.number": delivery.attempt_count + 1,
        "invoices.attempt.cause": delivery.cause.value,
        "invoices.attempt.outcome": attempt.verified.outcome.value,
    }


def _as_text(body: bytes) -> str:
    """The first bytes of *body* as text that every database stores: no NUL, no half characters."""
    return body[:KEPT_BYTES].decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
