"""
The mail that brings an invoice to its customer, as the bytes that are sent.

What API users write into an invoice becomes part of headers, of HTML and of text here: one line,
escaped, and without the characters that change the direction of what stands around them.
"""

import re
from collections.abc import Awaitable, Callable
from email.errors import NonASCIILocalPartDefect
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, parseaddr

import idna
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from service.clock import Clock
from service.domain.ids import new_id
from service.domain.invoice import Invoice
from service.domain.mail import Mail
from service.localization import decimals_of, format_amount, format_date, load

SUBJECT_MAX = 120
"""Characters of a subject: mailboxes show fewer."""

PLACEHOLDER_SENDER = "invoices@localhost"
"""The sender of mails that become files."""

PayUrl = Callable[[str, str], Awaitable[str | None]]
"""The pay link of an account and the key of an invoice; None if there is none."""

_BIDIRECTIONAL = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class InvoiceMails:
    """Composes mails from *sender*, an address perhaps with a name; empty for files."""

    def __init__(self, sender: str, pay_url: PayUrl, clock: Clock) -> None:
        name, address = parseaddr(sender or PLACEHOLDER_SENDER)
        self._sender = Address(name, addr_spec=address)
        self._pay_url = pay_url
        self._clock = clock
        self._templates = Environment(
            loader=PackageLoader("service.collection", "templates"),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            trim_blocks=False,
            keep_trailing_newline=True,
        )

    async def compose(self, invoice: Invoice) -> Mail:
        """The mail of *invoice*, which has a `customer_email`; rendered once, and then stored."""
        await load(invoice.locale)
        payment_url = await self._pay_url(invoice.account_id, invoice.key)
        now, id_ = self._clock.now(), f"mail_{new_id()}"
        # Addresses are shown to servers in ASCII, apart from what stands before the @.
        username, _, domain = (invoice.customer_email or "").rpartition("@")
        recipient = f"{username}@{_in_ascii(domain)}"
        subject = _subject_of(invoice)
        decimals = decimals_of(invoice.currency, invoice.decimals)
        values = {
            "heading": f"Invoice {one_line(invoice.id)}",
            "id": one_line(invoice.id),
            "customer": one_line(invoice.customer),
            "title": one_line(invoice.title or ""),
            "date": format_date(invoice.created_at, invoice.locale),
            "amount": format_amount(
                invoice.total_minor, decimals, invoice.currency, invoice.locale
            ),
            "currency": invoice.currency,
            "payment_url": payment_url,
        }
        message = EmailMessage(policy=SMTP if recipient.isascii() else SMTPUTF8)
        message["From"] = self._sender
        message["To"] = _mailbox(recipient)
        message["Subject"] = subject
        message["Date"] = format_datetime(now)
        message_id = f"<{id_}@{self._sender.domain}>"
        message["Message-ID"] = message_id
        # No vacation notice is to answer.
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(self._rendered("invoice.txt", values), cte="quoted-printable")
        html = self._rendered("invoice.html", values)
        message.add_alternative(html, subtype="html", cte="quoted-printable")
        return Mail(
            account_id=invoice.account_id,
            id=id_,
            invoice_key=invoice.key,
            recipient=recipient,
            subject=subject,
            message_id=message_id,
            body=message.as_bytes(),
            created_at=now,
        )

    def _rendered(self, name: str, values: dict[str, str | None]) -> str:
        return self._templates.get_template(name).render(values)


def one_line(text: str) -> str:
    """*text* on one line, without the characters that change the direction of others."""
    # Also U+2028 and U+2029, which end a line.
    return " ".join(_BIDIRECTIONAL.sub("", text).split())


def _subject_of(invoice: Invoice) -> str:
    subject = f"Invoice {one_line(invoice.id)}"
    if invoice.title:
        subject += f": {one_line(invoice.title)}"
    # Mailboxes would decode what looks like an encoded word.
    subject = subject.replace("=?", "= ?")
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
