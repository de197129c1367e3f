"""The feed: what happened to the invoices of an account, as its API users read it."""

from marshmallow import fields, validate

from schemas.answer import AnswerSchema
from schemas.delivery import callback_name, invoice_reference
from schemas.documented import documented, example_of
from schemas.event import InvoiceNotificationSchema
from schemas.fields import Instant, Text, WholeNumber
from schemas.page import PageQuerySchema

WAIT_SECONDS_MAX = 60

CURSOR_EXAMPLE = "MTg3Ny4wMTljMTNlYzlmZjQ3ZjNjYjBkMmE2NGUxYjljOGQ1Ny4xLjE"


class FeedQuerySchema(PageQuerySchema):
    """The query parameters of the feed."""

    after = Text(
        validate=validate.Length(min=1, max=200),
        metadata=documented(
            "Cursor: the `next` of the answer before. Without it, from the oldest event that is "
            "kept."
        ),
    )
    wait = WholeNumber(
        load_default=0,
        validate=validate.Range(0, WAIT_SECONDS_MAX),
        metadata=documented(
            "How many seconds the answer may wait for something new. With 0, it never waits."
        ),
    )


class FeedItemSchema(AnswerSchema):
    """A callback of an event, whether or not you were called."""

    id = fields.String(
        metadata=documented(
            "The `webhook-id` of the callback, if you gave a URL for it: a receiver recognises "
            "what it has already. Otherwise an id that begins with `evt_`. It never changes.",
            example="msg_019c13ec9ff47f3cb0d2a64e1b9c8d57",
        )
    )
    invoice_id = invoice_reference()
    callback = callback_name()
    body = fields.Dict(
        metadata=documented(
            "The same object as the body of the callback; the callback describes it.",
            example=example_of(InvoiceNotificationSchema),
        )
    )
    at = Instant(
        metadata=documented("When the event happened.", example="2026-01-31T12:00:00.500Z")
    )


class FeedPageSchema(AnswerSchema):
    """A page of what happened, in the order in which it was stored."""

    items = fields.List(
        fields.Nested(FeedItemSchema), metadata=documented("What happened, oldest first.")
    )
    next = fields.String(
        metadata=documented(
            "Cursor: pass it as `after` to get what comes after this page, now or later. Never "
            "null; without anything new it is the cursor that you sent.",
            example=CURSOR_EXAMPLE,
        )
    )
