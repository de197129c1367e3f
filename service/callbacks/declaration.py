"""
The declaration of a callback, from which both the document and the delivery are made.

A `Callback` says where to call, which headers and which body are sent, and what each answer
means. The document publishes it and the delivery executes it, so the two cannot differ.
"""

import json
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, cast

import orjson
from marshmallow import Schema, ValidationError

from schemas.documented import example_of
from service.callbacks.answers import (
    STANDARD_ANSWERS,
    AnswerRule,
    Classification,
    Meaning,
    rules_by_status,
)
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
from service.callbacks.headers import IMPLIED_HEADERS, STANDARD_HEADERS, CallbackHeader
from service.callbacks.url import CallbackUrl
from service.domain.outcomes import POINTS_TO, AttemptOutcome
from service.errors import DeclarationError

KNOWN_ANSWERS = 64
KNOWN_BYTES = 256
"""
How many different answers a callback remembers as valid, and how long one may be.

Receivers have one or two acknowledgements each; 16 KiB in all is enough for most of them.
"""


class InvalidAnswer(ValueError):
    """An answer is not what the callback declares; str() shows both, in 300 characters at most."""


@dataclass(frozen=True, slots=True)
class DeclaredOperation:
    """
    The parameters of an operation: the names that the expressions of its callbacks may use.

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
    A callback: its URL, the headers and the body that are sent, and what the answers mean.

    *expression* is the key of the callback in the OpenAPI document, a string with runtime
    expressions. *request* and *response* are the schemas of what is sent and answered; the
    examples are those of their fields. The first of *answers* that matches a status applies.
    *path_fields* says which field of the body repeats a parameter of the receiver's path: the
    signature covers the body and not the path, so a receiver has to compare the two.

    Raises:
        ExpressionError: *expression* does not parse.
        DeclarationError: *answers* do not give every status one meaning, or *path_fields* names
            a field that *request* does not have.
    """

    name: str
    expression: str
    method: str
    request: type[Schema]
    response: type[Schema]
    summary: str
    description: str
    # Not hashed: a callback is a dictionary key in every request, and its name differs anyway.
    headers: tuple[CallbackHeader, ...] = field(default=STANDARD_HEADERS, hash=False)
    answers: tuple[AnswerRule, ...] = field(default=STANDARD_ANSWERS, hash=False)
    path_fields: Mapping[str, str] = field(default_factory=dict, hash=False)
    request_example: Mapping[str, Any] = field(init=False, repr=False, compare=False)
    response_example: Mapping[str, Any] = field(init=False, repr=False, compare=False)
    template: Template = field(init=False, repr=False, compare=False)
    _known_answers: dict[bytes, Mapping[str, Any]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    _selections: dict[tuple[str, ...], tuple[list[str], set[str]]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )
    _evaluator: Evaluator = field(init=False, repr=False, compare=False)
    _request: Schema = field(init=False, repr=False, compare=False)
    _response: Schema = field(init=False, repr=False, compare=False)
    _rules: Mapping[int, AnswerRule] = field(init=False, repr=False, compare=False)
    _header_names: frozenset[str] = field(init=False, repr=False, compare=False)
    _required_names: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Computed once: thousands of deliveries per second use it.
        template, request, response = parse_template(self.expression), self.request, self.response
        for name, derived in {
            "template": template,
            "request_example": example_of(request),
            "response_example": example_of(response),
            "_evaluator": Evaluator(template, self.expression),
            "_request": request(),
            "_response": response(),
            "_rules": rules_by_status(self.answers),
            "_header_names": frozenset(one.name for one in self.headers),
            "_required_names": frozenset(one.name for one in self.headers if one.is_required),
        }.items():
            object.__setattr__(self, name, derived)
        if missing := set(self.path_fields.values()).difference(self._request.fields):
            raise DeclarationError(f"Callback {self.name}: no field of the body {sorted(missing)}.")

    def url_for(self, exchange: Exchange) -> CallbackUrl | None:
        """
        The URL to call for what happened in *exchange*.

        Returns:
            None if the value that the URL begins with was not sent: no callback is wanted.

        Raises:
            EvaluationError: the values do not make a URL that may be called.
        """
        return self._evaluator.url_for(exchange)

    def select_headers(self, values: Mapping[str, str | None]) -> dict[str, str]:
        """
        The headers to send: those of *values* that are declared, under the names given there.

        Names ignore case; a value of None is no value.

        Raises:
            DeclarationError: a required header has no value.
        """
        names = tuple(values)
        selection = self._selections.get(names)
        if selection is None:
            selection = self._selections[names] = self._selection(names)
        declared, required = selection
        if len(declared) == len(names) and None not in values.values():
            selected = cast("dict[str, str]", dict(values))
        else:
            selected = {name: text for name in declared if (text := values[name]) is not None}
        if not required <= selected.keys():
            missing = sorted(name.lower() for name in required - selected.keys())
            raise DeclarationError(f"Callback {self.name}: no value for {missing}.")
        return selected

    def _selection(self, names: tuple[str, ...]) -> tuple[list[str], set[str]]:
        """Those of *names* that are declared, and those that need a value."""
        declared = [name for name in names if name.lower() in self._header_names]
        given = {name.lower(): name for name in declared}
        return declared, {given.get(name, name) for name in self._required_names}

    def render(self, event: object) -> bytes:
        """
        The body of the request for *event*; equal events give equal bytes.

        The schema reads its fields from *event*, which may be any object with attributes of
        these names, or a mapping.
        """
        return orjson.dumps(self._request.dump(event))

    def rule_for(self, status_code: int) -> AnswerRule:
        """The rule that applies to an answer of *status_code*, which is 200 to 599."""
        return self._rules[status_code]

    @property
    def acknowledgement_code(self) -> int:
        """The lowest status by which a receiver acknowledges an event."""
        return min(code for code, rule in self._rules.items() if rule.meaning is Meaning.DELIVERED)

    def classify(
        self,
        status_code: int,
        body: bytes,
        *,
        is_truncated: bool,
        is_strict: bool,
        location: str | None = None,
        content_encoding: str | None = None,
    ) -> Classification:
        """
        Compare an answer with the declaration.

        A status that acknowledges is not enough: a parked domain and a login page answer 200 as
        well. Without *is_strict*, any body counts, and a mismatch is only noted in the detail.
        *is_truncated* marks a *body* that is longer than what was read of it. *location* and
        *content_encoding* are headers that the detail explains.
        """
        rule = self.rule_for(status_code)
        if rule.meaning is not Meaning.DELIVERED:
            detail = f"the receiver answered {status_code}{_redirect(location)}"
            return Classification(rule.meaning, AttemptOutcome.REFUSED, detail)
        try:
            if is_truncated:
                raise InvalidAnswer("the answer is far larger than what is expected")
            self.read_answer(body)
        except InvalidAnswer as mismatch:
            encoding = _encoding(body, content_encoding)
            detail = f"the answer is compressed ({encoding})" if encoding else str(mismatch)
            if is_strict:
                return Classification(Meaning.HOLD, AttemptOutcome.INVALID_ANSWER, detail)
            detail = f"accepted although {detail}"
            return Classification(rule.meaning, AttemptOutcome.DELIVERED, detail)
        return Classification(rule.meaning, AttemptOutcome.DELIVERED)

    def read_answer(self, body: bytes) -> Mapping[str, Any]:
        """
        Read the body of an answer that acknowledges.

        A byte order mark before the JSON is ignored (RFC 8259, section 8.1).

        Raises:
            InvalidAnswer: *body* is not JSON in UTF-8, or not what is declared.
        """
        # A receiver usually answers with the same few bytes every time.
        if (known := self._known_answers.get(body)) is not None:
            return known
        try:
            answer: dict[str, Any] = self._response.load(orjson.loads(body.removeprefix(BOM_UTF8)))
        except (orjson.JSONDecodeError, ValidationError):
            expected = _shortened(json.dumps(self.response_example), 120)
            sentence = f"the body of the answer should be {expected}, but {_excerpt(body)}"
            raise InvalidAnswer(sentence) from None
        if len(body) <= KNOWN_BYTES and len(self._known_answers) < KNOWN_ANSWERS:
            self._known_answers[body] = MappingProxyType(answer)
        return answer

    def undeclared(self, operation: DeclaredOperation) -> list[str]:
        """One sentence for each error in the expression, such as an undeclared name."""
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
        Check that *operation* declares every name that the expression uses.

        Raises:
            DeclarationError: with all errors in the expression; see `undeclared`.
        """
        if sentences := self.undeclared(operation):
            raise DeclarationError(f"Callback {self.name}: {' '.join(sentences)}")


# --- What an operation does not declare.


def _undeclared(expression: Expression, operation: DeclaredOperation) -> str | None:
    match expression:
        case Query("request", name):
            return _missing(expression, "query parameter", name, operation.query)
        case Path("request", name):
            return _missing(expression, "path parameter", name, operation.path)
        case Header("request", name):
            return _missing(expression, "header", name, operation.headers | IMPLIED_HEADERS)
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


# --- The detail of an answer, for the developer of the receiver.


def _redirect(location: str | None) -> str:
    """The part of the detail about a redirect to *location*; empty if there is none."""
    if not location:
        return ""
    return f"; redirects are not followed{POINTS_TO}{_shortened(_on_one_line(location), 200)}"


def _encoding(body: bytes, content_encoding: str | None) -> str | None:
    """How *body* is compressed, by its first bytes or its header; None where it is not."""
    for magic, name in COMPRESSED.items():
        if body.startswith(magic):
            return name
    named = _shortened(_on_one_line(content_encoding or "").lower(), 40)
    is_plain = named in {"", "identity", *COMPRESSED.values()}
    return None if is_plain or not body else named


COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of a compressed body -> method. Other methods have no fixed first bytes."""


def _wide_encoding(body: bytes) -> str | None:
    """UTF-16 or UTF-32, if the JSON of *body* is in it: its first characters are ASCII."""
    for mark, name in WIDE_MARKS.items():
        if body.startswith(mark):
            return name
    if b"\0" not in body[:2]:
        return None
    return "UTF-32" if body[:4].count(0) == 3 else "UTF-16" if body[:4].count(0) == 2 else None


WIDE_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""Byte order marks; the longer ones first, as one begins with another."""


def _excerpt(body: bytes) -> str:
    """The beginning of *body* on one line, as the end of a sentence about it."""
    if wide := _wide_encoding(body):
        return f"is in {wide} and not in UTF-8"
    text = _on_one_line(body[:400].decode("utf-8", "replace"))
    if not text:
        return "is empty"
    beginning = _shortened(text, 100)
    return f"begins with {beginning}" if beginning != text or len(body) > 400 else f"is {text}"


def _on_one_line(text: str) -> str:
    """*text* with one blank between its words; what cannot be printed is replaced."""
    line = " ".join(text.split())
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in line)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
