"""The outcomes of an attempt."""

from enum import StrEnum
from typing import Self


class AttemptOutcome(StrEnum):
    """The classified result of one HTTP request."""

    meaning: str
    """The outcome in one sentence, for the developer of the receiver."""

    def __new__(cls, name: str, meaning: str) -> Self:
        """Make the outcome *name*."""
        outcome = str.__new__(cls, name)
        outcome._value_ = name
        outcome.meaning = meaning
        return outcome

    DELIVERED = "delivered", "The answer acknowledges the event."
    REFUSED = "refused", "The status was not 2xx."
    INVALID_ANSWER = "invalid_answer", "2xx, but the body is not what the callback declares."
    UNREACHABLE = "unreachable", "There was no connection, or it was lost before the answer."
    TIMEOUT = "timeout", "There was no complete answer in time."
    MALFORMED = "malformed", "The answer was not valid HTTP."
    LOST = "lost", "The process ended before it could record the answer."
    BLOCKED = "blocked", "The address is denied by policy."
