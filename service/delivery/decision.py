"""The decision about a delivery after an attempt, and the delay that a Retry-After asks for."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from service.callbacks.answers import Meaning
from service.domain.delivery import Dead, Decision, Delivered, Retry
from service.domain.states import DeadReason

JITTER = 0.2
"""Delays vary by this fraction, so that deliveries that failed together are not due together."""

RETRY_AFTER_LIMIT = timedelta(hours=24)
"""The longest hold that one answer can ask for."""


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

    *hold* is how long the receiver asked not to be called. *failure_count* includes this failure.
    *chance* is a random number: 0 gives the shortest delay of the jitter, 1 the longest.
    """
    if meaning is Meaning.DELIVERED:
        return Delivered()
    if meaning is Meaning.DEAD:
        return Dead(DeadReason.GONE)
    if failure_count > len(schedule):
        return Dead(DeadReason.EXHAUSTED)
    delay = schedule[failure_count - 1] * (1 + JITTER * (2 * chance - 1))
    return Retry(max(delay, hold or delay))


def retry_after(header: str | None, now: datetime) -> timedelta | None:
    """
    How long a `Retry-After` *header* asks us to wait, at most `RETRY_AFTER_LIMIT`.

    Seconds or a date (RFC 9110, section 10.2.3). Other values, and dates in the past, are ignored.
    """
    if not header:
        return None
    wait = _seconds(header.strip()) or _until(header, now)
    return min(wait, RETRY_AFTER_LIMIT) if wait and wait > timedelta(0) else None


def _seconds(text: str) -> timedelta | None:
    if not (text.isascii() and text.isdigit()):
        return None
    # A number of more digits is over the limit, and may be too large for a timedelta.
    return timedelta(seconds=int(text)) if len(text) <= 9 else RETRY_AFTER_LIMIT


def _until(text: str, now: datetime) -> timedelta | None:
    try:
        instant = parsedate_to_datetime(text)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)) - now
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
