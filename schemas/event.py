"""
What a receiver is sent when something happens to an invoice, and what it has to answer.

Both are open: a receiver ignores fields that it does not know, and so do we in its answer.
Were they closed, a field added later would break every strict receiver.
"""

from __future__ import annotations

from marshmallow import EXCLUDE, Schema, fields, validate

from schemas.fields import StrictBoolean


class InvoiceEventSchema(Schema):
    """Something that happened to an invoice."""

    class Meta:
        """Open: fields that are not declared are ignored."""

        unknown = EXCLUDE

    description = fields.String(
        required=True,
        metadata={
            "description": "What happened, in words for people.",
            "example": "Invoice paid",
        },
    )
    paid = StrictBoolean(
        required=True,
        metadata={
            "description": "Whether the invoice is paid.",
            "example": True,
        },
    )


class InvoiceEventReceivedSchema(Schema):
    """The acknowledgement of an event."""

    class Meta:
        """Open: fields that are not declared are ignored."""

        unknown = EXCLUDE

    ok = StrictBoolean(
        required=True,
        # A false here says that the event was not taken, so the event has to come again.
        validate=validate.Equal(True, error="Must be true."),
        metadata={
            "description": "True once the event is safely yours: it will not be sent again.",
            "example": True,
        },
    )
