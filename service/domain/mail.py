"""The values that stand for a mail, of an invoice or of none, and one attempt to hand it over."""

from datetime import datetime

from service.domain.outcomes import MailOutcome
from service.domain.states import MailStatus
from service.values import value

OF_NO_INVOICE = ""
"""The invoice key of a mail that is not about an invoice."""


@value(kw_only=True)
class Mail:
    """
    A mail, as the holder of its lease sees it.

    It brings an invoice to its customer; with `OF_NO_INVOICE`, it tells an account something.
    *body* holds the exact bytes of every attempt, with its Message-ID and Date.
    """

    account_id: str
    id: str
    invoice_key: str
    recipient: str
    subject: str
    message_id: str
    body: bytes
    created_at: datetime
    attempt_count: int = 0
    lease_token: int = 0


@value(kw_only=True)
class MailAttempt:
    """
    One attempt to hand a mail over, and what follows from it.

    *code* is the reply code of the server, if it gave one. *due_at* is when the next attempt is
    due; None unless *status* is `pending`.
    """

    mail: Mail
    number: int
    """Counted from 1 for each mail."""
    started_at: datetime
    ended_at: datetime
    outcome: MailOutcome
    code: int | None = None
    detail: str | None = None
    status: MailStatus
    due_at: datetime | None = None
