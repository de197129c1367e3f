"""The values that stand for a delivery, an attempt, and the decision that follows from it."""

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime, timedelta
from typing import ClassVar

from service.domain.outcomes import AttemptOutcome
from service.domain.states import Cause, DeadReason, DeliveryStatus
from service.values import value


@value(kw_only=True)
class Delivery:
    """
    The durable duty to deliver one event to one receiver, as the holder of its lease sees it.

    *body* holds the exact bytes of every attempt. *sequence* numbers the events of an invoice
    from 1. *receiver* is made by `receiver_of`. *is_asked* says that the API user asked for the
    next attempt by hand. *leased_until* is None where no lease is held.
    """

    id: str
    account_id: str
    invoice_key: str
    invoice_id: str
    sequence: int
    collector: str
    callback: str
    url: str
    origin: str
    receiver: str
    body: bytes
    attempt_count: int = 0
    failure_count: int = 0
    cause: Cause = Cause.EVENT
    is_asked: bool = False
    accepted_at: datetime
    created_at: datetime
    leased_until: datetime | None
    lease_token: int
    request_id: str
    traceparent: str | None


def receiver_of(account_id: str, base: str) -> str:
    """
    The receiver of an account whose callback URL is *base*, as one text.

    The receivers of one account have the same beginning, so that they stand together in an index.
    """
    return f"{account_id} {base}"


def account_of(receiver: str) -> str:
    """The account of a *receiver*."""
    return receiver.partition(" ")[0]


def base_of(receiver: str) -> str:
    """The callback URL of a *receiver*, as its account gave it."""
    return receiver.partition(" ")[2]


@value(kw_only=True)
class ReceiverState:
    """
    What all processes have to know about a receiver.

    *answered_at* is when it answered last, None if it fails; *failing_since* the other way round.
    It gets no attempts until *cooldown_until*, after a failed probe, and until *held_until*, as it
    asked with Retry-After.
    """

    receiver: str
    origin: str
    answered_at: datetime | None
    failing_since: datetime | None = None
    cooldown_until: datetime | None = None
    held_until: datetime | None = None


@value()
class OriginState:
    """No connection to *origin* could be made: it gets no attempts until *cooldown_until*."""

    origin: str
    cooldown_until: datetime


@value()
class Delivered:
    """The receiver has the event."""

    status: ClassVar = DeliveryStatus.DELIVERED


@value()
class Retry:
    """The next attempt is due after *delay*."""

    status: ClassVar = DeliveryStatus.PENDING
    delay: timedelta


@value()
class Dead:
    """No more automatic attempts."""

    status: ClassVar = DeliveryStatus.DEAD
    reason: DeadReason


Decision = Delivered | Retry | Dead
"""What follows from an attempt."""

_ANSWERED = frozenset(
    {AttemptOutcome.DELIVERED, AttemptOutcome.REFUSED, AttemptOutcome.INVALID_ANSWER}
)


Phases = tuple[int | None, int | None, int | None, int | None, int]
"""
How long each part of an attempt took, in tenths of a millisecond.

To look up the name, to connect, to agree on TLS, to send the request, and from then on to the end.
None is a part that there was not: a connection that was kept has no first three.
"""


@value()
class Transmission:
    """
    What was sent in one attempt and what came back, for the developer of the receiver.

    *address* is the one that was connected to, None without a connection. *answer_head* has the
    first headers of the answer, one on each line. *rule* has the statuses of the rule that the
    answer was read by.
    """

    method: str
    headers: Mapping[str, str]
    address: str | None = None
    phases: Phases | None = None
    answer_head: str | None = None
    rule: str | None = None


@value(kw_only=True)
class Attempt:
    """
    One HTTP request made for a delivery, its outcome, and the decision that follows.

    *detail* says what was wrong, for the developer of the receiver. *response_body* holds the
    beginning of the body of the answer, as text. *is_connected* says whether there was a connection
    to the origin. *receiver_state* and *origin_state* are what has to be stored with it.
    """

    delivery: Delivery
    number: int
    """Counted from 1 for each delivery."""
    started_at: datetime
    ended_at: datetime
    duration_ms: int
    """Elapsed time: the difference of the two instants, unless the clock was set in between."""
    status_code: int | None = None
    response_body: str | None = None
    outcome: AttemptOutcome
    detail: str | None = None
    decision: Decision
    held_until: datetime | None = None
    """Until when the receiver asked not to be called, with Retry-After."""
    is_connected: bool = True
    receiver_state: ReceiverState | None = None
    origin_state: OriginState | None = None
    transmission: Transmission | None = field(default=None, hash=False)
    is_denied: bool = False
    """Whether the policy denied the addresses of the name; accounts are told `unreachable`."""

    @property
    def outcome_for_operator(self) -> AttemptOutcome:
        """The outcome as log, metrics and traces have it."""
        return AttemptOutcome.BLOCKED if self.is_denied else self.outcome

    @property
    def is_receiver_available(self) -> bool:
        """
        Whether the receiver can take callbacks, even if it did not take this one.

        A receiver that fails (5xx) or is overloaded (429) cannot; one that refuses can. A blocked
        or lost attempt counts as true, because it shows nothing about the receiver.
        """
        if self.outcome in _ANSWERED:
            code = self.status_code or 0
            return code < 500 and code != 429
        return self.outcome in {AttemptOutcome.BLOCKED, AttemptOutcome.LOST}
