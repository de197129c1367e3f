"""The requests of a conformance run: events of a callback, signed as the service signs them."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import orjson
from standardwebhooks import Webhook

from service.callbacks.declaration import Callback
from service.callbacks.exchange import Exchange, Message
from service.callbacks.expression import Body, Expression, Header, Path, Query, Template
from service.callbacks.url import CallbackUrl
from service.domain.ids import new_id
from service.errors import EvaluationError
from service.receiver.caller import Call

SIGNED = ("webhook-id", "webhook-timestamp", "webhook-signature")


class Requests:
    """
    Makes calls of *callback* for a receiver that gave *url*, signed with *secret* at *now*.

    Raises:
        EvaluationError: from the constructor, if *url* would be refused as a callback URL.
    """

    def __init__(
        self, callback: Callback, url: str, secret: str, now: Callable[[], datetime]
    ) -> None:
        self._callback = callback
        self._url = url
        self.secret = secret
        self._now = now
        self.target = self._called_for("1")

    def event(
        self,
        *,
        invoice_id: str | None = None,
        fields: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        secrets: tuple[str, ...] = (),
        ahead: timedelta = timedelta(),
        webhook_id: str | None = None,
        is_chunked: bool = False,
    ) -> Call:
        """
        A call that is right, but for what the arguments change.

        *fields* are added to those of the event; *body* replaces them. Without an *invoice_id* or
        a *webhook_id*, there is a new one. Several *secrets* sign in their order.
        """
        invoice_id = invoice_id or new_invoice_id()
        content = self.fields(invoice_id) | dict(fields or {})
        body = orjson.dumps(content) if body is None else body
        at = self._now() + ahead
        webhook_id = webhook_id or f"msg_{new_id()}"
        signatures = [
            Webhook(secret).sign(webhook_id, at, body.decode("utf-8"))
            for secret in secrets or (self.secret,)
        ]
        given = {
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
        headers = {one.name: given.get(one.name, one.example) for one in self._callback.headers}
        return Call(
            url=self._called_for(invoice_id).text,
            method=self._callback.method.upper(),
            headers=headers,
            body=body,
            is_chunked=is_chunked,
        )

    def fields(self, invoice_id: str) -> dict[str, Any]:
        """The fields of the example event, of which some may repeat *invoice_id*."""
        repeated = dict.fromkeys(self._callback.path_fields.values(), invoice_id)
        return {**self._callback.request_example, **repeated}

    def _called_for(self, invoice_id: str) -> CallbackUrl:
        template = self._callback.template
        url = self._callback.url_for(_exchange(template, self._url, invoice_id))
        if url is None:
            raise EvaluationError(self._callback.expression, "names the server of the receiver")
        return url


def new_invoice_id() -> str:
    """An id that no invoice has."""
    return f"test_{new_id()}"


def _exchange(template: Template, url: str, other: str) -> Exchange:
    """An exchange in which *template* begins with *url*, and *other* is every other value."""
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    path: dict[str, str] = {}
    body: dict[str, Any] = {}
    for expression in reversed(template.expressions):
        _put(
            expression, url if expression is template.leading else other, headers, query, path, body
        )
    return Exchange(url, "POST", Message(headers, query, path, body))


def _put(
    expression: Expression,
    text: str,
    headers: dict[str, str],
    query: dict[str, str],
    path: dict[str, str],
    body: dict[str, Any],
) -> None:
    """Put *text* where *expression* reads it."""
    match expression:
        case Header(_, name):
            headers[name] = text
        case Query(_, name):
            query[name] = text
        case Path(_, name):
            path[name] = text
        case Body(_, (*tokens, last)):
            for token in tokens:
                body = body.setdefault(token, {})
            body[last] = text
