"""The answer of a health check."""

from marshmallow import fields

from schemas.answer import AnswerSchema
from schemas.documented import documented


class HealthSchema(AnswerSchema):
    """The check passed; a failed check is answered with a problem document."""

    status = fields.String(metadata=documented(example="ok"))
