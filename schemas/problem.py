"""Problem documents (RFC 9457): what every error of the API looks like."""

from __future__ import annotations

from marshmallow import fields, validate

from schemas.answer import AnswerSchema


class MistakeSchema(AnswerSchema):
    """One thing that is wrong with the request."""

    location = fields.String(
        validate=validate.OneOf(("body", "query", "path", "header")), metadata={"example": "body"}
    )
    pointer = fields.String(
        metadata={"description": "A JSON Pointer into that location.", "example": "/total"}
    )
    message = fields.String(metadata={"example": "Must be more than zero."})


class ProblemSchema(AnswerSchema):
    """Why a request was not answered as hoped."""

    type = fields.String(
        metadata={
            "description": "Names the kind of problem; stable, to program against.",
            "format": "uri-reference",
            "example": "/api/docs/problems#invalid-input",
        },
    )
    title = fields.String(
        metadata={"description": "The kind in words.", "example": "Invalid input"}
    )
    status = fields.Integer(metadata={"description": "The HTTP status, once more.", "example": 422})
    detail = fields.String(
        metadata={
            "description": "What happened this time.",
            "example": "The request was understood, but what it says cannot be accepted.",
        },
    )
    errors = fields.List(
        fields.Nested(MistakeSchema),
        metadata={
            "description": "For invalid input: everything that is wrong, at once.",
            "optional": True,
        },
    )
