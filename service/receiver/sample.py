"""
A sample receiver: takes callbacks as an external developer's API would, and shows them.

It serves the path of the declaration, verifies the signature, loads the body through the declared
schema, and answers as declared.
"""

from collections.abc import Callable
from dataclasses import dataclass

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
    webhook_id: str
    body: str
    signature: str
    """`verified`, `not verified: …` or `not checked`."""
    status_code: int
    answer: str


Show = Callable[[Received], None]


def make_receiver(callback: Callback, secret: str | None, show: Show) -> web.Application:
    """
    An application that receives *callback*, below any path.

    With a *secret*, a request whose signature does not verify is answered 401.
    """
    webhook = Webhook(secret) if secret else None
    schema = callback.request()

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        signature = _verify(webhook, request, body)
        is_ours = not signature.startswith("not verified")
        status, answer = _acknowledge(body) if is_ours else (401, {"error": signature})
        text = orjson.dumps(answer).decode()
        show(
            Received(
                path=request.path,
                webhook_id=request.headers.get("webhook-id", ""),
                body=body.decode("utf-8", "replace"),
                signature=signature,
                status_code=status,
                answer=text,
            )
        )
        return web.Response(text=text, status=status, content_type="application/json")

    def _acknowledge(body: bytes) -> tuple[int, dict[str, object]]:
        try:
            schema.load(orjson.loads(body))
        except (orjson.JSONDecodeError, ValidationError) as error:
            return 400, {"error": f"not what is declared: {error}"}
        return callback.acknowledgement_code, dict(callback.response_example)

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    path = receiver_path(callback)
    for route in (path, "/{prefix:.+}" + path):
        app.router.add_route(callback.method.upper(), route, receive)
    return app


def _verify(webhook: Webhook | None, request: web.Request, body: bytes) -> str:
    if webhook is None:
        return "not checked"
    try:
        webhook.verify(body, dict(request.headers), json_parse=False)
    except (WebhookVerificationError, ValueError) as error:
        return f"not verified: {error}"
    return "verified"
