"""Refunds, as the API accepts and returns them."""

from marshmallow import EXCLUDE, RAISE, Schema, fields, validate

from schemas.answer import AnswerSchema
from schemas.documented import documented
from schemas.fields import AmountText
from schemas.money import AMOUNT_FORMS
from service.domain.payment import RefundStatus

REFUND_EXAMPLE = {"amount": "99.00"}

STATUSES = tuple(status.value for status in RefundStatus)


class RefundRequestSchema(Schema):
    """What to give back; the body may be left out."""

    is_optional = True

    class Meta:
        """Closed: an undeclared field is refused, because it is probably a misspelled name."""

        unknown = RAISE

    amount = AmountText(
        allow_none=True,
        load_default=None,
        metadata=documented(
            "How much to give back, in the currency of the invoice. Without it, all that is left. "
            "What was paid beyond the total is given back first.",
            example="99.00",
            anyOf=[*AMOUNT_FORMS, {"type": "null"}],
        ),
    )


class IdempotencyKeySchema(Schema):
    """The header that makes a refund happen once."""

    class Meta:
        """A request has other headers as well."""

        unknown = EXCLUDE

    idempotency_key = fields.String(
        required=True,
        data_key="Idempotency-Key",
        validate=validate.Regexp(r"^[!-~]{1,255}$", error="Must have 1 to 255 visible characters."),
        metadata=documented(
            "Your name of this refund: sent again with the same one, it is made once.",
            example="refund-of-2expen51ve",
        ),
    )


class RefundSchema(AnswerSchema):
    """A refund that was asked for."""

    id = fields.String(metadata=documented("Its id.", example="ref_01a206a97e6d7ba28f2f"))
    amount = fields.String(
        metadata=documented("How much is given back, as decimal text.", example="99.00")
    )
    status = fields.String(
        validate=validate.OneOf(STATUSES),
        metadata=documented(
            "`pending`: it is on its way. `succeeded`, `failed`: it has ended; the same request "
            "with the same key tells.",
            example="pending",
        ),
    )


class WebhookTakenSchema(AnswerSchema):
    """A webhook that was taken."""

    received = fields.Boolean(metadata=documented("Always true.", example=True))


class CollectorPathSchema(Schema):
    """The path parameter of the webhooks of one account."""

    account_id = fields.String(
        required=True,
        metadata=documented("The id of the account.", example="acct_01a20623f06475d0aa96f47b44a1"),
    )
