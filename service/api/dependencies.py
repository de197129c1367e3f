"""What the handlers find in their application and request: put there by whoever wires it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from service.callbacks.declaration import Callback
from service.callbacks.url import CallbackUrl
from service.clock import Clock
from service.errors import Mistake
from service.storage.store import Store
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing

STORE = web.AppKey("store", Store)
CLOCK = web.AppKey("clock", Clock)
CURRENCY = web.AppKey("currency", str)
"""The currency of invoices that name none."""

JUDGE: web.AppKey[Callable[[CallbackUrl], str | None]] = web.AppKey("judge")
"""Says why a URL may not be called, in words for the API user; None where it may."""

IS_READY: web.AppKey[Callable[[], bool]] = web.AppKey("is_ready")
"""Whether the loops behind the API are running."""

METRICS = web.AppKey("metrics", Metrics)
OPERATION_IDS = web.AppKey("operation_ids", dict[object, str])
"""What each handler's operation is called in the document."""

PRIVATE = web.AppKey("private", frozenset[object])
"""The handlers that only an account may ask."""

AUTHENTICATE: web.AppKey[Callable[[str | None], Awaitable[str]]] = web.AppKey("authenticate")
"""Finds the account that an `Authorization` header belongs to, or raises Unauthorized."""

LIMIT: web.AppKey[Callable[[str], None]] = web.AppKey("limit")
"""Counts one request of an account, or raises TooManyRequests."""

TRACING = web.AppKey("tracing", Tracing)
ACCOUNT_ID = web.RequestKey("account_id", str)
"""Whose request it is."""

TRACEPARENT = web.RequestKey[str | None]("traceparent")
"""Names the trace that the request is part of, to what follows from it; None without one."""

BODY = web.RequestKey("body", object)
"""The request's body as parsed JSON, once it has been parsed."""

MISTAKES = web.RequestKey("mistakes", list[Mistake])
"""All that was found wrong with the request so far."""

CALLED = web.RequestKey("called", dict[Callback, CallbackUrl])
"""The declared callbacks that this request asked for, each with the URL to call."""
