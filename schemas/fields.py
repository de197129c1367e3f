"""Fields that marshmallow lacks, or that are stricter than those of marshmallow."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from marshmallow import ValidationError, fields, validate

from schemas.money import CURRENCIES, is_amount, to_minor


class StrictBoolean(fields.Boolean):
    """JSON `true` or `false`; the field of marshmallow also accepts 0, "yes" and "on"."""

    default_error_messages = {"invalid": "Must be true or false."}  # noqa: RUF012 -- read only

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> bool:
        if isinstance(value, bool):
            return value
        raise self.make_error("invalid", input=value)


class Text(fields.String):
    """
    Text without control characters and lone surrogates.

    Databases and URLs refuse or change such characters.
    """

    default_error_messages = {  # noqa: RUF012 -- read only
        "control": "Must not hold control characters.",
        "surrogate": "Must not hold half of a surrogate pair, which is not a character.",
    }

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> str:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        refused = _REFUSED.search(text)
        if refused:
            raise self.make_error("surrogate" if refused[0] >= "\ud800" else "control")
        return text


_REFUSED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class EmailAddress(Text, fields.Email):
    """
    An e-mail address on one line.

    The field of marshmallow accepts control characters between quotation marks.
    """


class WholeNumber(fields.Integer):
    """A whole number in ASCII digits; the field of marshmallow also accepts `5_0` and spaces."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        if isinstance(value, str) and not _DIGITS.fullmatch(value):
            raise self.make_error("invalid", input=value)
        number: int = super()._deserialize(value, attr, data, **kwargs)
        return number


_DIGITS = re.compile(r"-?[0-9]{1,18}", re.ASCII)


class InvoiceId(Text):
    """The id of an invoice, chosen by the API user; one segment of the path of the callback."""

    default_error_messages = {  # noqa: RUF012 -- read only
        "dots": 'Must not be "." or "..": no URL can carry them as one segment of its path.',
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(validate=validate.Length(min=1, max=200), **kwargs)

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        if text in {".", ".."}:
            raise self.make_error("dots")
        return text


class Currency(fields.String):
    """
    The ISO 4217 code of a currency with minor units.

    The document shows only the pattern of a code: a list of 165 codes would be too long to read.
    """

    default_error_messages = {  # noqa: RUF012 -- read only
        "unknown": "Must be an ISO 4217 code such as USD.",
    }

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> str:
        code: str = super()._deserialize(value, attr, data, **kwargs)
        if code not in CURRENCIES:
            raise self.make_error("unknown")
        return code


DOUBLE_DIGITS = 15
"""The number of decimal digits that a double represents exactly."""


class Amount(fields.Field[int]):
    """
    An amount of money as text or JSON number, loaded as whole minor units.

    The number of decimals that are allowed depends on the field `currency` of the same object.
    """

    default_error_messages = {  # noqa: RUF012 -- read only
        "invalid": 'Must be an amount such as "9999", "9999.00" or 9999.0.',
        "inexact": "Has more digits than a JSON number carries exactly; send it as a string.",
    }

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        text = self._text(value)
        if not is_amount(text):
            raise self.make_error("invalid")
        currency = data.get("currency") if data else None
        if not isinstance(currency, str) or currency not in CURRENCIES:
            # The field `currency` reports this error.
            return 0
        try:
            return to_minor(text, currency)
        except ValueError as error:
            raise ValidationError(str(error)) from None

    def _text(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.make_error("invalid")
        is_whole = isinstance(value, float) and value.is_integer()
        text = str(int(value)) if is_whole else str(value)
        if isinstance(value, float) and len(text.replace(".", "")) > DOUBLE_DIGITS:
            # The JSON text may have been another number that was rounded to this double.
            raise self.make_error("inexact")
        return text


class Instant(fields.AwareDateTime):
    """An RFC 3339 instant: accepted with any offset, returned in UTC with milliseconds."""

    default_error_messages = {  # noqa: RUF012 -- read only
        "invalid": "Must be an instant such as 2026-01-31T12:00:00Z.",
        "invalid_awareness": "Must have an offset from UTC, such as the Z of 2026-01-31T12:00:00Z.",
    }

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> datetime:
        instant = super()._deserialize(value, attr, data, **kwargs)
        try:
            return instant.astimezone(UTC)
        except OverflowError:
            raise self.make_error("invalid", input=value, obj_type="instant") from None

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        if value is None:
            return None
        text: str = value.astimezone(UTC).isoformat(timespec="milliseconds")
        return text.removesuffix("+00:00") + "Z"
