"""Invoices on the wire: as they are sent in, answered, shown and listed."""

from __future__ import annotations

from marshmallow import RAISE, Schema, fields, validate

from schemas.answer import AnswerSchema
from schemas.event import InvoiceEventSchema
from schemas.fields import Amount, Currency, EmailAddress, Instant, InvoiceId, Text
from schemas.money import AMOUNT_MAX, AMOUNT_PATTERN
from schemas.page import PageQuerySchema

STATUSES = ("received", "sent", "paid", "payment_failed")

EXAMPLE = {
    "id": "2expen51ve",
    "title": "Expensive invoice",
    "customer": "Mr. Richie Rich",
    "total": "9999",
}


class InvoiceSchema(Schema):
    """
    An invoice, to be sent to a customer and collected.

    Loads into the invoice's columns: the total becomes *total_minor*. A missing currency has
    to be filled in before, because what an amount may look like depends on it.
    """

    class Meta:
        """Closed: what is not declared is refused, because it is most likely a typing mistake."""

        unknown = RAISE

    id = InvoiceId(
        required=True,
        metadata={
            "description": "Your own id of the invoice, unique within your account. Sending the "
            "same id again is safe: the same content is answered 200, other content 409. No "
            "control characters, and neither `.` nor `..`.",
            "example": "2expen51ve",
        },
    )
    title = Text(
        allow_none=True,
        load_default=None,
        validate=validate.Length(max=500),
        metadata={"description": "What the invoice is for.", "example": "Expensive invoice"},
    )
    customer = Text(
        required=True,
        validate=validate.Length(min=1, max=500),
        metadata={
            "description": "Who is to pay. In the sandbox, a tag chooses the ending: "
            "`Acme+declined`, `+insufficient_funds`, `+expired_card`, `+processing_error`, "
            "`+pending`, `+never` or `+undeliverable`.",
            "example": "Mr. Richie Rich",
        },
    )
    customer_email = EmailAddress(
        allow_none=True,
        load_default=None,
        validate=validate.Length(max=254),
        metadata={
            "description": "Where the invoice is sent. The sandbox's tags work here too.",
            "example": "richie@example.com",
        },
    )
    total = Amount(
        required=True,
        attribute="total_minor",
        metadata={
            "description": "The amount, more than zero, with no more decimals than the "
            "currency has. A string is exact; a JSON number is taken too.",
            "example": "9999",
            "type": ["string", "number"],
            "pattern": AMOUNT_PATTERN,
            "exclusiveMinimum": 0,
            "maximum": AMOUNT_MAX,
        },
    )
    currency = Currency(
        metadata={
            "description": "ISO 4217 code. Left out, it is the service's own currency.",
            "example": "USD",
            "pattern": "^[A-Z]{3}$",
        },
    )


class CallbackQuerySchema(Schema):
    """Where to call back."""

    class Meta:
        """Closed: what is not declared is refused, because it is most likely a typing mistake."""

        unknown = RAISE

    callback_url = Text(
        validate=validate.Length(min=1, max=2048),
        metadata={
            "description": "The URL of your API that is called back, such as "
            "`https://api.example.com`. Without it, nobody is called. A query or a fragment is "
            "refused, because the path of the callback is put behind it.",
        },
    )


class InvoiceReceivedSchema(AnswerSchema):
    """The invoice is stored for good."""

    msg = fields.String(
        metadata={"description": "In words for people.", "example": "Invoice received"}
    )


class InvoicePathSchema(Schema):
    """Which invoice."""

    id = InvoiceId(
        required=True,
        metadata={"description": "The id that the invoice was sent with.", "example": "2expen51ve"},
    )


class ToldEventSchema(InvoiceEventSchema):
    """An event, with who made it happen and when."""

    collector = fields.String(
        required=True,
        metadata={
            "description": "What collected: `sandbox` moves no money.",
            "example": "sandbox",
        },
    )
    at = Instant(
        required=True,
        metadata={"description": "When it happened.", "example": "2026-01-31T12:00:00.500Z"},
    )


class CollectedInvoiceSchema(AnswerSchema):
    """An invoice and how far its collection has come."""

    id = fields.String(metadata={"description": "Your own id of it.", "example": "2expen51ve"})
    title = fields.String(
        allow_none=True,
        metadata={"description": "What it is for.", "example": "Expensive invoice"},
    )
    customer = fields.String(
        metadata={"description": "Who is to pay.", "example": "Mr. Richie Rich"}
    )
    customer_email = fields.String(
        allow_none=True,
        metadata={"description": "Where it is sent.", "example": None},
    )
    total = fields.String(
        metadata={
            "description": "The amount with all of the currency's decimals.",
            "example": "9999.00",
        }
    )
    currency = fields.String(metadata={"description": "ISO 4217 code.", "example": "USD"})
    status = fields.String(
        validate=validate.OneOf(STATUSES),
        metadata={
            "description": "`received`, then `sent` to the customer, then `paid` or "
            "`payment_failed`.",
            "example": "paid",
        },
    )
    callback_url = fields.String(
        allow_none=True,
        metadata={
            "description": "What is called back; null where nobody is.",
            "example": "https://api.example.com",
        },
    )
    created_at = Instant(
        metadata={
            "description": "When it was received.",
            "example": "2026-01-31T12:00:00.000Z",
        }
    )
    events = fields.List(
        fields.Nested(ToldEventSchema), metadata={"description": "What happened to it, in order."}
    )


class InvoicePageSchema(AnswerSchema):
    """A page of invoices, newest first."""

    items = fields.List(fields.Nested(CollectedInvoiceSchema))
    next = fields.String(
        allow_none=True,
        metadata={
            "description": "Give it as `after` to get the next page; null on the last one.",
            "example": None,
        },
    )


class InvoiceListQuerySchema(PageQuerySchema):
    """Which invoices to list."""

    status = fields.String(
        validate=validate.OneOf(STATUSES),
        metadata={"description": "Only invoices in this state."},
    )
