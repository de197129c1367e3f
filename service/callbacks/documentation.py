"""
The texts and the OpenAPI objects that describe one callback.

Two documents are made of them: that of the API, where a callback is a promise, and that of the
receiver, where it is an operation. The schemas are left in them as classes, which apispec resolves.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from marshmallow import Schema
from standardwebhooks import Webhook

from service.callbacks.answers import AnswerRule, Meaning
from service.callbacks.declaration import Callback
from service.callbacks.headers import IMPLIED_HEADERS, CallbackHeader

EXAMPLE_SECRET = "whsec_aW52b2ljZXMtZGV2ZWxvcG1lbnQtc2VjcmV0LW9ubHk="  # noqa: S105 -- public
"""
The secret that signs the examples: the public one of the development mode.

It is the same on every machine, and reads "invoices-development-secret-only".
"""

RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds, or a date. Respected up to 24 hours, and for everything that is"
        " sent to you.",
        "schema": {"type": "string"},
        "example": "120",
    }
}
"""The header of an answer that asks for a hold."""

WHERE_STRICT = "Delivered, if the body is as declared; if not, the event is sent again later."
WHERE_LENIENT = "Delivered, with any body; one that is not as declared is noted on the attempt."
"""What follows from an answer that acknowledges, where the body counts and where it does not."""

SENT_AGAIN = "Not delivered: the event is sent again later."

CONSEQUENCES = {
    Meaning.RETRY: SENT_AGAIN,
    Meaning.HOLD: SENT_AGAIN,
    Meaning.DEAD: "Dead: the event is not sent again, unless the API user asks for it.",
}
"""What follows from any other answer."""


def header_parameters(callback: Callback) -> list[dict[str, Any]]:
    """The parameter objects of the headers of *callback*; their examples sign its example body."""
    examples = example_headers(callback)
    return [
        _header_parameter(one, examples[one.name])
        for one in callback.headers
        if one.name not in IMPLIED_HEADERS
    ]


def example_headers(callback: Callback) -> dict[str, str]:
    """
    An example of each header of *callback*, by its name.

    The signature is that of `example_body`, made with `EXAMPLE_SECRET` at the `webhook-timestamp`
    of the example.
    """
    examples = {one.name: one.example for one in callback.headers}
    if examples.keys() >= {"webhook-id", "webhook-timestamp", "webhook-signature"}:
        at = datetime.fromtimestamp(int(examples["webhook-timestamp"]), UTC)
        body = example_body(callback).decode()
        examples["webhook-signature"] = Webhook(EXAMPLE_SECRET).sign(
            examples["webhook-id"], at, body
        )
    return examples


def example_body(callback: Callback) -> bytes:
    """The bytes of the example event of *callback*."""
    return orjson.dumps(dict(callback.request_example))


def request_body(callback: Callback) -> dict[str, Any]:
    """The request body object of *callback*."""
    return {"required": True, "content": _json(callback.request, callback.request_example)}


def acknowledgement(callback: Callback, rule: AnswerRule, *, is_strict: bool) -> dict[str, Any]:
    """The response object of the answers that *rule* takes for an acknowledgement."""
    counts = WHERE_STRICT if is_strict else WHERE_LENIENT
    others = f" Every other {rule.statuses.lower()} counts too." if rule.is_class else ""
    content = _json(callback.response, callback.response_example)
    return {"description": f"{counts} {rule.description}{others}", "content": content}


def refusal(rules: Iterable[AnswerRule], description: str) -> dict[str, Any]:
    """A response without a body, with `Retry-After` if one of *rules* respects that header."""
    is_hold = any(rule.meaning is Meaning.HOLD for rule in rules)
    return {"description": description, **({"headers": RETRY_AFTER} if is_hold else {})}


def consequence(rule: AnswerRule) -> str:
    """What follows from an answer of *rule*, which does not acknowledge, and what it is for."""
    return f"{CONSEQUENCES[rule.meaning]} {rule.description}"


def expected_answer(callback: Callback, timeout_seconds: float, *, is_strict: bool) -> str:
    """How to answer *callback*, in one paragraph."""
    seconds = f"{timeout_seconds:g}"
    example = json.dumps(callback.response_example)
    body = f"a body such as `{example}`" if is_strict else "any body"
    stopping = _statuses(callback, Meaning.DEAD)
    stop = f" Answer {stopping} to stop the delivery of this event." if stopping else ""
    return (
        f"**Your answer.** Answer within {seconds} second{'' if seconds == '1' else 's'}:"
        f" {_statuses(callback, Meaning.DELIVERED)} with {body} acknowledges the event."
        f" Store the event, answer, and do longer work afterwards.{stop} After any other"
        " answer, and after none, the event is sent again later, with growing delays; a"
        " `Retry-After` is respected."
    )


def shown_statuses(callback: Callback, rule: AnswerRule) -> str:
    """The status of *rule*; for a class that acknowledges, the first status it applies to."""
    if not rule.is_class or rule.meaning is not Meaning.DELIVERED:
        return rule.statuses
    return str(next(code for code in rule.codes if callback.rule_for(code) is rule))


def _statuses(callback: Callback, meaning: Meaning) -> str:
    """The statuses that mean *meaning*, as text."""
    matching = [rule for rule in callback.answers if rule.meaning is meaning]
    return " or ".join(f"`{shown_statuses(callback, rule)}`" for rule in matching)


def _header_parameter(header: CallbackHeader, example: str) -> dict[str, Any]:
    pattern = {"pattern": header.pattern} if header.pattern else {}
    return {
        "in": "header",
        "name": header.name,
        "required": header.is_required,
        "description": header.description,
        "schema": {"type": "string", **pattern},
        "example": example,
    }


def _json(schema: type[Schema], example: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema, "example": dict(example)}}
