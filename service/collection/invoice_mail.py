"""
The mail that brings an invoice to its customer, as the bytes that are sent.

What API users write into an invoice becomes part of headers, of HTML and of text here: one line,
escaped, and without the characters that change the direction of what stands around them.
"""

from collections.abc import Awaitable, Callable

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from service.clock import Clock
from service.collection.envelope import Envelope, subject_of
from service.domain.ids import new_id
from service.domain.invoice import Invoice
from service.domain.mail import Mail
from service.localization import decimals_of, format_amount, format_date, load, one_line

PayUrl = Callable[[str, str], Awaitable[str | None]]
"""The pay link of an account and the key of an invoice; None if there is none."""


class InvoiceMails:
    """Composes mails from *sender*, an address perhaps with a name; empty for files."""

    def __init__(self, sender: str, pay_url: PayUrl, clock: Clock) -> None:
        self._envelope = Envelope(sender)
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
        letter = self._envelope.letter_to(invoice.customer_email or "", subject, id_, now)
        letter.message.set_content(self._rendered("invoice.txt", values), cte="quoted-printable")
        html = self._rendered("invoice.html", values)
        letter.message.add_alternative(html, subtype="html", cte="quoted-printable")
        return letter.mail(invoice.account_id, invoice.key)

    def _rendered(self, name: str, values: dict[str, str | None]) -> str:
        return self._templates.get_template(name).render(values)


def _subject_of(invoice: Invoice) -> str:
    subject = f"Invoice {one_line(invoice.id)}"
    if invoice.title:
        subject += f": {one_line(invoice.title)}"
    return subject_of(subject)
