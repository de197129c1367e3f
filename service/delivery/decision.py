"""
What an answer means: pure rules, from what came back to what happens to the delivery.

First the answer is classified, against what the callback declares; then the class and the
number of failures so far decide whether the delivery is done, comes again, or is dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from service.callbacks.declaration import Callback, InvalidAnswer
from service.delivery.backoff import delay_after, retry_after
from service.delivery.failures import NoAnswer, NoAnswerKind
from service.delivery.sender import Answer
from service.domain.outcomes import AttemptOutcome
from service.domain.states import DeadReason
from service.values import value

GONE = 410


@value()
class Verified:
    """An answer, classified; *detail* says to the receiver's developer what was wrong with it."""

    outcome: AttemptOutcome
    detail: str | None = None


@value()
class Delivered:
    """The receiver has the event."""


@value()
class Retry:
    """Another attempt is due after *delay*; *hold* keeps the whole origin waiting that long."""

    delay: timedelta
    hold: timedelta | None = None


@value()
class Dead:
    """No more automatic attempts."""

    reason: DeadReason
    hold: timedelta | None = None


Outcome = Delivered | Retry | Dead

_KINDS = {
    NoAnswerKind.UNREACHABLE: AttemptOutcome.UNREACHABLE,
    NoAnswerKind.TIMEOUT: AttemptOutcome.TIMEOUT,
    NoAnswerKind.MALFORMED: AttemptOutcome.MALFORMED,
    NoAnswerKind.BLOCKED: AttemptOutcome.BLOCKED,
}


def classify(answer: Answer | NoAnswer, callback: Callback, *, is_strict: bool) -> Verified:
    """
    Say what *answer* is, measured by what *callback* declares.

    A 2xx is not enough: a parked domain and a login page answer 200 as well. Unless
    *is_strict*, a 2xx with another body counts, and the mismatch is only noted.
    """
    if isinstance(answer, NoAnswer):
        return Verified(_KINDS[answer.kind], answer.detail)
    if not 200 <= answer.status_code <= 299:
        return Verified(AttemptOutcome.REFUSED, f"the receiver answered {answer.status_code}")
    try:
        _read(answer, callback)
    except InvalidAnswer as mismatch:
        if is_strict:
            return Verified(AttemptOutcome.INVALID_ANSWER, str(mismatch))
        return Verified(AttemptOutcome.DELIVERED, f"accepted although {mismatch}")
    return Verified(AttemptOutcome.DELIVERED)


def decide(
    verified: Verified,
    answer: Answer | NoAnswer,
    *,
    failure_count: int,
    schedule: Sequence[timedelta],
    now: datetime,
    chance: float,
) -> Outcome:
    """
    Say what becomes of the delivery; *failure_count* counts this failure too.

    *chance* is a random number from 0 to 1, for the jitter.
    """
    if verified.outcome is AttemptOutcome.DELIVERED:
        return Delivered()
    if verified.outcome is AttemptOutcome.BLOCKED:
        return Dead(DeadReason.BLOCKED)
    if isinstance(answer, Answer) and answer.status_code == GONE:
        return Dead(DeadReason.GONE)
    hold = retry_after(answer.retry_after, now) if isinstance(answer, Answer) else None
    if failure_count > len(schedule):
        return Dead(DeadReason.EXHAUSTED, hold)
    delay = delay_after(failure_count, schedule, chance)
    return Retry(max(delay, hold or delay), hold)


def _read(answer: Answer, callback: Callback) -> None:
    if answer.is_truncated:
        raise InvalidAnswer("the answer is far larger than what is expected")
    callback.read_answer(answer.body)
