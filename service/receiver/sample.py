"""
A sample receiver: takes callbacks as an external developer's API would, and shows them.

It serves the path of the declaration, verifies the signature, loads the body through the declared
schema, compares it with the path, and answers as declared, or fails on purpose.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

import orjson
from aiohttp import web
from marshmallow import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from service.callbacks.declaration import Callback
from service.receiver.path import receiver_path

BODY_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One callback that arrived, and what was answered."""

    path: str
    """As it was sent: percent-encoded."""
    webhook_id: str
    body: str
    signature: str
    """`verified`, `not verified: …` or `not checked`."""
    status_code: int
    answer: str
    delay_seconds: float = 0
    """How long the answer waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How a receiver fails on purpose; the default does not fail."""

    status_code: int | None = None
    """What is answered instead of the declared status."""
    first: int | None = None
    """How many requests of each event fail, with 500 if there is no other status; None: all."""
    delay_seconds: float = 0
    """How long each answer waits."""

    def status_of(self, number: int) -> int | None:
        """The status of request *number* of an event, from 1; None if it does not fail."""
        if self.first is None:
            return self.status_code
        return (self.status_code or 500) if 0 < number <= self.first else None


Show = Callable[[Received], None]
NO_FAILURE = Failure()


def make_receiver(
    callback: Callback, secret: str | None, show: Show, failure: Failure = NO_FAILURE
) -> web.Application:
    """
    An application that receives *callback*, below any path, and fails as *failure* says.

    With a *secret*, a request whose signature does not verify is answered 401.
    """
    webhook = Webhook(secret) if secret else None
    schema = callback.request()
    request_counts: Counter[str] = Counter()

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        signature = _verify(webhook, request, body)
        is_accepted = not signature.startswith("not verified")
        webhook_id = _text(request.headers.get("webhook-id", ""))
        path = request.match_info
        status, answer = (
            _answer(webhook_id, body, path) if is_accepted else (401, {"error": signature})
        )
        text = orjson.dumps(answer).decode()
        show(
            Received(
                path=_text(request.raw_path),
                webhook_id=webhook_id,
                body=body.decode("utf-8", "replace"),
                signature=signature,
                status_code=status,
                answer=text,
                delay_seconds=failure.delay_seconds,
            )
        )
        await asyncio.sleep(failure.delay_seconds)
        return web.Response(text=text, status=status, content_type="application/json")

    def _answer(
        webhook_id: str, body: bytes, path: Mapping[str, str]
    ) -> tuple[int, dict[str, object]]:
        try:
            _compare(callback, schema.load(orjson.loads(body)), path)
        except (orjson.JSONDecodeError, ValidationError) as error:
            return 400, {"error": f"not what is declared: {error}"}
        if failure.first:
            request_counts[webhook_id] += 1
        status = failure.status_of(request_counts[webhook_id]) or callback.acknowledgement_code
        if status >= HTTPStatus.MULTIPLE_CHOICES:
            return status, {"error": "fails on purpose"}
        return status, dict(callback.response_example)

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    # Without a pattern, a path parameter of aiohttp does not match braces.
    path = receiver_path(callback).replace("}", ":[^/]+}")
    for route in (path, "/{prefix:(?s:.*)}" + path):
        app.router.add_route(callback.method.upper(), route, receive)
    return app


def _compare(callback: Callback, event: Mapping[str, object], path: Mapping[str, str]) -> None:
    """
    Compare *event* with the *path*: it is not signed, and may be that of another event.

    Raises:
        ValidationError: if they differ.
    """
    for parameter, name in callback.path_fields.items():
        if event[name] != path[parameter]:
            raise ValidationError({name: ["Differs from the path."]})


def _text(value: str) -> str:
    """*value*, which comes from a header or a path, without bytes that are not text."""
    return value.encode("utf-8", "replace").decode()


def _verify(webhook: Webhook | None, request: web.Request, body: bytes) -> str:
    if webhook is None:
        return "not checked"
    try:
        webhook.verify(body, dict(request.headers), json_parse=False)
    except (WebhookVerificationError, ValueError) as error:
        return f"not verified: {error}"
    return "verified"
