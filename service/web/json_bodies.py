"""
Reads bodies as JSON, strictly by RFC 8259, and says what is wrong with a body that is not JSON.

A name that occurs twice in one object is refused: the standard does not define which value counts,
and parsers differ.
"""

import json
from codecs import BOM_UTF8
from collections import Counter
from typing import Any

import orjson
from aiohttp import web

from service.errors import MalformedRequest, UnsupportedMedia

KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
}
"""Type in Python -> what JSON calls the value; objects are not listed."""


async def read_json(request: web.Request, *, is_optional: bool = False) -> Any:
    """
    The body of *request*, parsed; without a body where one *is_optional*, an empty object.

    Raises:
        UnsupportedMedia: if it is not declared as JSON in UTF-8.
        MalformedRequest: if it is not JSON in UTF-8, or has a name twice in one object.
    """
    if is_optional and not await request.read():
        return {}
    if request.content_type != "application/json":
        raise UnsupportedMedia("The body must be sent as Content-Type: application/json.")
    if (request.charset or "utf-8").lower() not in {"utf-8", "utf8"}:
        raise UnsupportedMedia("JSON must be sent in UTF-8; no other charset is supported.")
    body = await request.read()
    if not body:
        raise MalformedRequest("The body is empty; a JSON object was expected.")
    try:
        parsed = orjson.loads(body)
        if _may_repeat_names(body, parsed):
            _READER.decode(body.decode())
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise MalformedRequest(_why_not_json(body, error)) from None
    return parsed


def _may_repeat_names(body: bytes, parsed: object) -> bool:
    """
    Whether *body* may have a name twice in one object, of which *parsed* has only the last value.

    False if all quotation marks in *body* belong to names and string values of *parsed*, as in
    nearly every body. Such a body is not read a second time: that takes ten times as long as
    orjson does.
    """
    if not isinstance(parsed, dict):
        return True
    strings = len(parsed) + [*map(type, parsed.values())].count(str)
    return body.count(b'"') != 2 * strings


def _read_object(pairs: list[tuple[str, Any]]) -> None:
    """
    Check that the names in *pairs* differ.

    Raises:
        MalformedRequest: if two are the same, because parsers differ in which value counts.
    """
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        ((name, _),) = Counter(names).most_common(1)
        shown = json.dumps(name[:100], ensure_ascii=False)
        raise MalformedRequest(f"The body has the name {shown} twice in one object: send it once.")


# Numbers are not converted, because only the names are checked.
_READER = json.JSONDecoder(object_pairs_hook=_read_object, parse_float=len, parse_int=len)


def _why_not_json(body: bytes, error: Exception) -> str:
    """What is wrong with *body*, at which reading stopped with *error*."""
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        return (
            f"The body is not in UTF-8: byte {wrong.start + 1} is 0x{body[wrong.start]:02X}."
            " Encode it as UTF-8, not as Latin-1 or UTF-16."
        )
    if body.startswith(BOM_UTF8):
        return "The body begins with a byte order mark (EF BB BF), which JSON must not have."
    if b"\0" in body[:4]:
        # ASCII text in UTF-16 or UTF-32 without a mark is valid UTF-8, every other byte of it zero.
        return "The body has zero bytes: encode it as UTF-8, not as UTF-16 or UTF-32."
    if isinstance(error, RecursionError):
        return "The body is nested too deeply."
    return f"The body is not JSON: {error}."
