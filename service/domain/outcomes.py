"""The outcomes of attempts: to deliver an event, and to hand a mail over."""

from service.domain.words import Word

POINTS_TO = "; it points to "
"""The text before the target of a redirect in the detail of an attempt."""


class Outcome(Word):
    """The classified result of an attempt."""


class AttemptOutcome(Outcome):
    """The classified result of one HTTP request."""

    DELIVERED = "delivered", "The answer acknowledges the event."
    REFUSED = "refused", "The status was not 2xx."
    INVALID_ANSWER = "invalid_answer", "2xx, but the body is not what the callback declares."
    UNREACHABLE = "unreachable", "There was no connection, or it was lost before the answer."
    TIMEOUT = "timeout", "There was no complete answer in time."
    MALFORMED = "malformed", "The answer was not valid HTTP."
    LOST = "lost", "The process ended before it could record the answer."
    BLOCKED = "blocked", "The address is denied by policy."


class MailOutcome(Outcome):
    """The classified result of one attempt to hand a mail over."""

    ACCEPTED = "accepted", "The mail server has accepted the mail."
    DEFERRED = "deferred", "The mail server could not be reached, or asked to try again later."
    REJECTED = "rejected", "The mail server refuses mail to this address for good."
