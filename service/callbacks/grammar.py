"""
The grammar of the runtime expressions: from text to the parsed forms.

A callback's URL is text with expressions in braces. Tools do not check such text, so an error in it
would be noticed only because callbacks do not arrive. Here it is parsed when it is declared,
exactly by the grammar, and every error points at the first character that no valid expression could
have there.

Source: OpenAPI Specification 3.0.4, 3.1.1 and 3.2, "Runtime Expressions"; names are *char* of
RFC 7159 section 7, tokens of RFC 7230 section 3.2.6, JSON Pointers of RFC 6901.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from service.callbacks.expression import (
    SIDES,
    SOURCES,
    WHOLE,
    Body,
    Expression,
    Header,
    Path,
    Query,
    Side,
    Template,
)
from service.callbacks.hints import hint_for
from service.errors import ExpressionError


def parse_expression(text: str) -> Expression:
    """
    Parse one bare expression, such as `$request.body#/id`.

    Raises:
        ExpressionError: where *text* is not exactly one expression of the grammar.
    """
    return _located(text, 0, len(text))


def parse_template(text: str) -> Template:
    r"""
    Parse a string in which expressions stand in braces, or which is one bare expression.

    The first `}` after a `{` always ends an expression; a `}` in a name is written `\u007d`.

    Raises:
        ExpressionError: where braces do not pair up or an expression does not parse; its
            position counts from the beginning of *text*.
    """
    if text.startswith("$") and "{" not in text and "}" not in text:
        return Template((parse_expression(text),))
    return Template(tuple(_parts(text)))


def _parts(text: str) -> Iterator[str | Expression]:
    at = 0
    while at < len(text):
        opening = text.find("{", at)
        literal_end = len(text) if opening < 0 else opening
        stray = text.find("}", at, literal_end)
        if stray >= 0:
            raise ExpressionError(text, stray, "a } without a { before it")
        if literal_end > at:
            yield text[at:literal_end]
        if opening < 0:
            return
        closing = text.find("}", opening)
        if closing < 0:
            raise ExpressionError(text, opening, "a { that no } closes")
        yield _located(text, opening + 1, closing)
        at = closing + 1


def _located(whole: str, start: int, end: int) -> Expression:
    """The expression that stands in *whole* from *start* to *end*."""
    text = whole[start:end]
    try:
        return _expression(text)
    except _Unexpected as error:
        position, hint = start + error.position, hint_for(text, _is_expression)
        raise ExpressionError(whole, position, error.reason, hint) from None


# --- The grammar. Each function reads *text* from *at* to its end, or raises _Unexpected.


class _Unexpected(Exception):
    """The character at *position* is one that no valid expression has there."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.position = position
        self.reason = reason


def _expression(text: str) -> Expression:
    keyword = _keyword(text, 0, (*WHOLE, *SIDES))
    if keyword in SIDES:
        return _source(text, len(keyword), SIDES[keyword])
    if len(text) > len(keyword):
        raise _Unexpected(len(keyword), f"expected nothing after {keyword}")
    return WHOLE[keyword]()


def _is_expression(text: str) -> bool:
    try:
        _expression(text)
    except _Unexpected:
        return False
    return True


def _source(text: str, at: int, side: Side) -> Expression:
    keyword = _keyword(text, at, tuple(SOURCES))
    return _READERS[SOURCES[keyword]](text, at + len(keyword), side)


def _keyword(text: str, at: int, keywords: Sequence[str]) -> str:
    for keyword in keywords:
        if text.startswith(keyword, at):
            return keyword
    # The characters that a keyword and the text have in common are valid; the next one is not.
    shared = max(_shared_length(keyword, text, at) for keyword in keywords)
    raise _Unexpected(at + shared, f"expected {_alternatives(keywords)}")


def _shared_length(keyword: str, text: str, at: int) -> int:
    pairs = zip(keyword, text[at : at + len(keyword)], strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), len(text) - at)


def _alternatives(keywords: Sequence[str]) -> str:
    *others, last = keywords
    return f"{', '.join(others)} or {last}"


def _header(text: str, at: int, side: Side) -> Header:
    end = _match_end(_TCHARS, text, at)
    if end < len(text):
        raise _Unexpected(end, "expected a character that a header name may have")
    if end == at:
        raise _Unexpected(at, "expected the name of a header")
    return Header(side, text[at:].lower())


def _query(text: str, at: int, side: Side) -> Query:
    return Query(side, _name(text, at))


def _path(text: str, at: int, side: Side) -> Path:
    return Path(side, _name(text, at))


def _body(text: str, at: int, side: Side) -> Body:
    if at == len(text) or text[at:] == "#":
        return Body(side)
    if text[at] != "#":
        raise _Unexpected(at, "expected the end, or # and a JSON Pointer")
    if text[at + 1] != "/":
        raise _Unexpected(at + 1, "expected the end, or a JSON Pointer, which begins with /")
    for tilde in re.finditer("~", text[at:]):
        if text[at + tilde.end() : at + tilde.end() + 1] not in ("0", "1"):
            raise _Unexpected(at + tilde.end(), "expected 0 or 1 after ~ in a JSON Pointer")
    return Body(side, tuple(_unescaped_token(token) for token in text[at + 2 :].split("/")))


def _name(text: str, at: int) -> str:
    raw = text[at:]
    while (at := _match_end(_UNESCAPED, text, at)) < len(text):
        at = _escape_end(text, at)
    return _joined_surrogates(json.loads(f'"{raw}"'))


def _escape_end(text: str, at: int) -> int:
    """Where the JSON escape that begins at *at* ends."""
    if text[at] != "\\":
        reason = 'expected a character of a name; " and control characters need a JSON escape'
        raise _Unexpected(at, reason)
    letter = text[at + 1 : at + 2]
    if letter == "u":
        digits_end = _match_end(_HEX, text, at + 2)
        if digits_end == at + 6:
            return digits_end
        raise _Unexpected(digits_end, "expected four hexadecimal digits after \\u")
    if not letter or letter not in '"\\/bfnrt':
        raise _Unexpected(at + 1, 'expected one of " \\ / b f n r t u after \\')
    return at + 2


# Each pattern repeats one class of characters, so none of them can backtrack.
_TCHARS = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]*")
_UNESCAPED = re.compile(r'[^\x00-\x1f"\\]*')
_HEX = re.compile(r"[0-9A-Fa-f]{0,4}")


def _match_end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


_READERS: Mapping[type[Expression], Callable[[str, int, Side], Expression]] = {
    Header: _header,
    Query: _query,
    Path: _path,
    Body: _body,
}


def _unescaped_token(token: str) -> str:
    # In this order: `~01` stands for `~1`, not for a slash.
    return token.replace("~1", "/").replace("~0", "~")


def _joined_surrogates(name: str) -> str:
    """One character for each surrogate pair, however its halves were written."""
    if not _SURROGATE.search(name):
        return name
    return name.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


_SURROGATE = re.compile(r"[\ud800-\udfff]")
