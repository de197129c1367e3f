"""
A callback: one declaration that is both the promise in the document and its execution.

Where to call, what is sent and what has to be answered stand in one `Callback`. The document
publishes it and the delivery performs it, so the two cannot drift apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import orjson
from marshmallow import Schema, ValidationError

from service.callbacks.evaluation import Evaluator
from service.callbacks.exchange import Exchange
from service.callbacks.expression import (
    Body,
    Expression,
    Header,
    Path,
    Query,
    StatusCode,
    Template,
)
from service.callbacks.grammar import parse_template
from service.callbacks.url import CallbackUrl
from service.errors import DeclarationError

KNOWN_ANSWERS = 64
KNOWN_BYTES = 256
"""How many different answers a callback remembers as valid, and how long one may be."""


class InvalidAnswer(ValueError):
    """What a receiver answered is not what the callback declares; str() says both, briefly."""


@dataclass(frozen=True, slots=True)
class DeclaredOperation:
    """
    What an operation takes: the names that the expressions of its callbacks may use.

    *headers* are in lower case. *body* holds the properties of the request body, and is None
    for an operation without one.
    """

    query: frozenset[str] = frozenset()
    headers: frozenset[str] = frozenset()
    path: frozenset[str] = frozenset()
    body: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Callback:
    """
    The promise to call a receiver: where, with what, and which answer counts.

    *expression* is the key of the callback in the OpenAPI document, a string with runtime
    expressions. *request* and *response* are the schemas of what is sent and answered.

    Raises:
        ExpressionError: where *expression* does not parse.
    """

    name: str
    expression: str
    method: str
    request: type[Schema]
    response: type[Schema]
    summary: str
    description: str
    request_example: Mapping[str, Any] = field(hash=False)
    response_example: Mapping[str, Any] = field(hash=False)
    template: Template = field(init=False, repr=False, compare=False)
    _known_answers: dict[bytes, Mapping[str, Any]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    _evaluator: Evaluator = field(init=False, repr=False, compare=False)
    _request: Schema = field(init=False, repr=False, compare=False)
    _response: Schema = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Parsed and instantiated once: a delivery is made thousands of times per second.
        template = parse_template(self.expression)
        object.__setattr__(self, "template", template)
        object.__setattr__(self, "_evaluator", Evaluator(template, self.expression))
        object.__setattr__(self, "_request", self.request())
        object.__setattr__(self, "_response", self.response())

    def url_for(self, exchange: Exchange) -> CallbackUrl | None:
        """
        The URL to call for what happened in *exchange*.

        Returns:
            None where the value that the URL begins with was not sent: nobody asked to be
            called.

        Raises:
            EvaluationError: where the values do not make a URL that may be called.
        """
        return self._evaluator.url_for(exchange)

    def render(self, event: Mapping[str, Any]) -> bytes:
        """The body that tells *event*: equal events make equal bytes."""
        return orjson.dumps(self._request.dump(event))

    def read_answer(self, body: bytes) -> Mapping[str, Any]:
        """
        Read what a receiver answered.

        Raises:
            InvalidAnswer: where *body* is not JSON in UTF-8, or not what is declared.
        """
        # A receiver that works answers the same few bytes every time.
        if (known := self._known_answers.get(body)) is not None:
            return known
        try:
            answer: dict[str, Any] = self._response.load(orjson.loads(body))
        except (orjson.JSONDecodeError, ValidationError):
            expected = _shortened(json.dumps(self.response_example), 120)
            raise InvalidAnswer(f"expected {expected}, got {_excerpt(body)}") from None
        if len(body) <= KNOWN_BYTES and len(self._known_answers) < KNOWN_ANSWERS:
            self._known_answers[body] = MappingProxyType(answer)
        return answer

    def undeclared(self, operation: DeclaredOperation) -> list[str]:
        """One sentence for each expression that names what *operation* does not take."""
        found = (
            _unknown_yet(expression) or _undeclared(expression, operation)
            for expression in self.template.expressions
        )
        start = self.template.parts[0] if self.template.parts else ""
        wrong_start = isinstance(start, str) and not start.startswith(("http://", "https://"))
        reason = f"{self.expression} begins with neither an expression nor http:// or https://."
        return [sentence for sentence in (wrong_start and reason, *found) if sentence]

    def check(self, operation: DeclaredOperation) -> None:
        """
        See that *operation* can keep what the callback promises.

        Raises:
            DeclarationError: with all that *operation* does not declare.
        """
        sentences = self.undeclared(operation)
        if sentences:
            raise DeclarationError(f"Callback {self.name}: {' '.join(sentences)}")


# --- What an operation does not declare.


# These are parts of every HTTP request; OpenAPI ignores parameters of these names.
_IMPLIED_HEADERS = frozenset({"accept", "authorization", "content-type"})


def _undeclared(expression: Expression, operation: DeclaredOperation) -> str | None:
    match expression:
        case Query("request", name):
            return _missing(expression, "query parameter", name, operation.query)
        case Path("request", name):
            return _missing(expression, "path parameter", name, operation.path)
        case Header("request", name):
            return _missing(expression, "header", name, operation.headers | _IMPLIED_HEADERS)
        case Body("request") if operation.body is None:
            return f"{expression} needs a request body, and the operation declares none."
        case Body("request", (name, *_)):
            return _missing(
                expression, "request body property", name, operation.body or frozenset()
            )
    return None


def _unknown_yet(expression: Expression) -> str | None:
    if isinstance(expression, StatusCode) or getattr(expression, "side", None) == "response":
        return f"{expression} is not known yet: the URL is made before the answer."
    return None


def _missing(expression: Expression, kind: str, name: str, declared: frozenset[str]) -> str | None:
    if name in declared:
        return None
    nearest = get_close_matches(name, sorted(declared), n=1)
    suggestion = f" Did you mean {nearest[0]}?" if nearest else ""
    sentence = f"{expression} names the {kind} {name}, which the operation does not declare."
    return sentence + suggestion


# --- What a receiver answered, for its developer's eyes.


def _excerpt(body: bytes) -> str:
    """The beginning of *body* on one line, or that there is none."""
    if not body:
        return "an empty body"
    text = _shortened(body[:400].decode("utf-8", "replace"), 100)
    # repr() makes one character out of a control character into as many as ten.
    return _shortened(repr(text), 160)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
