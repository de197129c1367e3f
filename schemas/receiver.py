"""Receivers, as the API returns them."""

from marshmallow import Schema, fields, validate

from schemas.answer import AnswerSchema
from schemas.documented import documented, example_of
from schemas.fields import Instant, Text
from schemas.page import next_cursor
from service.domain.receivers import ReceiverStatus

STATES = tuple(one.value for one in ReceiverStatus)


class ReceiverSchema(AnswerSchema):
    """One of your callback URLs, and how its last attempts ended."""

    id = fields.String(
        metadata=documented(
            "Id of the receiver; it does not change.",
            example="rcv_8b2cf1d04c6a9e35718fd02a6c41b7e9",
        )
    )
    url = fields.String(
        metadata=documented(
            "The callback URL that you gave, without the part that is put behind it.",
            example="https://api.example.com",
        )
    )
    origin = fields.String(
        metadata=documented("Its scheme, host and port.", example="https://api.example.com:443")
    )
    state = fields.String(
        validate=validate.OneOf(STATES),
        metadata=documented(
            "`healthy`: it answered last. `failing`: it did not take its last attempt, or refused "
            "ten in a row; one attempt at a time is made. `held`: it asked for a pause with "
            "`Retry-After`. `paused`: you have paused it. `unknown`: no attempt has ended yet.",
            example="failing",
        ),
    )
    since = Instant(
        allow_none=True,
        metadata=documented(
            "Since when it is in this state; null where that is not known.",
            example="2026-01-31T12:00:00.514Z",
        ),
    )
    reason = fields.String(
        allow_none=True,
        metadata=documented(
            "Why it is `failing`, `held` or `paused`, in words for developers; null otherwise.",
            example="Your receiver answered 503.",
        ),
    )
    until = Instant(
        allow_none=True,
        metadata=documented(
            "Before then no attempt is made; null where that is not known.",
            example="2026-01-31T12:00:10.514Z",
        ),
    )
    oldest_due_at = Instant(
        allow_none=True,
        metadata=documented(
            "When the first of its pending deliveries is or was due; null if none is pending.",
            example="2026-01-31T12:00:05.514Z",
        ),
    )
    success_rate_24h = fields.Float(
        allow_none=True,
        metadata=documented(
            "Which part of the attempts of the last 24 hours delivered, from 0 to 1; null without "
            "attempts. Like the durations, it lags behind by some seconds, and is approximate: if "
            "our process is killed, the attempts of these seconds are not counted.",
            example=0.9825,
        ),
    )
    p50_ms = fields.Integer(
        allow_none=True,
        metadata=documented(
            "Half of the attempts of the last 24 hours took at most so many milliseconds; an "
            "estimate. Attempts without a connection are not counted.",
            example=42,
        ),
    )
    p95_ms = fields.Integer(
        allow_none=True,
        metadata=documented("The same of 95 % of the attempts.", example=310),
    )


PAUSED_EXAMPLE = {
    **example_of(ReceiverSchema),
    "state": "paused",
    "reason": "It was paused by hand, and is called again once it is resumed.",
    "until": None,
}
RESUMED_EXAMPLE = {
    **example_of(ReceiverSchema),
    "state": "healthy",
    "reason": None,
    "until": None,
    "oldest_due_at": None,
}


class ReceiverPageSchema(AnswerSchema):
    """A page of receivers, in the order of their URLs."""

    items = fields.List(
        fields.Nested(ReceiverSchema), metadata=documented("The receivers of the page.")
    )
    next = next_cursor()


class ReceiverPathSchema(Schema):
    """The path parameter of one receiver."""

    id = Text(
        required=True,
        validate=validate.Length(min=1, max=200),
        metadata=documented(
            "Id of the receiver, from the list of receivers.",
            example="rcv_8b2cf1d04c6a9e35718fd02a6c41b7e9",
        ),
    )


class SentTestSchema(AnswerSchema):
    """The result of asking for a test event."""

    delivery_id = fields.String(
        metadata=documented(
            "Id of the delivery of the test event: `GET /deliveries/{id}` shows its attempts.",
            example="msg_019c13ec9ff47f3cb0d2a64e1b9c8d57",
        )
    )
