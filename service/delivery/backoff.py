"""When the next attempt is due: by the schedule, with jitter, and not before Retry-After."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

JITTER = 0.2
"""Delays vary by this share, so that deliveries that failed together are not due together."""

RETRY_AFTER_LIMIT = timedelta(hours=24)
"""The longest hold that one answer can ask for."""


def delay_after(failure_count: int, schedule: Sequence[timedelta], chance: float) -> timedelta:
    """
    The delay after the *failure_count*-th failure, which *schedule* must have.

    *chance* is a random number from 0 to 1, which stand for the ends of the jitter.
    """
    return schedule[failure_count - 1] * (1 + JITTER * (2 * chance - 1))


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
