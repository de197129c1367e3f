"""Fields that marshmallow does not have, or has in a more lenient form than a contract needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from marshmallow import ValidationError, fields, validate

from schemas.money import CURRENCIES, is_amount, to_minor


class StrictBoolean(fields.Boolean):
    """JSON's `true` or `false`; marshmallow's own field takes 0, "yes" and "on" as well."""

    default_error_messages = {"invalid": "Must be true or false."}  # noqa: RUF012 -- read only

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> bool:
        if isinstance(value, bool):
            return value
        raise self.make_error("invalid", input=value)


class Text(fields.String):
    """
    A line of text: no control characters and no halves of surrogate pairs.

    Databases and URLs refuse those or change them; better to say so at once.
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
    An e-mail address, on one line.

    marshmallow's own field takes control characters between quotation marks.
    """


class WholeNumber(fields.Integer):
    """A whole number in ASCII digits; marshmallow's own field takes `5_0` and blanks."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        if isinstance(value, str) and not _DIGITS.fullmatch(value):
            raise self.make_error("invalid", input=value)
        number: int = super()._deserialize(value, attr, data, **kwargs)
        return number


_DIGITS = re.compile(r"-?[0-9]{1,18}", re.ASCII)


class InvoiceId(Text):
    """The caller's own id of an invoice; it becomes one segment of the callback's path."""

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
    The ISO 4217 code of a currency that has money in it.

    The document shows the form of a code only: a list of 165 would bury everything else.
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
"""Decimal digits that every double keeps."""


class Amount(fields.Field[int]):
    """
    An amount of money as text or JSON number, loaded as whole minor units.

    What it may look like depends on the `currency` that stands beside it.
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
            # That is a mistake of its own, told where it was made.
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
            # It may have been another number before it became a double.
            raise self.make_error("inexact")
        return text


class Instant(fields.AwareDateTime):
    """An RFC 3339 instant; taken with any offset, given in UTC to the millisecond."""

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
