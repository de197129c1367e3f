"""
Makes one attempt for a leased delivery: sign, send, classify, decide; then settles it.

The result is one value, `Attempt`. Its decision is `Delivered`, `Retry` or `Dead` (see
`service.domain.delivery`), and determines the next status of the delivery.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

from service.callbacks.answers import Classification, Meaning
from service.callbacks.declaration import Callback
from service.clock import Clock
from service.delivery.decision import decide, retry_after
from service.delivery.failures import NoAnswer
from service.delivery.sender import Answer, OutgoingRequest
from service.delivery.signing import Signer
from service.domain.delivery import (
    Attempt,
    Dead,
    Decision,
    Delivered,
    Delivery,
    Retry,
    Transmission,
)
from service.domain.listening import is_for_listener
from service.domain.outcomes import POINTS_TO, AttemptOutcome
from service.domain.states import Cause, DeadReason
from service.errors import ListenerAway, SendingPrevented, StorageUnavailable
from service.loops import Drain, persist
from service.storage.store import Store
from service.telemetry.logs import log_event
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import TRACEPARENT, Span, SpanKind, Tracing
from service.values import value

log = logging.getLogger("invoices.delivery")

STORED_BYTES = 4096
"""How much of the body of an answer is stored, for the developer of the receiver."""


class Sends(Protocol):
    """Performs one request; see `service.delivery.sender.Sender`."""

    async def send(self, request: OutgoingRequest) -> Answer | NoAnswer:
        """Send *request* once; always returns, within the deadline."""
        ...


class Listens(Protocol):
    """The listeners that are connected here; see `service.delivery.listening.Listeners`."""

    def permits(self, receiver: str, origin: str) -> bool:
        """Whether deliveries for *receiver* may be leased here."""
        ...

    async def send(self, delivery: Delivery, request: OutgoingRequest) -> Answer | NoAnswer:
        """Have the listener of *delivery* send *request* once; ListenerAway without a listener."""
        ...

    def tell(self, attempt: Attempt) -> None:
        """Tell the listener that *attempt* is recorded, and what follows from it."""
        ...


@value(kw_only=True)
class Rules:
    """What is the same for every attempt: settings and the source of random numbers."""

    retry_schedule: tuple[timedelta, ...]
    is_strict: bool
    user_agent: str
    chance: Callable[[], float]


@dataclass(slots=True, kw_only=True)
class Attempts:
    """Makes attempts for deliveries of the declared *callbacks*, and settles them."""

    store: Store
    sender: Sends
    listeners: Listens
    signer_of: Callable[[str], Awaitable[Signer]]
    """The signer of an account id."""
    callbacks: Mapping[str, Callback]
    rules: Rules
    clock: Clock
    metrics: Metrics
    tracing: Tracing
    observe: Callable[[Attempt], None] = lambda _attempt: None
    """Called with each attempt that was recorded."""
    _drain: Drain = field(default_factory=Drain)

    def drain(self) -> None:
        """Repeat the writes that wait for the database now; after that, repeat no failed write."""
        self._drain.begin()

    async def make(self, delivery: Delivery) -> Attempt:
        """
        Attempt *delivery* once: sign, send, classify, decide. Nothing is recorded yet.

        An exception is a failure on our side. It is not recorded as an attempt, because it shows
        nothing about the receiver.
        """
        callback = self.callbacks[delivery.callback]
        name = f"{callback.method.upper()} {callback.name}" if self.tracing.is_on else ""
        self.metrics.attempt_began()
        try:
            with self.tracing.begin(SpanKind.CLIENT, name, delivery.traceparent) as span:
                started_at, started = self.clock.now(), self.clock.monotonic()
                request = await self._sign(delivery, callback, started_at, span.traceparent)
                if is_for_listener(delivery.origin):
                    answer = await self.listeners.send(delivery, request)
                else:
                    answer = await self.sender.send(request)
                ended_at, seconds = self.clock.now(), self.clock.monotonic() - started
                classified = self._classify(callback, answer)
                may_hold = classified.meaning is Meaning.HOLD
                hold = retry_after(answer.retry_after, ended_at) if may_hold else None
                attempt = Attempt(
                    delivery=delivery,
                    number=delivery.attempt_count + 1,
                    started_at=started_at,
                    ended_at=ended_at,
                    duration_ms=round(seconds * 1000),
                    status_code=answer.status_code,
                    response_body=None if answer.body is None else _stored_text(answer.body),
                    outcome=classified.outcome,
                    detail=classified.detail,
                    decision=self._decide(delivery, classified, hold),
                    held_until=ended_at + hold if hold else None,
                    is_connected=not isinstance(answer, NoAnswer) or answer.is_connected,
                    transmission=_transmission(request, answer, callback),
                    is_denied=answer.is_denied,
                )
                if span.is_recorded:
                    _trace(span, attempt, request.method)
            self.metrics.attempt_took(seconds)
            return attempt
        except SendingPrevented as error:
            self.metrics.attempt_prevented(error.cause)
            raise
        finally:
            self.metrics.attempt_ended()

    async def settle(self, attempt: Attempt) -> None:
        """Record *attempt* and give up its lease; if that fails, the lease runs out."""
        try:
            write, until = partial(self.store.settle, attempt), attempt.delivery.leased_until
            is_settled = await persist(write, until, self.clock, self._drain)
            if is_settled:
                self._count(attempt)
                if is_for_listener(attempt.delivery.origin):
                    self.listeners.tell(attempt)
            else:
                self.metrics.attempt_outlived_lease()
            name = "attempt.settled" if is_settled else "attempt.outlived_lease"
            log_event(log, name, log_fields(attempt))
        except Exception as error:  # noqa: BLE001 -- one failed write must not stop the others
            log_failure("attempt.failed", attempt.delivery, error)

    async def persist(
        self, write: Callable[[], Awaitable[bool]], leased_until: datetime | None
    ) -> bool:
        """
        Call *write*, which gives up a lease; repeat it while the database is unavailable.

        Raises:
            StorageUnavailable: if it was unavailable until the lease ran out, or until the drain.
        """
        return await persist(write, leased_until, self.clock, self._drain)

    async def _sign(
        self, delivery: Delivery, callback: Callback, at: datetime, traceparent: str | None
    ) -> OutgoingRequest:
        """The signed request of one attempt, with the headers that the callback declares."""
        signer = await self.signer_of(delivery.account_id)
        values = {
            **signer.headers(delivery.id, at, delivery.body),
            "webhook-attempt": str(delivery.attempt_count + 1),
            "Content-Type": "application/json",
            "User-Agent": self.rules.user_agent,
            "Invoices-Collector": delivery.collector,
        }
        if traceparent is not None:
            values[TRACEPARENT] = traceparent
        headers = callback.select_headers(values)
        return OutgoingRequest(delivery.url, callback.method.upper(), headers, delivery.body)

    def _classify(self, callback: Callback, answer: Answer | NoAnswer) -> Classification:
        if isinstance(answer, NoAnswer):
            return Classification(Meaning.RETRY, answer.outcome, answer.detail)
        return callback.classify(
            answer.status_code,
            answer.body,
            is_truncated=answer.is_truncated,
            is_strict=self.rules.is_strict,
            location=answer.location,
            content_encoding=answer.content_encoding,
        )

    def _decide(
        self, delivery: Delivery, classified: Classification, hold: timedelta | None
    ) -> Decision:
        if classified.outcome is AttemptOutcome.BLOCKED:
            return Dead(DeadReason.BLOCKED)
        return decide(
            classified.meaning,
            hold=hold,
            failure_count=delivery.failure_count + 1,
            schedule=self.rules.retry_schedule,
            chance=self.rules.chance(),
        )

    def _count(self, attempt: Attempt) -> None:
        """Count a recorded attempt, and its delivery if the attempt has ended that."""
        self.metrics.attempt_recorded(attempt.outcome_for_operator)
        self.observe(attempt)
        delivery, decision = attempt.delivery, attempt.decision
        if attempt.outcome is AttemptOutcome.REFUSED:
            self.metrics.accounts.attempt_refused(delivery.account_id)
        match decision:
            case Retry():
                return
            case Dead(reason):
                self.metrics.settled(decision.status, reason)
            case Delivered():
                self.metrics.settled(decision.status, None)
                # A redelivery does not show how long deliveries take. It sets the failure count to
                # 0 and keeps the attempt count, so the two differ after it. They also differ after
                # a lost attempt, which is no failure.
                has_only_failures = delivery.attempt_count == delivery.failure_count
                if has_only_failures and delivery.cause is not Cause.REDELIVERY:
                    age = attempt.ended_at - delivery.accepted_at
                    self.metrics.delivered_after(age.total_seconds())


def log_failure(event: str, delivery: Delivery, error: Exception) -> None:
    """Log a failure on our side: a defect with its traceback, as *event*."""
    if isinstance(error, StorageUnavailable):
        log.debug("storage.unavailable", extra={"fields": {"detail": str(error)}})
    elif isinstance(error, ListenerAway):
        log.debug("listener.away", extra={"fields": {"delivery_id": delivery.id}})
    elif isinstance(error, SendingPrevented):
        # Where it was raised, a warning is logged once a minute.
        fields = {"delivery_id": delivery.id, "cause": error.cause, "detail": str(error)}
        log.debug("attempt.prevented", extra={"fields": fields})
    else:
        log.error(event, exc_info=error, extra={"fields": {"delivery_id": delivery.id}})


def log_fields(attempt: Attempt) -> dict[str, Any]:
    """
    The fields of *attempt* and its delivery, without nesting, for one line in the log.

    The URL is left out, because its path and query may hold a secret of the API user. So is the
    URL that a redirect points to, which often has the same path and query.
    """
    delivery, decision = attempt.delivery, attempt.decision
    return {
        "request_id": delivery.request_id,
        "delivery_id": delivery.id,
        "invoice_id": delivery.invoice_id,
        "account_id": delivery.account_id,
        "callback": delivery.callback,
        "origin": delivery.origin,
        "number": attempt.number,
        "cause": delivery.cause,
        "outcome": attempt.outcome_for_operator,
        "detail": attempt.detail and attempt.detail.partition(POINTS_TO)[0],
        "status_code": attempt.status_code,
        "duration_ms": attempt.duration_ms,
        "status": decision.status,
        "reason": decision.reason if isinstance(decision, Dead) else None,
        "due_at": attempt.ended_at + decision.delay if isinstance(decision, Retry) else None,
        "held_until": attempt.held_until,
        "age_ms": round((attempt.ended_at - delivery.created_at).total_seconds() * 1000),
    }


def _transmission(
    request: OutgoingRequest, answer: Answer | NoAnswer, callback: Callback
) -> Transmission:
    """What is told of one request and of what came back."""
    rule = None if isinstance(answer, NoAnswer) else callback.rule_for(answer.status_code)
    return Transmission(
        request.method,
        request.headers,
        answer.address,
        answer.phases,
        answer.head,
        rule.statuses if rule else None,
    )


def _trace(span: Span, attempt: Attempt, method: str) -> None:
    """Set the attributes of *span*, under names that OpenTelemetry defines, if there are any."""
    delivery, origin = attempt.delivery, urlsplit(attempt.delivery.origin)
    span.set_attributes(
        {
            "http.request.method": method,
            "http.response.status_code": attempt.status_code,
            "server.address": origin.hostname,
            "server.port": origin.port,
            "invoices.request_id": delivery.request_id,
            "invoices.account_id": delivery.account_id,
            "invoices.invoice_id": delivery.invoice_id,
            "invoices.delivery_id": delivery.id,
            "invoices.attempt.number": attempt.number,
            "invoices.attempt.cause": delivery.cause.value,
            "invoices.attempt.outcome": attempt.outcome_for_operator.value,
        }
    )
    if attempt.outcome is not AttemptOutcome.DELIVERED:
        span.fail(attempt.outcome_for_operator.value)


def _stored_text(body: bytes) -> str:
    """
    The first bytes of *body* as text that every database stores: no NUL, no cut characters.

    Other control characters are replaced too: in JSON they take six bytes, and terminals obey them.
    """
    text = body[:STORED_BYTES].decode("utf-8", "replace")
    return text if text.isprintable() else _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""All but tabs and line breaks."""
