"""The answer of a health check."""

from marshmallow import fields, validate

from schemas.answer import AnswerSchema
from schemas.documented import documented


class HealthSchema(AnswerSchema):
    """The check passed; a failed check is answered with a problem document."""

    status = fields.String(metadata=documented("Always `ok`.", example="ok"))


class ReadinessSchema(HealthSchema):
    """The service is ready; a service that is not is answered with a problem document."""

    mail = fields.String(
        validate=validate.OneOf(("ok", "paused")),
        metadata=documented(
            "`paused`: no mail leaves this process until the operator changes something, such as "
            "the password of the mail server. Invoices are accepted, collected and delivered.",
            example="ok",
        ),
    )
