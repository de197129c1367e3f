"""Listeners, as the API takes and returns them."""

import binascii
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate, validates_schema

from schemas.answer import AnswerSchema
from schemas.documented import documented
from schemas.fields import Instant, Text, WholeNumber
from service.domain.listening import LISTENER_NAME, ListenerFailure

FAILURES = tuple(failure.value for failure in ListenerFailure)
HEADERS_MAX = 64
HEADER_CHARACTERS_MAX = 4096
NUMBER_MAX = 2**31 - 1


class ListenerPathSchema(Schema):
    """The path parameter of a listener."""

    name = Text(
        required=True,
        validate=validate.Regexp(
            f"^{LISTENER_NAME}$",
            error="Must be 1 to 64 lower-case letters, digits and hyphens, no hyphen first.",
        ),
        metadata=documented(
            "Name of the listener: what follows `/listen/` in its callback URL.", example="laptop"
        ),
    )


class ListenerDeliveryPathSchema(ListenerPathSchema):
    """The path parameters of a delivery to a listener."""

    id = Text(
        required=True,
        validate=validate.Length(min=1, max=200),
        metadata=documented(
            "Id of the delivery: the `id` of the event.",
            example="msg_019c13ec9ff47f3cb0d2a64e1b9c8d57",
        ),
    )


class ListenerAttemptPathSchema(ListenerDeliveryPathSchema):
    """The path parameters of an attempt that a listener works on."""

    attempt = WholeNumber(
        required=True,
        validate=validate.Range(1, NUMBER_MAX),
        metadata=documented("Number of the attempt: the `attempt` of the event.", example=1),
    )


class StreamQuerySchema(Schema):
    """The query parameters of the connection of a listener."""

    class Meta:
        """Closed: an undeclared parameter is refused, because it is probably a misspelled name."""

        unknown = RAISE

    acknowledge = fields.String(
        load_default="false",
        validate=validate.OneOf(("true", "false")),
        metadata=documented(
            "`true`: the listener acknowledges events, and one that does not arrive costs no "
            "attempt. Without that, an event counts as arrived while the connection is open.",
            example="true",
        ),
    )
    replaces = Text(
        load_default="",
        validate=validate.Length(max=200),
        metadata=documented("The `stream` of the connection that this listener has lost."),
    )


class ArrivedEventsSchema(Schema):
    """Which events of a connection have arrived."""

    class Meta:
        """Closed: an undeclared field is refused, because it is probably a misspelled name."""

        unknown = RAISE

    stream = Text(
        required=True,
        validate=validate.Length(min=1, max=200),
        metadata=documented(
            "The `stream` of the event `connected`.", example="019c13ec9ff47f3cb0d2a64e1b9c8d57"
        ),
    )
    event = fields.Integer(
        required=True,
        strict=True,
        validate=validate.Range(1, NUMBER_MAX),
        metadata=documented("The `id` of the last event that has arrived.", example=7),
    )


class ListenerAnswerSchema(Schema):
    """What the local server of a listener answered, or why it did not."""

    class Meta:
        """Closed: an undeclared field is refused, because it is probably a misspelled name."""

        unknown = RAISE

    status = fields.Integer(
        strict=True,
        validate=validate.Range(200, 599),
        metadata=documented("Status of the answer, if there was one.", example=200),
    )
    headers = fields.Dict(
        keys=Text(validate=validate.Length(min=1, max=200)),
        values=Text(validate=validate.Length(max=HEADER_CHARACTERS_MAX)),
        load_default=dict,
        validate=validate.Length(max=HEADERS_MAX),
        metadata=documented("Headers of the answer.", example={"Content-Type": "application/json"}),
    )
    body_base64 = fields.String(
        load_default="",
        metadata=documented(
            "Body of the answer in Base64: of a longer one, its first 65,537 bytes, from which the "
            "service sees that it is too long.",
            example="eyJvayI6IHRydWV9",
        ),
    )
    failure = fields.String(
        validate=validate.OneOf(FAILURES),
        metadata=documented(
            "Instead of `status`, if there was no answer. `unreachable`: no connection, or it was "
            "lost. `timeout`: not complete in time. `malformed`: not valid HTTP. `too_long`: more "
            "than the listener reads.",
        ),
    )

    @validates_schema
    def _check(self, data: Mapping[str, Any], **_: Any) -> None:
        """Refuse what is neither an answer nor a failure."""
        if ("status" in data) == ("failure" in data):
            raise ValidationError("One of status and failure is needed.", "status")
        try:
            b64decode(data.get("body_base64", ""), validate=True)
        except (binascii.Error, ValueError):
            raise ValidationError("Must be Base64.", "body_base64") from None


class ListenKeySchema(AnswerSchema):
    """A key that permits nothing but to listen."""

    key = fields.String(
        metadata=documented("The key; it is shown once.", example="inl_qf3kq2vd_T5M…")
    )
    expires_at = Instant(
        metadata=documented("Until when it is valid.", example="2026-02-01T12:00:00.000Z")
    )
