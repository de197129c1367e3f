"""
The bodies of the invoice callback: what is sent to a receiver, and what it has to answer.

Both are open: a receiver ignores fields that it does not know, and so does the service in an
answer. If they were closed, a field that is added later would break every strict receiver.
"""

from marshmallow import EXCLUDE, Schema, ValidationError, fields

from schemas.documented import documented
from schemas.fields import StrictBoolean
from schemas.flat import FlatSchema


class InvoiceEventSchema(FlatSchema):
    """Something that happened to an invoice."""

    class Meta:
        """Open: fields that are not declared are ignored."""

        unknown = EXCLUDE

    description = fields.String(
        required=True,
        metadata=documented("What happened, in words for people.", example="Invoice paid"),
    )
    paid = StrictBoolean(
        required=True, metadata=documented("Whether the invoice is paid.", example=True)
    )


class InvoiceNotificationSchema(InvoiceEventSchema):
    """An event, and the invoice that it is about."""

    invoice_id = fields.String(
        required=True,
        metadata=documented(
            "The `id` of the invoice, as in the path. The signature covers the body and not the "
            "path: refuse an event whose path has another id.",
            example="2expen51ve",
            # The field repeats this parameter of the path.
            **{"x-path-parameter": "id"},
        ),
    )
    test = StrictBoolean(
        metadata=documented(
            "True for a test event, which was asked for by hand and is about no invoice: "
            "acknowledge it, and do nothing else. Absent from every other event.",
            optional=True,
        )
    )


def _check_true(ok: bool) -> None:
    """Not `validate.Equal(True)`: the document would show an enum, which is no boolean in Java."""
    if not ok:
        raise ValidationError("Must be true.")


class InvoiceEventReceivedSchema(Schema):
    """The acknowledgement of an event."""

    class Meta:
        """Open: fields that are not declared are ignored."""

        unknown = EXCLUDE

    ok = StrictBoolean(
        required=True,
        validate=_check_true,
        metadata=documented(
            "Always true: you have stored the event, and it is not sent again. After false it is "
            "sent again.",
            example=True,
        ),
    )
