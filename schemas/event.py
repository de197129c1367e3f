"""
The bodies of the invoice callback: what is sent to a receiver, and what it has to answer.

Both are open: a receiver ignores fields that it does not know, and so does the service in an
answer. If they were closed, a field that is added later would break every strict receiver.
"""

from marshmallow import EXCLUDE, Schema, fields, validate

from schemas.documented import documented
from schemas.fields import StrictBoolean


class InvoiceEventSchema(Schema):
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


class InvoiceEventReceivedSchema(Schema):
    """The acknowledgement of an event."""

    class Meta:
        """Open: fields that are not declared are ignored."""

        unknown = EXCLUDE

    ok = StrictBoolean(
        required=True,
        # With false the receiver says that it did not take the event: it is sent again.
        validate=validate.Equal(True, error="Must be true."),
        metadata=documented(
            "True once you have stored the event: it is not sent again.", example=True
        ),
    )
