"""Problem documents (RFC 9457): the form of every error of the API."""

from marshmallow import fields, validate

from schemas.answer import AnswerSchema
from schemas.documented import documented


class FieldErrorSchema(AnswerSchema):
    """One error in the request."""

    location = fields.String(
        validate=validate.OneOf(("body", "query", "path", "header")),
        metadata=documented(example="body"),
    )
    pointer = fields.String(
        metadata=documented("A JSON Pointer into that location.", example="/total")
    )
    message = fields.String(metadata=documented(example="Must be more than zero."))


class ProblemSchema(AnswerSchema):
    """Why a request failed."""

    type = fields.String(
        metadata=documented(
            "Identifies the kind of problem. Stable: programs can rely on it.",
            format="uri-reference",
            example="/api/docs/problems#invalid-input",
        )
    )
    title = fields.String(
        metadata=documented("The kind of problem in words.", example="Invalid input")
    )
    status = fields.Integer(
        metadata=documented("The HTTP status code of the response.", example=422)
    )
    detail = fields.String(
        metadata=documented(
            "What is wrong with this request.", example="The request has fields that are not valid."
        )
    )
    errors = fields.List(
        fields.Nested(FieldErrorSchema),
        metadata=documented(
            "The field errors of the request, at most 20; only for invalid input.", optional=True
        ),
    )
