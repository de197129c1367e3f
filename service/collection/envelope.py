"""
What all mails of the service have in common: the sender, the recipient, and their headers.

What other people write becomes part of headers here: one line, without the characters that change
the direction of what stands around them.
"""

from dataclasses import dataclass
from datetime import datetime
from email.errors import NonASCIILocalPartDefect
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, parseaddr

import idna

from service.domain.mail import Mail

SUBJECT_MAX = 120
"""Characters of a subject: mailboxes show fewer."""

PLACEHOLDER_SENDER = "invoices@localhost"
"""The sender of mails that become files."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A *message* whose headers are complete, and what is stored of them beside it."""

    id: str
    recipient: str
    subject: str
    message_id: str
    written_at: datetime
    message: EmailMessage

    def mail(self, account_id: str, invoice_key: str) -> Mail:
        """The mail of the message as it is now."""
        return Mail(
            account_id=account_id,
            id=self.id,
            invoice_key=invoice_key,
            recipient=self.recipient,
            subject=self.subject,
            message_id=self.message_id,
            body=self.message.as_bytes(),
            created_at=self.written_at,
        )


class Envelope:
    """The headers of mails from *sender*, an address perhaps with a name; empty for files."""

    def __init__(self, sender: str) -> None:
        name, address = parseaddr(sender or PLACEHOLDER_SENDER)
        self._sender = Address(name, addr_spec=address)

    def letter_to(self, address: str, subject: str, id_: str, now: datetime) -> Letter:
        """A letter to *address*, without content; its Message-ID begins with *id_*."""
        # Addresses are shown to servers in ASCII, apart from what stands before the @.
        username, _, domain = address.rpartition("@")
        recipient = f"{username}@{_in_ascii(domain)}"
        message = EmailMessage(policy=SMTP if recipient.isascii() else SMTPUTF8)
        message["From"] = self._sender
        message["To"] = _mailbox(recipient)
        message["Subject"] = subject
        message["Date"] = format_datetime(now)
        message_id = f"<{id_}@{self._sender.domain}>"
        message["Message-ID"] = message_id
        # No vacation notice is to answer.
        message["Auto-Submitted"] = "auto-generated"
        return Letter(id_, recipient, subject, message_id, now, message)


def subject_of(text: str) -> str:
    """*text*, which is one line, as a subject."""
    # Mailboxes would decode what looks like an encoded word.
    subject = text.replace("=?", "= ?")
    return subject if len(subject) <= SUBJECT_MAX else f"{subject[: SUBJECT_MAX - 1]}…"


def _mailbox(address: str) -> Address:
    """One mailbox, whatever commas and quotation marks *address* holds."""
    try:
        return Address(addr_spec=address)
    except NonASCIILocalPartDefect:
        username, _, domain = address.rpartition("@")
        return Address(username=username, domain=domain)


def _in_ascii(domain: str) -> str:
    if domain.isascii():
        return domain
    try:
        return idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        # The mail server says what it thinks of it.
        return domain
