"""What follows from an attempt: pure rules, from what an answer means to what happens next."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from service.callbacks.answers import Meaning
from service.delivery.backoff import delay_after
from service.domain.delivery import Dead, Decision, Delivered, Retry
from service.domain.states import DeadReason


def decide(
    meaning: Meaning,
    *,
    hold: timedelta | None,
    failure_count: int,
    schedule: Sequence[timedelta],
    chance: float,
) -> Decision:
    """
    Decide about a delivery after an answer with this *meaning*.

    *hold* is how long the receiver asked to be left alone, *failure_count* includes this failure,
    and *chance* is a random number from 0 to 1, for the jitter.
    """
    match meaning:
        case Meaning.DELIVERED:
            return Delivered()
        case Meaning.DEAD:
            return Dead(DeadReason.GONE)
        case Meaning.RETRY:
            hold = None
    if failure_count > len(schedule):
        return Dead(DeadReason.EXHAUSTED, hold)
    delay = delay_after(failure_count, schedule, chance)
    return Retry(max(delay, hold or delay), hold)
