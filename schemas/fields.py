"""Fields that marshmallow lacks, or that are stricter than those of marshmallow."""

import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from marshmallow import ValidationError, fields, missing, validate

from schemas.locales import DEFAULT_LOCALE, known_locale
from schemas.money import CURRENCIES, NOT_AN_AMOUNT, split_amount, to_minor


def is_blank(value: Any) -> bool:
    """Whether *value* is null, or text of invisible characters alone, such as U+200B."""
    if not isinstance(value, str):
        return value is None
    # Most texts begin with an ASCII letter or digit: one comparison decides.
    return not "!" <= value[:1] <= "~" and all(map(_is_invisible, value))


def _is_invisible(character: str) -> bool:
    return (
        character.isspace()
        or unicodedata.category(character) == "Cf"
        or _IGNORABLE.match(character) is not None
    )


# What Unicode calls Default_Ignorable_Code_Point, besides the format characters (category Cf), and
# the Braille pattern without dots.
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)


class _Validated(fields.Field[Any]):
    """
    A field without hooks (`pre_load`, `post_load`).

    Its only validator is called as it is: marshmallow makes one of all, each time.
    """

    def deserialize(self, value: Any, attr: Any = None, data: Any = None, **kwargs: Any) -> Any:
        """As every field does."""
        if value is None or value is missing:
            return super().deserialize(value, attr, data, **kwargs)
        loaded = self._deserialize(value, attr, data, **kwargs)
        if self.validators:
            self._validate(loaded)
        return loaded

    def _validate(self, value: Any) -> None:
        if len(self.validators) == 1:
            self.validators[0](value)
        else:
            super()._validate(value)


class StrictBoolean(fields.Boolean):
    """JSON `true` or `false`; the field of marshmallow also accepts 0, "yes" and "on"."""

    default_error_messages = {"invalid": "Must be true or false."}  # noqa: RUF012 -- read only

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> bool:
        if isinstance(value, bool):
            return value
        raise self.make_error("invalid", input=value)


class Text(_Validated, fields.String):
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
        text: str = (
            value if type(value) is str else super()._deserialize(value, attr, data, **kwargs)
        )
        refused = _REFUSED.search(text)
        if refused:
            raise self.make_error("surrogate" if refused[0] >= "\ud800" else "control")
        return text


_REFUSED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class EmailAddress(Text, fields.Email):
    """
    One e-mail address, of characters that can be seen.

    The field of marshmallow accepts control characters between quotation marks, and characters
    such as U+2028, which ends a line, and U+202E, which turns around what follows.
    """

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        if not text.isprintable():
            raise self.make_error("invalid", input=value)
        return text


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


class Currency(_Validated, fields.String):
    """
    The ISO 4217 code of a currency with minor units.

    The document shows only the pattern of a code: a list of 165 codes would be too long to read.
    """

    default_error_messages = {  # noqa: RUF012 -- read only
        "unknown": "Must be an ISO 4217 code such as USD.",
        "case": "Must be written in capitals: {code}.",
        "blanks": "Must be written without blanks: {code}.",
    }

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> str:
        if type(value) is str and value in CURRENCIES:
            return value
        code: str = super()._deserialize(value, attr, data, **kwargs)
        if code not in CURRENCIES:
            if (bare := code.strip()).upper() in CURRENCIES:
                raise self.make_error("case" if bare == code else "blanks", code=bare.upper())
            raise self.make_error("unknown")
        return code


DOUBLE_DIGITS = 15
"""The number of decimal digits that a double represents exactly."""


class Amount(_Validated, fields.Field[int]):
    """
    An amount of money as text or JSON number, loaded as whole minor units.

    The number of decimals that are allowed depends on the field `currency` of the same object.
    """

    default_error_messages = {  # noqa: RUF012 -- read only
        "invalid": NOT_AN_AMOUNT,
        "inexact": "Has more digits than a JSON number carries exactly; send it as a string.",
    }

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        text = self._text(value)
        currency = data.get("currency") if data else None
        try:
            whole, fraction = split_amount(text)
            if not isinstance(currency, str) or currency not in CURRENCIES:
                # The field `currency` reports this error.
                return 0
            minor = to_minor(text, currency)
        except ValueError as error:
            raise ValidationError(str(error)) from None
        self._check_exact(value, whole + fraction)
        return minor

    def _check_exact(self, value: Any, digits: str) -> None:
        if isinstance(value, float) and len(digits) > DOUBLE_DIGITS:
            # The JSON text may have been another number that was rounded to this double.
            raise self.make_error("inexact")

    def _text(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.make_error("invalid")
        # Without an exponent, however large or small it is.
        return f"{Decimal(str(value)):f}"


class AmountText(Amount):
    """An amount whose currency another object has, loaded as text."""

    def _deserialize(  # type: ignore[override]
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> str:
        text = self._text(value)
        try:
            whole, fraction = split_amount(text)
        except ValueError as error:
            raise ValidationError(str(error)) from None
        self._check_exact(value, whole + fraction)
        return text


class Locale(fields.String):
    """
    A language and perhaps a region, as a BCP 47 tag; the default becomes None, like a missing one.

    Loads into the form in which CLDR writes the tag, such as `de-CH`.
    """

    default_error_messages = {  # noqa: RUF012 -- read only
        "unknown": "Must be a BCP 47 tag of a known language and region, such as en or de-CH."
    }

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> Any:
        text: str = super()._deserialize(value, attr, data, **kwargs)
        tag = known_locale(text)
        if tag is None:
            raise self.make_error("unknown")
        return None if tag == DEFAULT_LOCALE else tag

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str:
        return value or DEFAULT_LOCALE


class Instant(fields.AwareDateTime):
    """
    An RFC 3339 instant: accepted with any offset, returned in UTC with milliseconds.

    In a query, a + that is not encoded means a blank: a blank before an offset is read as +. A leap
    second is read as the second behind it.
    """

    default_error_messages = {  # noqa: RUF012 -- read only
        "invalid": "Must be an instant such as 2026-01-31T12:00:00Z.",
        "invalid_awareness": "Must have an offset from UTC, such as the Z of 2026-01-31T12:00:00Z.",
        "range": "Must be in the years 1 to 9999 in UTC.",
    }

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> datetime:
        # What the parser of Python takes besides differs between its versions.
        match = _INSTANT.fullmatch(value.upper()) if isinstance(value, str) else None
        if not match:
            raise self.make_error("invalid", input=value, obj_type="instant")
        date, minute, second, offset = match.groups()
        is_leap = second is not None and second.startswith(":60")
        text = f"{date}T{minute}{':59' if is_leap else second or ''}{offset.replace(' ', '+')}"
        instant = super()._deserialize(text, attr, data, **kwargs)
        try:
            instant = instant.astimezone(UTC) + timedelta(seconds=is_leap)
        except OverflowError:
            raise self.make_error("range") from None
        if is_leap and instant.time() != time.min:
            # UTC has leap seconds at the end of a day.
            raise self.make_error("invalid", input=value, obj_type="instant")
        return instant

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str | None:
        if value is None:
            return None
        text: str = value.astimezone(UTC).isoformat(timespec="milliseconds")
        return text.removesuffix("+00:00") + "Z"


_INSTANT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2})(:[0-9]{2}(?:[.,][0-9]+)?)?"
    r"(Z|[ +-][0-9]{2}:?[0-9]{2}|)"
)
