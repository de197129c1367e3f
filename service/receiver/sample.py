"""
A sample receiver: takes callbacks as an external developer's API would, and shows them.

It serves the path of the declaration, verifies the signature, loads the body through the declared
schema, compares it with the path, recognises an event that it has processed, and answers as
declared, or fails on purpose.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

import orjson
from aiohttp import web
from marshmallow import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from service.callbacks.declaration import Callback
from service.receiver.address import address_of

BODY_BYTES_MAX = 64 * 1024
REMEMBERED_COUNT = 10_000
"""How many processed events a sample remembers; a real receiver has a table."""


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
    is_repeated: bool = False
    """Whether the event was processed before: it is answered again, and not processed again."""


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

    With a *secret*, a request whose signature does not verify is answered 401. If *show* cannot
    write, because nobody reads any more or a disk is full, callbacks are answered nevertheless.
    """
    receiver = _Receiver(callback, secret, show, failure)
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    # Without a pattern, a path parameter of aiohttp does not match braces.
    path = address_of(callback).path.replace("}", ":[^/]+}")
    for route in (path, "/{prefix:(?s:.*)}" + path):
        app.router.add_route(callback.method.upper(), route, receiver.receive)
    return app


class _Receiver:
    def __init__(
        self, callback: Callback, secret: str | None, show: Show, failure: Failure
    ) -> None:
        self._callback = callback
        self._schema = callback.request()
        self._webhook = Webhook(secret) if secret else None
        self._show = show
        self._failure = failure
        self._request_counts: Counter[str] = Counter()
        self._processed: dict[str, None] = {}

    async def receive(self, request: web.Request) -> web.Response:
        """Take one callback: verify the bytes, read the event, process it once, answer."""
        body = await request.read()
        webhook_id = _text(request.headers.get("webhook-id", ""))
        is_repeated, answer = False, dict[str, object]()
        signature = self._verify(request, body)
        if signature.startswith("not verified"):
            status, answer = 401, {"error": signature}
        elif error := self._error_in(body, request.match_info):
            status, answer = 400, {"error": error}
        else:
            status, answer = self._answer(webhook_id)
            if status < HTTPStatus.MULTIPLE_CHOICES:
                is_repeated = not self._process(webhook_id)
        text = orjson.dumps(answer).decode()
        received = Received(
            path=_text(request.raw_path),
            webhook_id=webhook_id,
            body=body.decode("utf-8", "replace"),
            signature=signature,
            status_code=status,
            answer=text,
            delay_seconds=self._failure.delay_seconds,
            is_repeated=is_repeated,
        )
        with suppress(OSError):
            self._show(received)
        await asyncio.sleep(self._failure.delay_seconds)
        return web.Response(text=text, status=status, content_type="application/json")

    def _verify(self, request: web.Request, body: bytes) -> str:
        if self._webhook is None:
            return "not checked"
        try:
            self._webhook.verify(body, dict(request.headers), json_parse=False)
        except (WebhookVerificationError, ValueError) as error:
            return f"not verified: {error}"
        return "verified"

    def _error_in(self, body: bytes, path: Mapping[str, str]) -> str | None:
        try:
            _compare(self._callback, self._schema.load(orjson.loads(body)), path)
        except (orjson.JSONDecodeError, ValidationError) as error:
            return f"not what is declared: {error}"
        return None

    def _answer(self, webhook_id: str) -> tuple[int, dict[str, object]]:
        if self._failure.first:
            self._request_counts[webhook_id] += 1
        failed = self._failure.status_of(self._request_counts[webhook_id])
        status = failed or self._callback.acknowledgement_code
        if status >= HTTPStatus.MULTIPLE_CHOICES:
            return status, {"error": "fails on purpose"}
        return status, dict(self._callback.response_example)

    def _process(self, webhook_id: str) -> bool:
        """Process an event; False if it was processed before, and nothing is done."""
        if webhook_id in self._processed:
            return False
        self._processed[webhook_id] = None
        if len(self._processed) > REMEMBERED_COUNT:
            del self._processed[next(iter(self._processed))]
        return True


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
