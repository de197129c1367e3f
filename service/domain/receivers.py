"""What an account is told about a receiver: its id, and its state by what is stored."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

from service.domain.attempt_counts import percentile_ms, success_rate
from service.domain.delivery import base_of
from service.values import value

ID_PREFIX = "rcv_"
ID_DIGITS = 32


class ReceiverStatus(StrEnum):
    """Whether a receiver is called, and how its last attempts ended."""

    HEALTHY = "healthy"
    FAILING = "failing"
    HELD = "held"
    PAUSED = "paused"
    UNKNOWN = "unknown"


REASONS = {
    ReceiverStatus.HELD: "Your receiver asked not to be called until then, with Retry-After.",
    ReceiverStatus.PAUSED: "It was paused by hand, and is called again once it is resumed.",
}
"""Why a receiver is in a state that does not follow from the answers to its last attempts."""


def id_of(receiver: str) -> str:
    """The id by which the API names *receiver*: the same one always and in every process."""
    return ID_PREFIX + sha256(receiver.encode()).hexdigest()[:ID_DIGITS]


@value(kw_only=True)
class KnownReceiver:
    """
    What is stored about a receiver; without an attempt yet, all its instants are None.

    *resting_until* is when the cooldown of the receiver or of its origin ends. *oldest_due_at* is
    when the first of its pending deliveries is or was due. *counts* are those of 24 hours.
    """

    receiver: str
    origin: str
    answered_at: datetime | None = None
    answering_since: datetime | None = None
    failing_since: datetime | None = None
    failed_at: datetime | None = None
    reason: str | None = None
    resting_until: datetime | None = None
    held_until: datetime | None = None
    paused_at: datetime | None = None
    oldest_due_at: datetime | None = None
    counts: Sequence[int] = ()

    @property
    def url(self) -> str:
        """The callback URL, as the account gave it."""
        return base_of(self.receiver)

    def shown_at(self, now: datetime) -> dict[str, object]:
        """The receiver as its account is told about it at *now*."""
        status, since, until = self._status_at(now)
        return {
            "id": id_of(self.receiver),
            "url": self.url,
            "origin": self.origin,
            "state": status,
            "since": since,
            "reason": self.reason if status is ReceiverStatus.FAILING else REASONS.get(status),
            "until": until,
            "oldest_due_at": self.oldest_due_at,
            "success_rate_24h": success_rate(self.counts) if self.counts else None,
            "p50_ms": percentile_ms(self.counts, 0.5) if self.counts else None,
            "p95_ms": percentile_ms(self.counts, 0.95) if self.counts else None,
        }

    def _status_at(self, now: datetime) -> tuple[ReceiverStatus, datetime | None, datetime | None]:
        """The state at *now*, since when, and until when if that is known."""
        if self.paused_at:
            return ReceiverStatus.PAUSED, self.paused_at, None
        if self.held_until and self.held_until > now:
            # The answer that asked for the hold is the last one: none has followed.
            asked_at = max((at for at in (self.answered_at, self.failed_at) if at), default=None)
            return ReceiverStatus.HELD, asked_at, self.held_until
        if self.failing_since:
            rests = self.resting_until is not None and self.resting_until > now
            return ReceiverStatus.FAILING, self.failing_since, self.resting_until if rests else None
        if self.answered_at:
            return ReceiverStatus.HEALTHY, self.answering_since or self.answered_at, None
        return ReceiverStatus.UNKNOWN, None, None
