"""
The runtime expressions of OpenAPI, parsed: what each form means in one exchange.

str() of a form is its canonical text. value() is the value that it refers to, in the type that was
sent; if the value was not sent, it raises EvaluationError with *is_absent*.

Source: OpenAPI Specification 3.0.4, 3.1.1 and 3.2, "Runtime Expressions"; JSON Pointers of
RFC 6901.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from service.callbacks.exchange import ABSENT, Exchange, Message
from service.errors import EvaluationError

Side: TypeAlias = Literal["request", "response"]


@dataclass(frozen=True, slots=True)
class Url:
    """`$url`."""

    def __str__(self) -> str:
        return "$url"

    def value(self, exchange: Exchange) -> object:
        """The URL of the request, as it was sent."""
        return exchange.url


@dataclass(frozen=True, slots=True)
class Method:
    """`$method`."""

    def __str__(self) -> str:
        return "$method"

    def value(self, exchange: Exchange) -> object:
        """The method of the request."""
        return exchange.method


@dataclass(frozen=True, slots=True)
class StatusCode:
    """`$statusCode`."""

    def __str__(self) -> str:
        return "$statusCode"

    def value(self, exchange: Exchange) -> object:
        """The status code of the response, a number."""
        if exchange.status_code is None:
            raise _absent(self, "has no value yet: there is no response")
        return exchange.status_code


@dataclass(frozen=True, slots=True)
class Header:
    """`$request.header.NAME`; *name* is in lower case, because header names ignore case."""

    side: Side
    name: str

    def __str__(self) -> str:
        return f"${self.side}.header.{self.name}"

    def value(self, exchange: Exchange) -> object:
        """The header's value; the name that was sent may be in any case."""
        headers = _message(self, exchange).headers
        if self.name in headers:
            return headers[self.name]
        for name, value in headers.items():
            if name.lower() == self.name:
                return value
        raise _absent(self)


@dataclass(frozen=True, slots=True)
class Query:
    """`$request.query.NAME`; *name* is the decoded name, and its case counts."""

    side: Side
    name: str

    def __str__(self) -> str:
        return f"${self.side}.query.{_escaped_name(self.name)}"

    def value(self, exchange: Exchange) -> object:
        """The parameter's value, a string, which may be empty."""
        return _parameter(self, _message(self, exchange).query)


@dataclass(frozen=True, slots=True)
class Path:
    """`$request.path.NAME`; *name* is the decoded name, and its case counts."""

    side: Side
    name: str

    def __str__(self) -> str:
        return f"${self.side}.path.{_escaped_name(self.name)}"

    def value(self, exchange: Exchange) -> object:
        """The parameter's value, a string."""
        return _parameter(self, _message(self, exchange).path)


@dataclass(frozen=True, slots=True)
class Body:
    """`$request.body#/POINTER`; *pointer* holds the decoded tokens, none for the whole body."""

    side: Side
    pointer: tuple[str, ...] = ()

    def __str__(self) -> str:
        pointer = "".join("/" + _escaped_token(token) for token in self.pointer)
        return f"${self.side}.body#{pointer}" if pointer else f"${self.side}.body"

    def value(self, exchange: Exchange) -> object:
        """The JSON value that the pointer leads to, in its own type."""
        value = _message(self, exchange).body
        for token in self.pointer:
            value = _member(value, token)
        if value is ABSENT:
            raise _absent(self)
        return value


Expression: TypeAlias = Url | Method | StatusCode | Header | Query | Path | Body


@dataclass(frozen=True, slots=True)
class Template:
    """A string with expressions in it: *parts* are literal text and expressions, in order."""

    parts: tuple[str | Expression, ...]

    def __str__(self) -> str:
        return "".join(part if isinstance(part, str) else _embedded(part) for part in self.parts)

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The expressions alone, in order."""
        return tuple(part for part in self.parts if not isinstance(part, str))

    @property
    def leading(self) -> Expression | None:
        """The expression that the string begins with, if it begins with one."""
        first = self.parts[0] if self.parts else ""
        return None if isinstance(first, str) else first


# --- The words of the grammar, and the form that each of them begins.


WHOLE: Mapping[str, type[Url | Method | StatusCode]] = {
    "$url": Url,
    "$method": Method,
    "$statusCode": StatusCode,
}
SIDES: Mapping[str, Side] = {"$request.": "request", "$response.": "response"}
SOURCES: Mapping[str, type[Header | Query | Path | Body]] = {
    "header.": Header,
    "query.": Query,
    "path.": Path,
    "body": Body,
}


# --- Text out of values, for str().


def _embedded(expression: Expression) -> str:
    # Only a name can hold a }, and there the escape stands for the same character.
    return "{" + str(expression).replace("}", "\\u007d") + "}"


def _escaped_name(name: str) -> str:
    return _SPECIAL.sub(lambda match: json.dumps(match[0])[1:-1], name)


def _escaped_token(token: str) -> str:
    return token.replace("~", "~0").replace("/", "~1")


_SPECIAL = re.compile(r'[\x00-\x1f"\\\ud800-\udfff]')


# --- Values out of an exchange.


def _message(expression: Header | Query | Path | Body, exchange: Exchange) -> Message:
    if expression.side == "request":
        return exchange.request
    if exchange.response is None:
        raise _absent(expression, "has no value yet: there is no response")
    return exchange.response


def _parameter(expression: Query | Path, parameters: Mapping[str, str]) -> str:
    if expression.side == "response":
        raise _absent(expression, "has no value: a response has no such parameters")
    if expression.name not in parameters:
        raise _absent(expression)
    return parameters[expression.name]


def _member(value: object, token: str) -> object:
    """What *token* refers to inside *value*, by RFC 6901 section 4, or ABSENT."""
    if isinstance(value, Mapping):
        return value.get(token, ABSENT)
    if isinstance(value, list) and _is_index_into(value, token):
        return value[int(token)]
    return ABSENT


def _is_index_into(array: list[object], token: str) -> bool:
    # The length is compared first: int() refuses numbers of thousands of digits.
    if len(token) > len(str(len(array))) or not _INDEX.fullmatch(token):
        return False
    return int(token) < len(array)


_INDEX = re.compile(r"0|[1-9][0-9]*")


def _absent(expression: Expression, reason: str = "was not sent") -> EvaluationError:
    return EvaluationError(str(expression), reason, is_absent=True)
