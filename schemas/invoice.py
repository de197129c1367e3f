"""Invoices, as the API accepts, returns and lists them."""

from typing import Any

from marshmallow import RAISE, Schema, fields, validate

from schemas.answer import AnswerSchema
from schemas.documented import documented
from schemas.event import InvoiceEventSchema
from schemas.fields import Amount, Currency, EmailAddress, Instant, InvoiceId, Locale, Text
from schemas.flat import FlatSchema
from schemas.locales import LOCALE_PATTERN
from schemas.money import AMOUNT_FORMS
from schemas.page import PageQuerySchema, next_cursor
from service.domain.states import InvoiceStatus

# Plain strings, because YAML cannot represent members of an enum.
STATUSES = tuple(status.value for status in InvoiceStatus)

EXAMPLE = {
    "id": "2expen51ve",
    "title": "Expensive invoice",
    "customer": "Mr. Richie Rich",
    "total": "9999",
}


class InvoiceRequestSchema(FlatSchema):
    """
    An invoice to send to a customer and collect.

    Loads into the columns of an invoice: `total` becomes *total_minor*. The caller leaves blank
    fields out, and fills in a missing currency, because it determines which amounts are valid.
    """

    class Meta:
        """Closed: an undeclared field is refused, because it is probably a misspelled name."""

        unknown = RAISE

    def on_bind_field(self, _field_name: str, field_obj: fields.Field[Any]) -> None:
        """Set the message of a required field that is missing or blank."""
        field_obj.error_messages["required"] = "Is missing or blank."

    id = InvoiceId(
        required=True,
        metadata=documented(
            "Your id of the invoice, unique within your account. The request is "
            "idempotent: the same id with the same content is answered 200, with other content "
            "409. Control characters, `.` and `..` are refused. Every id can be used with every "
            "`callback_url`.",
            example="2expen51ve",
        ),
    )
    title = Text(
        allow_none=True,
        load_default=None,
        validate=validate.Length(max=500),
        metadata=documented(
            "Title of the invoice. A blank field, here and elsewhere, counts as missing.",
            example="Expensive invoice",
        ),
    )
    customer = Text(
        required=True,
        validate=validate.Length(min=1, max=500),
        metadata=documented(
            "The customer who pays. In the sandbox, a tag selects the result: "
            "`Acme+declined`, `+insufficient_funds`, `+expired_card`, `+processing_error`, "
            "`+pending`, `+never` or `+undeliverable`.",
            example="Mr. Richie Rich",
        ),
    )
    customer_email = EmailAddress(
        allow_none=True,
        load_default=None,
        validate=validate.Length(max=254),
        metadata=documented(
            "E-mail address of the customer, to which the invoice is sent. Without it nothing is "
            "sent: give the customer the `payment_url` yourself. The tags of the sandbox work here "
            "too.",
            example="richie@example.com",
        ),
    )
    locale = Locale(
        allow_none=True,
        load_default=None,
        metadata=documented(
            "How amounts and dates are written for the customer: a BCP 47 tag of a language and "
            "perhaps a region. The default is `en`.",
            example="de-CH",
            pattern=LOCALE_PATTERN,
        ),
    )
    total = Amount(
        required=True,
        attribute="total_minor",
        metadata=documented(
            "The amount: greater than zero, with no more decimals than the "
            "currency has. A string is exact; a JSON number is accepted too.",
            example="9999",
            anyOf=list(AMOUNT_FORMS),
        ),
    )
    currency = Currency(
        metadata=documented(
            "ISO 4217 code; the default is the currency of the service.",
            example="USD",
            type=["string", "null"],
            pattern="^[A-Z]{3}$",
        )
    )


class CallbackQuerySchema(Schema):
    """The query parameters of a request that creates an invoice."""

    class Meta:
        """Closed: an undeclared field is refused, because it is probably a misspelled name."""

        unknown = RAISE

    callback_url = Text(
        validate=validate.Length(
            1, 2048, error="Must have 1 to 2048 characters; without it, no callback is sent."
        ),
        metadata=documented(
            "The base URL of your API for callbacks, such as "
            "`https://api.example.com`. Without it, no callback is sent. A query or a fragment "
            "is refused, because the path of the callback is appended; a token can stand in "
            "the path.",
            example="https://api.example.com",
        ),
    )


class InvoiceReceivedSchema(AnswerSchema):
    """The invoice is stored."""

    msg = fields.String(metadata=documented("A message for people.", example="Invoice received"))


class InvoicePathSchema(Schema):
    """The path parameters of one invoice."""

    id = InvoiceId(
        required=True, metadata=documented("Your id of the invoice.", example="2expen51ve")
    )


class InvoiceEventRecordSchema(InvoiceEventSchema):
    """An event with its collector and its time."""

    collector = fields.String(
        required=True,
        metadata=documented("The collector; `sandbox` moves no money.", example="sandbox"),
    )
    at = Instant(
        required=True, metadata=documented("When it happened.", example="2026-01-31T12:00:00.500Z")
    )


class InvoiceSchema(AnswerSchema):
    """An invoice with its status and its events."""

    id = fields.String(metadata=documented("Your id of the invoice.", example="2expen51ve"))
    title = fields.String(
        allow_none=True, metadata=documented("Title of the invoice.", example="Expensive invoice")
    )
    customer = fields.String(
        metadata=documented("The customer who pays.", example="Mr. Richie Rich")
    )
    customer_email = fields.String(
        allow_none=True, metadata=documented("E-mail address of the customer.", example=None)
    )
    total = fields.String(
        metadata=documented("The amount with all of the currency's decimals.", example="9999.00")
    )
    currency = fields.String(metadata=documented("ISO 4217 code.", example="USD"))
    status = fields.String(
        validate=validate.OneOf(STATUSES),
        metadata=documented(
            "`received`, then `sent` to the customer or `undeliverable`, then `paid` or "
            "`payment_failed`. Afterwards it may become `partially_refunded`, `refunded` or "
            "`disputed`. An invoice that is not paid may become `void`.",
            example="paid",
        ),
    )
    locale = Locale(metadata=documented("The locale of the customer.", example="en"))
    payment_url = fields.String(
        allow_none=True,
        metadata=documented(
            "The page on which the customer sees and pays the invoice. Everyone who has this URL "
            "can open it. Null if the service has no encryption key.",
            example="https://invoices.example.com/pay/"
            "c2FtcGxlx0Rg1q8FcBCAxyT3Kd5mDSsuPX3tAd8b3PIJ0EGs0xZP",
        ),
    )
    amount_refunded = fields.String(
        metadata=documented("What went back to the customer.", example="0.00")
    )
    mismatch = fields.Boolean(
        metadata=documented(
            "Whether a payment came in that has another amount or currency than the invoice; it "
            "does not make the invoice `paid`.",
            example=False,
        )
    )
    overpaid = fields.String(
        allow_none=True,
        metadata=documented(
            "What came in although the invoice was paid or void, and has not gone back; null if "
            "nothing did.",
            example=None,
        ),
    )
    callback_url = fields.String(
        allow_none=True,
        metadata=documented(
            "The base URL for callbacks; null if none was given.", example="https://api.example.com"
        ),
    )
    created_at = Instant(
        metadata=documented("When it was received.", example="2026-01-31T12:00:00.000Z")
    )
    events = fields.List(
        fields.Nested(InvoiceEventRecordSchema),
        metadata=documented("The newest 100 events of the invoice, in order."),
    )


class InvoicePageSchema(AnswerSchema):
    """A page of invoices, newest first."""

    items = fields.List(fields.Nested(InvoiceSchema))
    next = next_cursor()


class InvoiceListQuerySchema(PageQuerySchema):
    """The query parameters of the list of invoices."""

    id = InvoiceId(
        metadata=documented("Only the invoice with this id of yours.", example="2expen51ve")
    )
    status = fields.String(
        validate=validate.OneOf(STATUSES), metadata=documented("Only invoices with this status.")
    )
