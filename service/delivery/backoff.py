"""When to try again: by the operator's schedule, spread by chance, and never too early."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

JITTER = 0.2
"""Delays vary by this share, so that deliveries which failed together do not return together."""

RETRY_AFTER_LIMIT = timedelta(hours=24)
"""The longest that a receiver can hold its deliveries back with one answer."""


def delay_after(failure_count: int, schedule: Sequence[timedelta], chance: float) -> timedelta:
    """
    The delay after the *failure_count*-th failure, which *schedule* must have.

    *chance* is a random number from 0 to 1: the ends of the jitter.
    """
    return schedule[failure_count - 1] * (1 + JITTER * (2 * chance - 1))


def retry_after(header: str | None, now: datetime) -> timedelta | None:
    """
    How long a `Retry-After` *header* asks us to stay away, at most `RETRY_AFTER_LIMIT`.

    Seconds or a date (RFC 9110, section 10.2.3). What is neither, or is not in the future,
    asks for nothing.
    """
    if not header:
        return None
    wait = _seconds(header.strip()) or _until(header, now)
    return min(wait, RETRY_AFTER_LIMIT) if wait and wait > timedelta(0) else None


def _seconds(text: str) -> timedelta | None:
    if not (text.isascii() and text.isdigit()):
        return None
    # Any number of more digits is over the limit, and could be too large for a timedelta.
    return timedelta(seconds=int(text)) if len(text) <= 9 else RETRY_AFTER_LIMIT


def _until(text: str, now: datetime) -> timedelta | None:
    try:
        instant = parsedate_to_datetime(text)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)) - now
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
