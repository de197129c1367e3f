"""
The port of sending: how the mail of an invoice leaves the service.

An implementation hands over the bytes of a mail as they are. It may be called twice for the same
mail, if a process ends before the attempt is recorded: the bytes, and the Message-ID in them, are
the same each time.
"""

from typing import Protocol

from service.domain.mail import Mail
from service.domain.outcomes import MailOutcome
from service.values import value


@value()
class Sending:
    """
    The result of one attempt: its outcome, and the code and the words of the mail server.

    The words are shown to the API user; they hold nothing of our network.
    """

    outcome: MailOutcome
    code: int | None = None
    detail: str | None = None


class Transport(Protocol):
    """Hands mails over."""

    async def send(self, mail: Mail) -> Sending:
        """
        Hand *mail* over.

        Raises:
            SendingRefused: if no mail can leave until the operator changes something; that says
                nothing about this mail.
        """
        ...
