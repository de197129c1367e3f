"""Why a callback came or not, as the API tells it."""

from marshmallow import fields, validate

from schemas.answer import AnswerSchema
from schemas.delivery import OUTCOMES
from schemas.documented import documented
from schemas.fields import Instant
from service.domain.explanation import NextStep, Verdict

# Plain strings, because YAML cannot represent members of an enum.
VERDICTS = tuple(verdict.value for verdict in Verdict)
NEXT_STEPS = tuple(step.value for step in NextStep)


class LastAttemptSchema(AnswerSchema):
    """The newest attempt of a delivery."""

    number = fields.Integer(metadata=documented("The number of the attempt, from 1.", example=3))
    started_at = Instant(
        metadata=documented("When it started.", example="2026-01-31T12:05:06.000Z")
    )
    duration_ms = fields.Integer(metadata=documented("Duration in milliseconds.", example=15))
    status_code = fields.Integer(
        allow_none=True,
        metadata=documented("HTTP status of the answer; null if there was none.", example=500),
    )
    outcome = fields.String(
        validate=validate.OneOf(OUTCOMES),
        metadata=documented("What it came to, as in the list of attempts.", example="refused"),
    )
    detail = fields.String(
        allow_none=True,
        metadata=documented(
            "Description of the failure, for developers.", example="the receiver answered 500"
        ),
    )
    response_body = fields.String(
        allow_none=True,
        metadata=documented("The first 4 KiB of the body of the answer.", example="oops"),
    )


def _if_known(description: str, example: object) -> dict[str, object]:
    return documented(description, example=example, optional=True)


class EvidenceSchema(AnswerSchema):
    """
    What the verdict was concluded from.

    That of a delivery has `delivery_id`, `invoice_id`, `url`, `event`, `created_at` and
    `attempt_count`, and `attempt` if there was one; that of an invoice without a delivery has
    `invoice_id` and `invoice_status`. What is not known, or has no meaning, is left out.
    """

    delivery_id = fields.String(
        metadata=_if_known("The delivery.", "msg_019c13ec9ff47f3cb0d2a64e1b9c8d57")
    )
    invoice_id = fields.String(
        metadata=documented("The `id` of the invoice: always known.", example="2expen51ve")
    )
    invoice_status = fields.String(
        metadata=_if_known(
            "The status of an invoice without a delivery: with `no_callback_url`, `no_event` and "
            "`removed`.",
            "sent",
        )
    )
    url = fields.String(
        metadata=_if_known("The URL that is called.", "https://api.example.com/invoices/2expen51ve")
    )
    event = fields.String(metadata=_if_known("The `description` of the event.", "Invoice paid"))
    created_at = Instant(metadata=_if_known("When the event happened.", "2026-01-31T12:00:00.500Z"))
    attempt_count = fields.Integer(metadata=_if_known("Number of attempts so far.", 3))
    attempt = fields.Nested(LastAttemptSchema, metadata={"optional": True})
    location = fields.String(
        metadata=_if_known(
            "Where a redirect points to, if the answer says so: with `redirected`, or with another "
            "verdict if the last attempt was redirected.",
            "https://www.example.com/",
        )
    )
    earlier_delivery_id = fields.String(
        metadata=_if_known(
            "The delivery that goes before this one: with `earlier_event`.",
            "msg_019c13ec9f007f3cb0d2a64e1b9c8d57",
        )
    )
    since = Instant(
        metadata=_if_known(
            "Since when it is like this: with `delivered`, `gone`, `exhausted`, `blocked` and "
            "`cancelled`, when the delivery ended; with `removed`, when the last event happened; "
            "with `cooldown`, since when the receiver fails, if that is known.",
            "2026-01-31T12:00:06.000Z",
        )
    )
    until = Instant(
        metadata=_if_known(
            "Until when it stays like this: with `in_progress`, `not_due`, `held`, `cooldown` and "
            "every verdict about a failed attempt.",
            "2026-01-31T12:35:06.000Z",
        )
    )


class NextStepSchema(AnswerSchema):
    """What happens next."""

    what = fields.String(
        validate=validate.OneOf(NEXT_STEPS),
        metadata=documented(
            " ".join(f"`{step}`: {step.meaning}" for step in NextStep), example="attempt"
        ),
    )
    at = Instant(
        allow_none=True,
        metadata=documented(
            "When it happens; null where that is not known.", example="2026-01-31T12:35:06.000Z"
        ),
    )


class ExplanationSchema(AnswerSchema):
    """Why a callback came or not."""

    verdict = fields.String(
        validate=validate.OneOf(VERDICTS),
        metadata=documented(
            " ".join(f"`{verdict}`: {verdict.meaning}" for verdict in Verdict), example="refused"
        ),
    )
    sentence = fields.String(
        metadata=documented(
            "The same in words, for people.",
            example="Your receiver refused the event: it answered 500. That was attempt 3; the "
            "next one follows by itself.",
        )
    )
    evidence = fields.Nested(EvidenceSchema)
    next = fields.Nested(
        NextStepSchema,
        allow_none=True,
        metadata=documented("What happens next by itself; null if nothing does."),
    )
    do = fields.String(
        allow_none=True,
        metadata=documented(
            "What you can do; null if there is nothing to do.",
            example="Look at the answer and at the log of your receiver.",
        ),
    )
