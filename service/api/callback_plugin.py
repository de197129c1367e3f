"""
The callbacks of the OpenAPI document, made from their declarations.

`CallbackPlugin` is a plugin of apispec. It adds the `callbacks` of an operation to the document,
and refuses a callback that uses a name which the operation does not declare. Linters do not check
the keys of callbacks, so no other tool would find such an error.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from apispec import BasePlugin
from marshmallow import Schema

from service.callbacks.answers import AnswerRule, Meaning, rules_by_status
from service.callbacks.declaration import Callback, DeclaredOperation
from service.callbacks.headers import IMPLIED_HEADERS, CallbackHeader
from service.errors import DeclarationError

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


class CallbackPlugin(BasePlugin):
    """
    Documents the callbacks that operations declare.

    *timeout* is how long an answer is waited for. *is_strict* says whether the body of an
    acknowledgement must load through the response schema.

    Must be listed before the MarshmallowPlugin, which resolves the schemas inside the callbacks.

    Raises:
        DeclarationError: from `operation_helper`, if a callback names a parameter or a property
            that its operation does not declare, or two callbacks have one name.
    """

    def __init__(self, *, timeout: timedelta, is_strict: bool) -> None:
        self._timeout = timeout
        self._is_strict = is_strict
        self._by_name: dict[str, Callback] = {}

    def operation_helper(
        self,
        path: str | None = None,
        operations: dict[str, Any] | None = None,
        *,
        declared: Iterable[Callback] = (),
        **_: Any,
    ) -> None:
        """
        Add the OpenAPI objects of the *declared* callbacks to each operation.

        They are a separate argument of `APISpec.path`, because that method makes deep copies of
        everything inside *operations*.
        """
        for operation in (operations or {}).values():
            for callback in declared:
                callback.check(declared_by(operation))
                callbacks = operation.setdefault("callbacks", {})
                is_first = callback.name not in self._by_name
                known = self._by_name.setdefault(callback.name, callback)
                if callback.name in callbacks or known is not callback:
                    raise DeclarationError(f"Callback {callback.name}: the name is used twice.")
                documented = self._document(callback, operation.get("tags", []))
                if not is_first:
                    # An operationId is unique in a document, of callbacks as well.
                    documented["operationId"] += f"_of_{operation['operationId']}"
                callbacks[callback.name] = {callback.expression: {callback.method: documented}}

    def _document(self, callback: Callback, tags: list[str]) -> dict[str, Any]:
        """The operation that the receiver of *callback* serves."""
        headers = [one for one in callback.headers if one.name not in IMPLIED_HEADERS]
        return {
            "tags": tags,
            "operationId": callback.name,
            "summary": callback.summary,
            "description": f"{callback.description}\n\n{self._expected_answer(callback)}",
            "security": [],
            "parameters": [_parameter(one) for one in headers],
            "requestBody": {
                "required": True,
                "content": _json(callback.request, callback.request_example),
            },
            "responses": self._answers(callback),
        }

    def _expected_answer(self, callback: Callback) -> str:
        """How to answer, in one paragraph."""
        seconds = f"{self._timeout.total_seconds():g}"
        example = json.dumps(callback.response_example)
        body = f"a body such as `{example}`" if self._is_strict else "any body"
        stopping = _statuses(callback, Meaning.DEAD)
        stop = f" Answer {stopping} to stop the delivery of this event." if stopping else ""
        return (
            f"**Your answer.** Answer within {seconds} second{'' if seconds == '1' else 's'}:"
            f" {_statuses(callback, Meaning.DELIVERED)} with {body} acknowledges the event."
            f" Store the event, answer, and do longer work afterwards.{stop} After any other"
            " answer, and after none, the event is sent again later, with growing delays; a"
            " `Retry-After` is respected."
        )

    def _answers(self, callback: Callback) -> dict[str, Any]:
        """
        The responses of the callback: single statuses, and `default` for the classes.

        A class such as `4XX` is valid OpenAPI, but a generator writes it into its program as if it
        were a number, and a viewer sorts `2XX` behind `410`.
        """
        answers, others = {}, []
        for rule in callback.answers:
            if rule.meaning is Meaning.DELIVERED:
                answers[_shown_statuses(callback, rule)] = self._acknowledgement(callback, rule)
            elif rule.is_class:
                others.append(rule)
            else:
                answers[rule.statuses] = _refusal([rule], _consequence(rule))
        if others:
            texts = [f"`{rule.statuses.lower()}`: {_consequence(rule)}" for rule in others]
            answers["default"] = _refusal(others, "\n\n".join(texts))
        return answers

    def _acknowledgement(self, callback: Callback, rule: AnswerRule) -> dict[str, Any]:
        counts = WHERE_STRICT if self._is_strict else WHERE_LENIENT
        others = f" Every other {rule.statuses.lower()} counts too." if rule.is_class else ""
        content = _json(callback.response, callback.response_example)
        return {"description": f"{counts} {rule.description}{others}", "content": content}


def _consequence(rule: AnswerRule) -> str:
    return f"{CONSEQUENCES[rule.meaning]} {rule.description}"


def _refusal(rules: Iterable[AnswerRule], description: str) -> dict[str, Any]:
    """A response without a body, with `Retry-After` if one of *rules* respects that header."""
    is_hold = any(rule.meaning is Meaning.HOLD for rule in rules)
    return {"description": description, **({"headers": RETRY_AFTER} if is_hold else {})}


def _parameter(header: CallbackHeader) -> dict[str, Any]:
    pattern = {"pattern": header.pattern} if header.pattern else {}
    return {
        "in": "header",
        "name": header.name,
        "required": header.is_required,
        "description": header.description,
        "schema": {"type": "string", **pattern},
        "example": header.example,
    }


def _json(schema: type[Schema], example: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema, "example": dict(example)}}


def _statuses(callback: Callback, meaning: Meaning) -> str:
    """The statuses that mean *meaning*, as text."""
    matching = [rule for rule in callback.answers if rule.meaning is meaning]
    return " or ".join(f"`{_shown_statuses(callback, rule)}`" for rule in matching)


def _shown_statuses(callback: Callback, rule: AnswerRule) -> str:
    """The status of *rule*; for a class that acknowledges, the first status it applies to."""
    if not rule.is_class or rule.meaning is not Meaning.DELIVERED:
        return rule.statuses
    table = rules_by_status(callback.answers)
    return str(next(code for code in rule.codes if table[code] is rule))


def declared_by(operation: Mapping[str, Any]) -> DeclaredOperation:
    """The parameters and body properties of *operation*, given as apispec takes it."""
    names: dict[str, set[str]] = {"query": set(), "header": set(), "path": set()}
    for parameter in operation.get("parameters", ()):
        names[parameter["in"]].update(names_in(parameter["schema"]))
    body = operation.get("requestBody")
    return DeclaredOperation(
        query=frozenset(names["query"]),
        headers=frozenset(name.lower() for name in names["header"]),
        path=frozenset(names["path"]),
        body=frozenset(names_in(body["content"]["application/json"]["schema"])) if body else None,
    )


def names_in(schema: type[Schema] | Schema) -> Iterable[str]:
    """The names of the fields of *schema*, as they are on the wire."""
    instance = schema if isinstance(schema, Schema) else schema()
    return [field.data_key or name for name, field in instance.fields.items()]
