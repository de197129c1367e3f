"""Mails and their attempts, as the API returns them."""

from marshmallow import fields, validate

from schemas.answer import AnswerSchema
from schemas.documented import documented
from schemas.fields import Instant
from service.domain.outcomes import MailOutcome
from service.domain.states import MailStatus

# Plain strings, because YAML cannot represent members of an enum.
STATUSES = tuple(status.value for status in MailStatus)
OUTCOMES = tuple(outcome.value for outcome in MailOutcome)


class MailAttemptSchema(AnswerSchema):
    """One attempt to hand a mail over."""

    number = fields.Integer(metadata=documented("The number of the attempt, from 1.", example=1))
    started_at = Instant(
        metadata=documented("When the attempt started.", example="2026-01-31T12:00:00.020Z")
    )
    outcome = fields.String(
        validate=validate.OneOf(OUTCOMES),
        metadata=documented(
            " ".join(f"`{outcome}`: {outcome.meaning}" for outcome in MailOutcome),
            example="accepted",
        ),
    )
    code = fields.Integer(
        allow_none=True,
        metadata=documented("Reply code of the mail server; null if there was none.", example=250),
    )
    detail = fields.String(
        allow_none=True,
        metadata=documented("What the mail server said, or why it said nothing.", example="OK"),
    )


class MailSchema(AnswerSchema):
    """The mail that brings an invoice to its customer, and its attempts so far."""

    id = fields.String(
        metadata=documented("Id of the mail.", example="mail_019c13ec9ff47f3cb0d2a64e1b9c8d57")
    )
    message_id = fields.String(
        metadata=documented(
            "Its `Message-ID`, which is the same in every attempt.",
            example="<mail_019c13ec9ff47f3cb0d2a64e1b9c8d57@acme.example>",
        )
    )
    to = fields.String(
        attribute="recipient",
        metadata=documented("The address of the customer.", example="richie@example.com"),
    )
    subject = fields.String(
        metadata=documented("Its subject.", example="Invoice 2expen51ve: Expensive invoice")
    )
    status = fields.String(
        validate=validate.OneOf(STATUSES),
        metadata=documented(
            "`pending`: not handed over yet. `sent`: a mail server has it. `undeliverable`: "
            "refused for good, or deferred until the end of the retry schedule.",
            example="sent",
        ),
    )
    due_at = Instant(
        allow_none=True,
        metadata=documented(
            "When the next attempt is due; null if the mail is not pending.", example=None
        ),
    )
    created_at = Instant(
        metadata=documented("When it was written.", example="2026-01-31T12:00:00.010Z")
    )
    attempts = fields.List(
        fields.Nested(MailAttemptSchema),
        metadata=documented("The newest 100 attempts, in ascending order."),
    )


class MailListSchema(AnswerSchema):
    """The mails of an invoice, newest first."""

    items = fields.List(fields.Nested(MailSchema), metadata=documented("Newest first."))
