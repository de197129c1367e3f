"""
The callbacks of the OpenAPI document, made from their declarations.

`CallbackPlugin` is a plugin of apispec. It adds the `callbacks` of an operation to the document,
and refuses a callback that uses a name which the operation does not declare. Linters do not check
the keys of callbacks, so no other tool would find such an error.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from apispec import BasePlugin
from marshmallow import Schema

from service.callbacks.answers import Meaning
from service.callbacks.declaration import Callback, DeclaredOperation
from service.callbacks.documentation import (
    acknowledgement,
    consequence,
    expected_answer,
    header_parameters,
    refusal,
    request_body,
    shown_statuses,
)
from service.errors import DeclarationError


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
        answer = expected_answer(callback, self._timeout.total_seconds(), is_strict=self._is_strict)
        return {
            "tags": tags,
            "operationId": callback.name,
            "summary": callback.summary,
            "description": f"{callback.description}\n\n{answer}",
            "security": [],
            "parameters": header_parameters(callback),
            "requestBody": request_body(callback),
            "responses": self._answers(callback),
        }

    def _answers(self, callback: Callback) -> dict[str, Any]:
        """
        The responses of the callback: single statuses, and `default` for the classes.

        A class such as `4XX` is valid OpenAPI, but a generator writes it into its program as if it
        were a number, and a viewer sorts `2XX` behind `410`.
        """
        answers, others = {}, []
        for rule in callback.answers:
            if rule.meaning is Meaning.DELIVERED:
                answers[shown_statuses(callback, rule)] = acknowledgement(
                    callback, rule, is_strict=self._is_strict
                )
            elif rule.is_class:
                others.append(rule)
            else:
                answers[rule.statuses] = refusal([rule], consequence(rule))
        if others:
            texts = [f"`{rule.statuses.lower()}`: {consequence(rule)}" for rule in others]
            answers["default"] = refusal(others, "\n\n".join(texts))
        return answers


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
