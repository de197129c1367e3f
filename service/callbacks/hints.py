"""
Suggestions for an expression that does not parse.

A few errors are common: a missing dollar sign, `$request.body.id`, a name without a source. Each
repair rewrites one of them, and a repaired text is suggested only if it parses.
"""

from collections.abc import Callable
from difflib import get_close_matches

from service.callbacks.expression import SIDES, SOURCES, WHOLE


def hint_for(text: str, is_expression: Callable[[str], bool]) -> str | None:
    """The expression that *text* was probably meant to be, if a repair makes it one."""
    begun = text if text.startswith("$") else "$" + text
    for repair, advice in _REPAIRS:
        repaired = repair(begun)
        if repaired and is_expression(repaired):
            return f"Did you mean {{{repaired}}}? {advice}"
    return None


def _as_it_is(text: str) -> str:
    """Repair `url` and `request.body`, which miss nothing but the dollar sign."""
    return text


def _in_right_case(text: str) -> str:
    """Repair `$URL` and `$Request.Query.name`."""
    for keywords, at in (((*WHOLE, *SIDES), 0), (tuple(SOURCES), text.find(".") + 1)):
        for keyword in keywords:
            if text[at : at + len(keyword)].lower() == keyword.lower():
                text = text[:at] + keyword + text[at + len(keyword) :]
                break
    return text


def _with_pointer(text: str) -> str | None:
    """Repair `$request.body.id`, `$request.body/id` and `$request.body#id`."""
    head, body, tail = _in_right_case(text).partition(".body")
    if not tail or tail[0] not in ".#/":
        return None
    steps = tail.lstrip(".#/")
    if tail[0] == "." and "/" not in steps:
        steps = steps.replace(".", "/")
    return f"{head}{body}#/{steps}"


def _with_nearest_source(text: str) -> str | None:
    """Repair `$request.headers.accept` and `$request.querystring.id`."""
    side, _, tail = text.partition(".")
    source, dot, name = tail.partition(".")
    nearest = get_close_matches(source[:_WORD].lower(), ("header", "query", "path"), n=1)
    return f"{side}.{nearest[0]}.{name}" if dot and nearest else None


def _with_nearest_word(text: str) -> str | None:
    """Repair `$status_code`."""
    nearest = get_close_matches(text[:_WORD], tuple(WHOLE), n=1, cutoff=0.8)
    return nearest[0] if nearest else None


def _with_source(text: str) -> str | None:
    """Repair `$callback_url`, `callback_url` and `$request.callback_url`."""
    name = text.removeprefix("$").removeprefix("request.")
    is_name = name.isascii() and name.replace("-", "_").isidentifier()
    return f"$request.query.{name}" if is_name and name not in _WORDS else None


# Longer than any word of the grammar; comparing by likeness takes time squared.
_WORD = 16
_WORDS = {"request", "response", "header", "query", "path", "body"}

# Tried in this order.
_REPAIRS: tuple[tuple[Callable[[str], str | None], str], ...] = (
    (_as_it_is, "An expression begins with $."),
    (_in_right_case, "The words of an expression are case-sensitive."),
    (_with_pointer, "A JSON Pointer into a body is # and then steps that begin with /."),
    (_with_nearest_source, "The sources are header, query, path and body."),
    (_with_nearest_word, "The words without a source are $url, $method and $statusCode."),
    (_with_source, "A value has a source: query, path, header, or body as in $request.body#/id."),
)
