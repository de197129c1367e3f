"""
The expression of a callback turned round: where a receiver has to listen.

What a URL begins with is the receiver's own choice, and becomes its server. What follows is the
same for every receiver, and becomes a path with parameters and, behind a question mark, query
parameters. The rule holds for every expression that can make a URL; of any other one it says why
there is none.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_plus

from service.callbacks.declaration import Callback
from service.callbacks.expression import (
    Body,
    Expression,
    Header,
    Method,
    Path,
    Query,
    StatusCode,
    Template,
)
from service.callbacks.url import parse_url
from service.errors import DeclarationError

Parts = tuple[str | Expression, ...]
"""Literal text and expressions, in order."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A named part of the URL that differs from call to call: *parts* make its value."""

    name: str
    parts: Parts


@dataclass(frozen=True, slots=True)
class QueryParameter:
    """A parameter of the query; *values* holds what it is sent with, in order."""

    name: str
    values: tuple[Parts, ...]


@dataclass(frozen=True, slots=True)
class ReceiverAddress:
    """
    Where a receiver listens for a callback.

    *server* and *path* are templates of OpenAPI; the names in their braces are those of
    *server_variables* and *path_variables*. *base* is the expression that brings the receiver's own
    URL, None where the declaration names the server; *base_end* is what that URL has to end with.
    """

    server: str
    server_variables: tuple[Variable, ...]
    path: str
    path_variables: tuple[Variable, ...]
    query: tuple[QueryParameter, ...]
    base: Expression | None
    base_end: str


def address_of(callback: Callback, below: str = "") -> ReceiverAddress:
    """
    Turn the expression of *callback* round.

    *below* is a path that the receiver puts in front, which only its own URL can have.

    Raises:
        DeclarationError: the expression never makes a URL that is called, or one that a document
            cannot describe.
    """
    template = callback.template
    if reason := _unusable(template):
        raise DeclarationError(f"Callback {callback.name}: {reason}")
    server, target = _split_server(template)
    target_path, query_text = _cut(target, "?")
    names = _Names(one.name for one in callback.headers)
    server_variables, server_text = _named(server, names)
    # What follows the receiver's own URL has to begin a segment of the path.
    needs_slash = not _starts_with_slash(target_path) and bool(target_path or not below)
    slash = "/" if needs_slash else ""
    path_variables, path = _named(target_path, names)
    try:
        query = tuple(_query_parameters(query_text or ()))
    except ValueError as error:
        raise DeclarationError(f"Callback {callback.name}: {error}") from None
    base = template.leading
    return ReceiverAddress(
        server=server_text,
        server_variables=server_variables,
        path=f"{below}{slash}{path}",
        path_variables=path_variables,
        query=query,
        base=base,
        base_end=f"{below}{slash}" if base else "",
    )


# --- What cannot be turned round.


def _unusable(template: Template) -> str | None:
    """Why no URL is ever made of *template*; None if there can be one."""
    for expression in template.expressions:
        if isinstance(expression, StatusCode) or getattr(expression, "side", "") == "response":
            return f"{expression} is not known when the URL is made."
    if isinstance(template.leading, Method):
        return "$method is never the beginning of a URL."
    try:
        parse_url("".join(_sample(template.parts)))
    except ValueError as error:
        return f"{template} never makes a URL that is called: {error}."
    return None


def _sample(parts: Parts) -> Iterator[str]:
    """The pieces of a URL that *parts* can make: a number where a port is."""
    text = ""
    for index, part in enumerate(parts):
        if isinstance(part, str):
            piece = part
        elif index == 0:
            piece = "http://x" if _starts_with_slash(parts[1:]) else "http://x/"
        else:
            authority = text.partition("://")[2]
            piece = "1" if ":" in authority and "/" not in authority else "x"
        text += piece
        yield piece


# --- The parts of a URL.


def _split_server(template: Template) -> tuple[Parts, Parts]:
    """The parts of *template* that are the server, and those behind it."""
    if template.leading:
        return template.parts[:1], template.parts[1:]
    scheme, separator, first = str(template.parts[0]).partition("://")
    server, target = _cut((first, *template.parts[1:]), "/?", keep=True)
    return (f"{scheme}{separator}", *server), target or ()


def _cut(parts: Parts, characters: str, *, keep: bool = False) -> tuple[Parts, Parts | None]:
    """*parts* before and after the first of *characters* in a literal; None if there is none."""
    for index, part in enumerate(parts):
        found = re.search(f"[{characters}]", part) if isinstance(part, str) else None
        if found and isinstance(part, str):
            before = (*parts[:index], part[: found.start()])
            after = (part[found.start() if keep else found.end() :], *parts[index + 1 :])
            return _without_empty(before), _without_empty(after)
    return _without_empty(parts), None


def _starts_with_slash(parts: Parts) -> bool:
    return bool(parts) and str(parts[0]).startswith("/")


def _without_empty(parts: Parts) -> Parts:
    return tuple(part for part in parts if part)


def _named(parts: Parts, names: "_Names") -> tuple[tuple[Variable, ...], str]:
    """*parts* as text with names in braces, and the variables of these names."""
    variables, text = [], ""
    for part in _grouped(parts):
        if isinstance(part, str):
            text += part
        else:
            variables.append(Variable(names.new(part), part))
            text += f"{{{variables[-1].name}}}"
    return tuple(variables), text


def _grouped(parts: Parts) -> Iterator[str | tuple[Expression, ...]]:
    """*parts* with adjacent expressions in one group: no router can tell their values apart."""
    group: tuple[Expression, ...] = ()
    for part in parts:
        if isinstance(part, str):
            if group:
                yield group
            group = ()
            yield part
        else:
            group = (*group, part)
    if group:
        yield group


def _query_parameters(parts: Parts) -> Iterator[QueryParameter]:
    """
    The parameters of the query that *parts* make, each name once.

    Raises:
        ValueError: a name is not literal.
    """
    values: dict[str, list[Parts]] = {}
    rest: Parts | None = parts
    while rest is not None:
        one, rest = _cut(rest, "&")
        if one:
            name, value = _cut(one, "=")
            if not all(isinstance(part, str) for part in name):
                text = Template(one)
                raise ValueError(f"{text} is in the query and has no literal name before a =.")
            key = unquote_plus("".join(map(str, name)))
            values.setdefault(key, []).append(value or ())
    for key, all_values in values.items():
        yield QueryParameter(key, tuple(all_values))


# --- Names.


class _Names:
    """Names for variables, no two of which are equal when case is ignored."""

    def __init__(self, taken: Iterator[str]) -> None:
        self._taken = {name.lower() for name in taken}

    def new(self, expressions: Sequence[Expression]) -> str:
        """A name for the value of *expressions*, made of their last words."""
        wanted = "_".join(map(_word, expressions))
        name, number = wanted, 1
        while name.lower() in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name.lower())
        return name


def _word(expression: Expression) -> str:
    """The last word of *expression*, as far as the name of a parameter can have it."""
    match expression:
        case Body(_, pointer):
            # A number alone would be an index without the name of its list.
            start = next((i for i in range(len(pointer) - 1, 0, -1) if not pointer[i].isdigit()), 0)
            words = pointer[start:] or ("body",)
        case Query(_, name) | Path(_, name) | Header(_, name):
            words = (name,)
        case _:
            words = (str(expression).strip("$"),)
    word = re.sub("[^A-Za-z0-9_-]+", "_", "_".join(words)).strip("_-")
    return word if re.match("[A-Za-z]", word) else f"value_{word}".rstrip("_")
