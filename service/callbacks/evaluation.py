"""
Makes the URL of a callback from the values of an exchange.

OpenAPI does not say how a value becomes part of a URL. The rule here: the value that a URL begins
with is the caller's own URL, and is used unchanged; any other value is data, and is
percent-encoded, so that it stays in the part of the URL where the declaration puts it.

Every request with a callback is evaluated here, so what depends on the template alone is computed
once, when it is declared.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from service.callbacks.exchange import Exchange
from service.callbacks.expression import Expression, Query, Template
from service.callbacks.url import MAX_CHARACTERS, CallbackUrl, parse_url, percent_encoded
from service.errors import EvaluationError


class Evaluator:
    """
    Makes URLs out of one *template* and the values of many exchanges.

    *declared* is the template as its author wrote it; errors name it if the template does not begin
    with an expression.
    """

    __slots__ = (
        "_continuation",
        "_error_name",
        "_inner_parts",
        "_is_in_path",
        "_is_valid_after_any_base",
        "_leading",
        "_parts",
    )

    def __init__(self, template: Template, declared: str) -> None:
        self._parts = template.parts
        self._leading = template.leading
        self._error_name = str(self._leading) if self._leading else declared
        self._continuation = _continuation(template)
        self._is_valid_after_any_base = _is_valid_after_any_base(template, self._continuation)
        self._is_in_path = tuple(_places(template.parts))
        self._inner_parts = tuple(_parts_inside_segments(template.parts, self._is_in_path))

    def url_for(self, exchange: Exchange) -> CallbackUrl | None:
        """
        The URL to call for what happened in *exchange*.

        Returns:
            None where the value that the URL begins with was not sent.

        Raises:
            EvaluationError: where the values do not make a URL that may be called.
        """
        base, beginning, pieces = None, "", list[str]()
        if self._leading:
            try:
                value = self._leading.value(exchange)
            except EvaluationError as error:
                if error.is_absent:
                    return None
                raise
            base, beginning = self._beginning(value)
            pieces.append(beginning)
        for index in range(len(pieces), len(self._parts)):
            part = self._parts[index]
            if not isinstance(part, str):
                part = _encoded(part, part.value(exchange), self._is_in_path[index])
            pieces.append(part)
        text = self._joined(pieces)
        if base and self._is_valid_after_any_base:
            # What follows the base begins with a slash: scheme, host and port do not change.
            url = CallbackUrl(text, base.scheme, base.host, base.port, beginning)
        else:
            url = replace(self._parsed(text), base=beginning)
        if self._inner_parts:
            self._refuse_composed_dots(pieces)
        return url

    def _beginning(self, value: object) -> tuple[CallbackUrl | None, str]:
        """The leading *value* as a URL, None if nothing follows it; and the text to append to."""
        if not isinstance(value, str):
            reason = f"must be a string that holds a URL, not {_kind(value)}"
            raise EvaluationError(self._error_name, reason)
        if self._continuation is None:
            return None, value
        if "?" in value or "#" in value:
            reason = (
                "must not have a query (?) or a fragment (#), because more is put behind it; what"
                " your API has to recognise, such as a token, can stand in the path:"
                " https://api.example.com/TOKEN"
            )
            raise EvaluationError(self._error_name, reason)
        text = value.removesuffix("/") if self._continuation.startswith("/") else value
        return self._parsed(value), text

    def _parsed(self, text: str) -> CallbackUrl:
        try:
            return parse_url(text)
        except ValueError as error:
            reason = f"makes no URL that can be called: {error}"
            if isinstance(self._leading, Query) and " " in text:
                reason += "; in a query, + stands for a blank: write %2B for a +"
            raise EvaluationError(self._error_name, reason) from None

    def _joined(self, pieces: Sequence[str]) -> str:
        """The text of *pieces*; if that is too long, the longest of their values is refused."""
        text = "".join(pieces)
        if len(text) <= MAX_CHARACTERS:
            return text
        values = [
            (len(piece), str(part))
            for part, piece in zip(self._parts, pieces, strict=True)
            if not isinstance(part, str)
        ]
        length, expression = max(values, default=(0, self._error_name))
        reason = (
            f"takes {length} characters of the callback URL when it is percent-encoded,"
            f" and makes that URL longer than {MAX_CHARACTERS} characters"
        )
        raise EvaluationError(expression, reason)

    def _refuse_composed_dots(self, pieces: Sequence[str]) -> None:
        """
        Refuse a path segment "." or ".." that several pieces make together.

        A server or proxy on the way may resolve it, and the call would reach another path.
        """
        path = "".join(pieces).partition("?")[0]
        offsets = tuple(accumulate(map(len, pieces), initial=0))
        for index in self._inner_parts:
            offset = offsets[index]
            start, end = path.rfind("/", 0, offset) + 1, path.find("/", offset)
            segment = path[start:] if end < 0 else path[start:end]
            if start < offset < start + len(segment) and _is_dots(segment):
                part = self._parts[index]
                expression = self._parts[index - 1] if isinstance(part, str) else part
                reason = f'must not make a "{segment}" of a part of the callback URL\'s path'
                raise EvaluationError(str(expression), reason)


# --- Properties of the template alone.


def _continuation(template: Template) -> str | None:
    """The literal text after the leading expression, perhaps empty; None if nothing follows."""
    following = template.parts[1:2]
    if not following:
        return None
    return following[0] if isinstance(following[0], str) else ""


def _is_valid_after_any_base(template: Template, continuation: str | None) -> bool:
    """Whether every valid value of the leading expression makes a valid URL with what follows."""
    if not continuation or not continuation.startswith("/"):
        return False
    try:
        parse_url(
            "http://h" + "".join(one if isinstance(one, str) else "x" for one in template.parts[1:])
        )
    except ValueError:
        return False
    return True


def _places(parts: Sequence[str | Expression]) -> Iterator[bool]:
    """For each part, whether it begins before the query and the fragment of the URL."""
    is_in_path = True
    for part in parts:
        yield is_in_path
        if isinstance(part, str):
            is_in_path = is_in_path and "?" not in part and "#" not in part


def _parts_inside_segments(
    parts: Sequence[str | Expression], is_in_path: Sequence[bool]
) -> Iterator[int]:
    """
    The indices of the parts that may begin inside a path segment.

    Every other value is one whole segment: a slash or the end of the path is on both sides.
    """
    for index, (left, right) in enumerate(pairwise(parts), start=1):
        is_after_slash = isinstance(left, str) and left.endswith("/")
        is_before_end = isinstance(right, str) and right.startswith(("/", "?"))
        if is_in_path[index] and not is_after_slash and not is_before_end:
            yield index


# --- The text of one value.


def _encoded(expression: Expression, value: object, is_in_path: bool) -> str:
    text = value if isinstance(value, str) else _json_text(expression, value)
    if is_in_path and text in _NOT_IN_PATH:
        raise EvaluationError(str(expression), _NOT_IN_PATH[text])
    try:
        return percent_encoded(text)
    except UnicodeEncodeError:
        reason = "holds half of a surrogate pair, which is not a character"
        raise EvaluationError(str(expression), reason) from None


def _json_text(expression: Expression, value: object) -> str:
    if isinstance(value, bool | int | float):
        try:
            return json.dumps(value, allow_nan=False)
        except ValueError:
            raise EvaluationError(str(expression), "is not a number that JSON has") from None
    reason = f"must be a string, a number or a boolean to be part of a URL, not {_kind(value)}"
    raise EvaluationError(str(expression), reason)


_NOT_IN_PATH = {
    "": "must not be empty, because it is part of the callback URL's path",
    ".": 'must not be ".", because it is part of the callback URL\'s path',
    "..": 'must not be "..", because it is part of the callback URL\'s path',
}


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return next((kind for type_, kind in _KINDS if isinstance(value, type_)), "this")


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "a boolean"),
    (int, "a number"),
    (float, "a number"),
    (list, "an array"),
    (Mapping, "an object"),
)


def _is_dots(segment: str) -> bool:
    return segment.lower().replace("%2e", ".") in (".", "..")
