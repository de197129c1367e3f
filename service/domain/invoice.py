"""The values that stand for an invoice, its events, and one step of its collection."""

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime

from service.domain.ids import new_id
from service.domain.mail import Mail, MailAttempt
from service.domain.payment import Settlement
from service.domain.states import InvoiceStatus
from service.values import value

FIRST_LEASE_TOKEN = 1
"""The token of the lease that a row is inserted with."""

CONTENT = (
    "title",
    "customer",
    "customer_email",
    "total_minor",
    "currency",
    "callback_url",
    "locale",
)
"""Two invoices with one id are the same invoice if these fields are equal."""


@value()
class EvaluatedCallback:
    """
    A callback that the API user asked for: its name, and the URL evaluated from the request.

    *base* is the API user's own part of the URL, by which their receivers are told apart; empty
    where the whole URL is ours.
    """

    callback: str
    url: str
    origin: str
    base: str = ""


@value(kw_only=True)
class Invoice:
    """
    An invoice, from its acceptance to the end of its collection.

    *decimals* is how many *total_minor* has; None where a version that did not store it wrote the
    row. *locale* is a BCP 47 tag; None is the default, `en`. *callbacks* is empty where the API
    user did not ask to be called. *lease_token* is that of the lease under which this value was
    read or accepted.
    """

    account_id: str
    id: str
    title: str | None = None
    customer: str
    customer_email: str | None = None
    total_minor: int
    currency: str
    decimals: int | None = None
    created_at: datetime
    callback_url: str | None = None
    locale: str | None = None
    callbacks: tuple[EvaluatedCallback, ...]
    request_id: str
    traceparent: str | None = None
    status: InvoiceStatus = InvoiceStatus.RECEIVED
    event_count: int = 0
    lease_token: int = FIRST_LEASE_TOKEN
    key: str = field(default_factory=new_id)


@value(kw_only=True)
class Event:
    """
    Something that happened to an invoice.

    *callbacks* names the callbacks that it fires. Their schemas dump *content*; where there is
    none, `description`, `paid` and `invoice_id`. *bodies* are what the schemas made of *content*,
    by the name of the callback. *collector* is the name of the collector that reported it.
    """

    description: str
    paid: bool
    at: datetime
    collector: str
    callbacks: tuple[str, ...]
    content: object = None
    bodies: Mapping[str, bytes] | None = None


@value(kw_only=True)
class Step:
    """
    A change of an invoice, with its event: one step of its collection, or a report from outside.

    A step of the collection holds the lease of the invoice and gives it up. *due_at* is when the
    collection continues; None once it has ended. *mail* is committed with the step.

    A report (*is_report*, or no *status*) is made without the lease: the collector has learned
    something, an API user asks for something, or a mail has gone. It ends the collection if its
    status does, and leaves it as it is otherwise. *mail_attempt* is recorded with it, and so are
    the amounts, which are added to those of the invoice, and the *settlement*, without which the
    report is not made.
    """

    invoice: Invoice
    status: InvoiceStatus | None = None
    due_at: datetime | None = None
    event: Event | None = None
    mail: Mail | None = None
    is_report: bool = False
    mail_attempt: MailAttempt | None = None
    refunded_minor: int = 0
    overpaid_minor: int = 0
    is_mismatch: bool = False
    settlement: Settlement | None = None
