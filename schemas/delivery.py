"""Deliveries and their attempts on the wire: what was promised to be sent, and what came of it."""

from __future__ import annotations

import re

from marshmallow import RAISE, Schema, fields, validate

from schemas.answer import AnswerSchema
from schemas.event import InvoiceEventSchema
from schemas.fields import Instant, InvoiceId, Text
from schemas.page import PageQuerySchema

STATUSES = ("pending", "delivered", "dead")
REASONS = ("exhausted", "gone", "blocked")
CAUSES = ("event", "retry", "redelivery")
OUTCOMES = (
    "delivered",
    "refused",
    "invalid_answer",
    "unreachable",
    "timeout",
    "malformed",
    "lost",
    "blocked",
)


class AttemptSchema(AnswerSchema):
    """One HTTP request made for a delivery."""

    number = fields.Integer(metadata={"description": "Counted from 1.", "example": 1})
    cause = fields.String(
        validate=validate.OneOf(CAUSES),
        metadata={
            "description": "Why it was made: the `event` happened, a `retry` by the schedule, or "
            "a `redelivery` that somebody asked for.",
            "example": "event",
        },
    )
    started_at = Instant(
        metadata={
            "description": "When it was made; for `lost`, when its lease ran out.",
            "example": "2026-01-31T12:00:00.502Z",
        }
    )
    duration_ms = fields.Integer(
        metadata={"description": "How long it took, connecting included.", "example": 12}
    )
    status_code = fields.Integer(
        allow_none=True,
        metadata={"description": "What was answered; null where nothing was.", "example": 200},
    )
    outcome = fields.String(
        validate=validate.OneOf(OUTCOMES),
        metadata={
            "description": "`refused`: the status was not 2xx. `invalid_answer`: 2xx, but not "
            "what the callback declares. `malformed`: not valid HTTP. `lost`: the process that "
            "made the attempt ended before it could record the answer. `blocked`: the address "
            "may not be called.",
            "example": "delivered",
        },
    )
    detail = fields.String(
        allow_none=True,
        metadata={"description": "What was wrong, in words for developers.", "example": None},
    )
    response_body = fields.String(
        allow_none=True,
        metadata={
            "description": "The first 4 KiB of what was answered, as text.",
            "example": '{"ok": true}',
        },
    )


class DeliverySchema(AnswerSchema):
    """The duty to bring one event to one URL, and every attempt made so far."""

    id = fields.String(
        metadata={
            "description": "Also the `webhook-id` of every attempt.",
            "example": "msg_019c13ec9ff47f3cb0d2a64e1b9c8d57",
        }
    )
    invoice_id = fields.String(
        metadata={"description": "Your id of the invoice.", "example": "2expen51ve"}
    )
    callback = fields.String(
        metadata={
            "description": "Which callback of this document is delivered.",
            "example": "invoice_notification",
        }
    )
    url = fields.String(
        metadata={
            "description": "The URL that is called.",
            "example": "https://api.example.com/invoices/2expen51ve",
        }
    )
    status = fields.String(
        validate=validate.OneOf(STATUSES),
        metadata={
            "description": "`pending` until it is `delivered`, or `dead`: no more attempts.",
            "example": "delivered",
        },
    )
    reason = fields.String(
        allow_none=True,
        validate=validate.OneOf(REASONS),
        metadata={
            "description": "Why a dead delivery gets no more attempts: `exhausted` after the "
            "last of the schedule, `gone` after a 410, `blocked` where the address may not be "
            "called.",
            "example": None,
        },
    )
    event = fields.Nested(InvoiceEventSchema)
    attempt_count = fields.Integer(
        metadata={"description": "How many attempts were made.", "example": 1}
    )
    due_at = Instant(
        allow_none=True,
        metadata={
            "description": "When the next attempt may be made; null once there is none.",
            "example": None,
        },
    )
    created_at = Instant(
        metadata={"description": "When the event happened.", "example": "2026-01-31T12:00:00.500Z"}
    )
    settled_at = Instant(
        allow_none=True,
        metadata={
            "description": "When it was delivered or dead.",
            "example": "2026-01-31T12:00:00.514Z",
        },
    )
    attempts = fields.List(
        fields.Nested(AttemptSchema), metadata={"description": "Every attempt made, in order."}
    )


class DeliveryPageSchema(AnswerSchema):
    """A page of deliveries, newest first."""

    items = fields.List(fields.Nested(DeliverySchema))
    next = fields.String(
        allow_none=True,
        metadata={
            "description": "Give it as `after` to get the next page; null on the last one.",
            "example": None,
        },
    )


class DeliveryPathSchema(Schema):
    """Which delivery."""

    id = Text(
        required=True,
        validate=validate.Length(min=1, max=200),
        metadata={
            "description": "The `webhook-id` that your receiver saw.",
            "example": "msg_019c13ec9ff47f3cb0d2a64e1b9c8d57",
        },
    )


class _DeliveryFilterSchema(Schema):
    """What narrows down deliveries wherever some are chosen."""

    origin = Text(
        validate=[
            validate.Length(min=1, max=2048),
            validate.Regexp(
                r"^https?://[^/?#\s]+/?$",
                re.IGNORECASE,
                error="Must be an origin such as https://api.example.com.",
            ),
        ],
        metadata={
            "description": "Only deliveries to this scheme, host and port; the port may be left "
            "out where it is the scheme's own.",
        },
    )
    since = Instant(
        metadata={
            "description": "Only deliveries created at this instant or later.",
        }
    )
    until = Instant(
        metadata={
            "description": "Only deliveries created before this instant.",
        }
    )


class DeliveryListQuerySchema(_DeliveryFilterSchema, PageQuerySchema):
    """Which deliveries to list."""

    status = fields.String(
        validate=validate.OneOf(STATUSES),
        metadata={"description": "Only deliveries in this state."},
    )
    invoice_id = InvoiceId(metadata={"description": "Only deliveries of this invoice."})


REDELIVERY_EXAMPLE = {"status": "dead", "origin": "https://api.example.com"}


class RedeliverySchema(_DeliveryFilterSchema):
    """Which deliveries to deliver once more."""

    class Meta:
        """Closed: a filter with a typing mistake in it would take more than was meant."""

        unknown = RAISE

    status = fields.String(
        required=True,
        validate=validate.OneOf(("dead",)),
        metadata={"description": "Those that get no more attempts by themselves."},
    )


class RedeliveredSchema(AnswerSchema):
    """What came of it."""

    count = fields.Integer(
        metadata={"description": "How many deliveries are pending again.", "example": 50000}
    )
