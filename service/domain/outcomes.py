"""The outcomes of an attempt."""

from enum import StrEnum


class AttemptOutcome(StrEnum):
    """What came of one HTTP request."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    INVALID_ANSWER = "invalid_answer"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    MALFORMED = "malformed"
    LOST = "lost"
    BLOCKED = "blocked"
