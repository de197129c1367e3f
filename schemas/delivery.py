"""Deliveries and their attempts, as the API returns them, and the filters that select them."""

import re

from marshmallow import RAISE, Schema, fields, validate

from schemas.answer import AnswerSchema
from schemas.documented import documented, example_of
from schemas.event import InvoiceEventSchema
from schemas.fields import Instant, InvoiceId, Text
from schemas.page import PageQuerySchema, next_cursor
from service.domain.outcomes import AttemptOutcome
from service.domain.states import Cause, DeadReason, DeliveryStatus
from service.domain.waiting import WaitingFor

# Plain strings, because YAML cannot represent members of an enum.
STATUSES = tuple(status.value for status in DeliveryStatus)
REASONS = tuple(reason.value for reason in DeadReason)
CAUSES = tuple(cause.value for cause in Cause)
REASONS_TO_WAIT = tuple(reason.value for reason in WaitingFor)
OUTCOMES = tuple(outcome.value for outcome in AttemptOutcome)


def invoice_reference() -> fields.String:
    """The field `invoice_id` of what belongs to an invoice."""
    return fields.String(metadata=documented("The `id` of the invoice.", example="2expen51ve"))


def callback_name() -> fields.String:
    """The field `callback` of what is sent by one."""
    return fields.String(
        metadata=documented(
            "Name of the callback in this document.", example="invoice_notification"
        )
    )


class ListedAttemptSchema(AnswerSchema):
    """One HTTP request made for a delivery, without the answer's body."""

    number = fields.Integer(metadata=documented("The number of the attempt, from 1.", example=1))
    cause = fields.String(
        validate=validate.OneOf(CAUSES),
        metadata=documented(
            "Why the attempt was made: for a new `event`, as a `retry` of the "
            "schedule, or because the API user requested a `redelivery`.",
            example="event",
        ),
    )
    started_at = Instant(
        metadata=documented(
            "When the attempt started; for `lost`, when its lease expired.",
            example="2026-01-31T12:00:00.502Z",
        )
    )
    duration_ms = fields.Integer(
        metadata=documented("Duration in milliseconds, including connecting.", example=12)
    )
    status_code = fields.Integer(
        allow_none=True,
        metadata=documented("HTTP status of the answer; null if there was none.", example=200),
    )
    outcome = fields.String(
        validate=validate.OneOf(OUTCOMES),
        metadata=documented(
            " ".join(f"`{outcome}`: {outcome.meaning}" for outcome in AttemptOutcome),
            example="delivered",
        ),
    )
    detail = fields.String(
        allow_none=True,
        metadata=documented("Description of the failure, for developers.", example=None),
    )


class AttemptRequestSchema(AnswerSchema):
    """A request as it was sent."""

    method = fields.String(metadata=documented("The HTTP method.", example="POST"))
    url = fields.String(
        metadata=documented(
            "The URL, byte for byte.", example="https://api.example.com/invoices/2expen51ve"
        )
    )
    headers = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        metadata=documented(
            "The headers, without those of every HTTP request: `Host`, `Accept`, "
            "`Accept-Encoding: identity` and `Content-Length`.",
            example={"webhook-id": "msg_019c13ec9ff47f3cb0d2a64e1b9c8d57", "webhook-attempt": "1"},
        ),
    )


def _phase(description: str, example: float | None) -> fields.Float:
    return fields.Float(allow_none=True, metadata=documented(description, example=example))


class AttemptPhasesSchema(AnswerSchema):
    """How long each part of an attempt took, in milliseconds."""

    name = _phase("To look up the name; null if a kept connection was used.", 1.2)
    connect = _phase("To connect; null if a kept connection was used.", 3.1)
    tls = _phase("To agree on TLS; null without TLS, or if a kept connection was used.", 4.6)
    send = _phase("To send the request; null if it was not sent completely.", 0.1)
    wait = _phase("From then on, to the end of the answer or of the wait for it.", 3.0)


NEWEST_TEN = "Only of the newest ten attempts; null for older ones"


class AttemptSchema(ListedAttemptSchema):
    """One HTTP request made for a delivery."""

    request = fields.Nested(
        AttemptRequestSchema,
        allow_none=True,
        metadata=documented(
            f"The request as it was sent. {NEWEST_TEN}, and where it is not known, as for `lost`."
        ),
    )
    address = fields.String(
        allow_none=True,
        metadata=documented(
            f"The address that was connected to; null without a connection. {NEWEST_TEN}.",
            example="93.184.216.34",
        ),
    )
    phases_ms = fields.Nested(
        AttemptPhasesSchema,
        allow_none=True,
        metadata=documented(f"How long each part took; null without a connection. {NEWEST_TEN}."),
    )
    response_headers = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        allow_none=True,
        metadata=documented(
            "The first 32 headers of the answer, of 4 KiB together at most; control characters are "
            f"replaced, and a repeated header has its values separated by commas. {NEWEST_TEN}.",
            example={"Content-Type": "application/json"},
        ),
    )
    rule = fields.String(
        allow_none=True,
        metadata=documented(
            "The rule of the callback in this document by which the answer was read; null without "
            f"an answer. {NEWEST_TEN}.",
            example="2XX",
        ),
    )

    response_body = fields.String(
        allow_none=True,
        metadata=documented(
            "The first 4 KiB of the body of the answer, as text; control characters are replaced. "
            f"{NEWEST_TEN}.",
            example='{"ok": true}',
        ),
    )


class ListedDeliverySchema(AnswerSchema):
    """The durable duty to deliver one event to one URL, and its newest attempt."""

    id = fields.String(
        metadata=documented(
            "Id of the delivery; sent as `webhook-id` in every attempt.",
            example="msg_019c13ec9ff47f3cb0d2a64e1b9c8d57",
        )
    )
    invoice_id = invoice_reference()
    callback = callback_name()
    url = fields.String(
        metadata=documented(
            "The URL that is called.", example="https://api.example.com/invoices/2expen51ve"
        )
    )
    status = fields.String(
        validate=validate.OneOf(STATUSES),
        metadata=documented(
            "`pending`: not delivered yet. `delivered`: acknowledged by the "
            "receiver. `dead`: no more automatic attempts.",
            example="delivered",
        ),
    )
    reason = fields.String(
        allow_none=True,
        validate=validate.OneOf(REASONS),
        metadata=documented(
            "Why the delivery is dead. `exhausted`: the last attempt of the retry "
            "schedule failed. `gone`: the receiver answered 410. `blocked`: the address in the "
            "URL is denied by policy. `cancelled`: you cancelled it.",
            example=None,
        ),
    )
    event = fields.Nested(InvoiceEventSchema)
    attempt_count = fields.Integer(metadata=documented("Number of attempts so far.", example=1))
    due_at = Instant(
        allow_none=True,
        metadata=documented(
            "When the next attempt is due; null if the delivery is not pending.", example=None
        ),
    )
    waiting_for = fields.String(
        allow_none=True,
        validate=validate.OneOf(REASONS_TO_WAIT),
        metadata=documented(
            "What a pending delivery waits for; null while an attempt is made, and after the end. "
            "`due`: the time of the next attempt in the retry schedule. `earlier_event`: an "
            "earlier event of the invoice, which is not delivered yet. `hold`: your receiver asked "
            "for a pause with `Retry-After`. `cooldown`: attempts for this `callback_url` failed, "
            "or no connection to its host was possible; a single attempt follows. `slot`: its "
            "turn. `rate`: its turn too, because your account has more attempts to make than it "
            "may make in a second. `paused`: you have paused the receiver; nothing is sent before "
            "you resume it. `listener`: a connection of `invoices listen`.",
            example=None,
        ),
    )
    waiting_until = Instant(
        allow_none=True,
        metadata=documented("Until when it waits; null where that is not known.", example=None),
    )
    created_at = Instant(
        metadata=documented("When the event happened.", example="2026-01-31T12:00:00.500Z")
    )
    settled_at = Instant(
        allow_none=True,
        metadata=documented(
            "When it became `delivered` or `dead`; null while it is pending.",
            example="2026-01-31T12:00:00.514Z",
        ),
    )
    attempts = fields.List(
        fields.Nested(ListedAttemptSchema),
        metadata=documented("The newest attempt alone, if any; the delivery by itself has more."),
    )


class DeliverySchema(ListedDeliverySchema):
    """The durable duty to deliver one event to one URL, and its attempts so far."""

    attempts = fields.List(
        fields.Nested(AttemptSchema),
        metadata=documented("The newest 100 attempts, in ascending order."),
    )


PENDING_EXAMPLE = {
    **example_of(DeliverySchema),
    "status": "pending",
    "due_at": "2026-02-01T09:00:00.000Z",
    "waiting_for": "slot",
    "settled_at": None,
}
"""A delivery that was delivered once and is delivered again."""


CANCELLED_EXAMPLE = {
    **example_of(DeliverySchema),
    "status": "dead",
    "reason": "cancelled",
    "attempt_count": 0,
    "attempts": [],
}
"""A delivery that was cancelled before its first attempt."""


class ListedDeliveryPageSchema(AnswerSchema):
    """A page of deliveries with their newest attempts, newest first."""

    items = fields.List(
        fields.Nested(ListedDeliverySchema), metadata=documented("The deliveries of the page.")
    )
    next = next_cursor()


class DeliveryPageSchema(AnswerSchema):
    """A page of deliveries with their attempts, newest first."""

    items = fields.List(fields.Nested(DeliverySchema))
    next = next_cursor()


class DeliveryPathSchema(Schema):
    """The path parameters of one delivery."""

    id = Text(
        required=True,
        validate=validate.Length(min=1, max=200),
        metadata=documented(
            "Id of the delivery: the `webhook-id` that the receiver was sent.",
            example="msg_019c13ec9ff47f3cb0d2a64e1b9c8d57",
        ),
    )


class _DeliveryFilterSchema(Schema):
    """The filters that listing and redelivery have in common."""

    origin = Text(
        validate=[
            validate.Length(min=1, max=2048),
            validate.Regexp(
                r"^https?://[^/?#\s]+/?$",
                re.IGNORECASE,
                error="Must be an origin such as https://api.example.com.",
            ),
        ],
        metadata=documented(
            "Only deliveries to this scheme, host and port. A default port may be omitted."
        ),
    )
    since = Instant(metadata=documented("Only deliveries created at or after this instant."))
    until = Instant(metadata=documented("Only deliveries created before this instant."))


class DeliveryListQuerySchema(_DeliveryFilterSchema, PageQuerySchema):
    """The query parameters of the list of deliveries."""

    status = fields.String(
        validate=validate.OneOf(STATUSES), metadata=documented("Only deliveries with this status.")
    )
    invoice_id = InvoiceId(metadata=documented("Only deliveries of this invoice."))


REDELIVERY_EXAMPLE = {"status": "dead", "origin": "https://api.example.com"}


class RedeliverySchema(_DeliveryFilterSchema):
    """The filter that selects the deliveries to redeliver."""

    class Meta:
        """Closed: a filter with a misspelled name would select too many deliveries."""

        unknown = RAISE

    status = fields.String(
        required=True,
        validate=validate.OneOf((DeliveryStatus.DEAD.value,)),
        metadata=documented("Only deliveries with this status."),
    )


class RedeliveredSchema(AnswerSchema):
    """The result of a redelivery."""

    count = fields.Integer(
        metadata=documented("Number of deliveries that became pending again.", example=50000)
    )
