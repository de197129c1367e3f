"""
What the answers of a receiver mean for a delivery: an ordered table of rules for its statuses.

The document shows the rules, and the delivery acts on them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from service.domain.outcomes import AttemptOutcome
from service.errors import DeclarationError
from service.values import value

FINAL_STATUSES = range(200, 600)
"""The statuses that end an exchange (RFC 9110, section 15)."""


class Meaning(StrEnum):
    """What an answer means for its delivery."""

    DELIVERED = "delivered"
    """Delivered, if the body loads through the response schema; otherwise as `HOLD`."""
    RETRY = "retry"
    """The next attempt follows after the backoff."""
    HOLD = "hold"
    """As `RETRY`, but not before the time that a `Retry-After` of the answer asks for."""
    DEAD = "dead"
    """No more attempts; the reason is `gone`."""


@dataclass(frozen=True, slots=True)
class AnswerRule:
    """
    What the answers of some statuses mean.

    *statuses* is one status (`410`) or a class (`4XX`), as OpenAPI writes them.

    Raises:
        DeclarationError: *statuses* is neither, or not from 200 to 599.
    """

    statuses: str
    meaning: Meaning
    description: str

    def __post_init__(self) -> None:
        if not re.fullmatch("[2-5](?:[0-9]{2}|XX)", self.statuses, re.ASCII):
            raise DeclarationError(
                f"{self.statuses} is neither a status from 200 to 599 nor a class such as 4XX."
            )

    @property
    def is_class(self) -> bool:
        """Whether it is about a class of statuses, and not about a single one."""
        return self.statuses.endswith("XX")

    @property
    def codes(self) -> range:
        """The status codes that match, whatever other rules match them too."""
        first = int(self.statuses.replace("XX", "00"))
        return range(first, first + (100 if self.is_class else 1))


STANDARD_ANSWERS = (
    AnswerRule("2XX", Meaning.DELIVERED, "Answer as soon as you have stored the event."),
    AnswerRule("3XX", Meaning.HOLD, "Redirects are not followed."),
    AnswerRule("410", Meaning.DEAD, "Other events still arrive."),
    AnswerRule("4XX", Meaning.HOLD, "You refuse the request."),
    AnswerRule("5XX", Meaning.HOLD, "You cannot take the event now."),
)
"""Any 2XX acknowledges, 410 ends the delivery; after any other status, attempts follow."""


def rules_by_status(rules: Iterable[AnswerRule]) -> dict[int, AnswerRule]:
    """
    The rule of each status from 200 to 599: the first of *rules* that matches it.

    Raises:
        DeclarationError: a rule never applies, a status has no rule, or none means delivered.
    """
    table: dict[int, AnswerRule] = {}
    sentences = []
    for rule in rules:
        matched = [code for code in rule.codes if code not in table]
        table.update(dict.fromkeys(matched, rule))
        if not matched:
            sentences.append(f"The rule of {rule.statuses} never applies: rules before it match.")
    if missing := [code for code in FINAL_STATUSES if code not in table]:
        sentences.append(f"The status {missing[0]} matches no rule.")
    if not any(rule.meaning is Meaning.DELIVERED for rule in table.values()):
        sentences.append("No answer means delivered.")
    if sentences:
        raise DeclarationError(" ".join(sentences))
    return table


@value()
class Classification:
    """
    The result of comparing one answer with the declaration.

    *meaning* is what follows: `DELIVERED` only if the body counts as well as the status. *detail*
    says what was wrong, for the developer of the receiver.
    """

    meaning: Meaning
    outcome: AttemptOutcome
    detail: str | None = None
