"""The aiohttp application: routes, middlewares and documentation put together."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp_apispec import setup_aiohttp_apispec, validation_middleware

from service.api import dependencies
from service.api.docs import add_docs
from service.api.metrics import SCRAPES, Scrapes, count_answer, end_look
from service.api.middlewares import (
    BODY_LIMITS,
    BodyLimits,
    accounts,
    bounded_bodies,
    callbacks,
    dress_answer,
    expect,
    insist_on_tls,
    problems,
    traces,
)
from service.api.operations import (
    HEALTH_OPERATIONS,
    OPERATIONS,
    Operation,
    add_operation,
    needs_account,
    operation_id_of,
)
from service.api.validation import RequestParser
from service.callbacks.url import CallbackUrl
from service.clock import Clock
from service.storage.store import Store
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import Tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the application is wired from; `service.api.dependencies` says what each part is for."""

    store: Store
    metrics: Metrics
    clock: Clock
    document: dict[str, Any]
    authenticate: Callable[[str | None], Awaitable[str]]
    limit: Callable[[str], None]
    currency: str
    judge: Callable[[CallbackUrl], str | None]
    is_ready: Callable[[], bool]
    body_limits: BodyLimits = field(default_factory=BodyLimits)
    is_public_over_tls: bool = False
    tracing: Tracing = field(default_factory=Tracing)


def make_application(parts: Parts) -> web.Application:
    """The application, ready to be served."""
    app = _application(parts, OPERATIONS)
    add_docs(app, parts.document)
    return app


def make_health_application(parts: Parts) -> web.Application:
    """What a process serves that takes no invoices: whether it lives and works, and its figures."""
    return _application(parts, HEALTH_OPERATIONS)


def _application(parts: Parts, operations: Sequence[Operation]) -> web.Application:
    app = web.Application(
        middlewares=[traces, problems, accounts, bounded_bodies, validation_middleware, callbacks],
        client_max_size=parts.body_limits.size,
    )
    app[BODY_LIMITS] = parts.body_limits
    app[dependencies.STORE] = parts.store
    app[dependencies.METRICS] = parts.metrics
    app[dependencies.TRACING] = parts.tracing
    app[dependencies.CLOCK] = parts.clock
    app[dependencies.AUTHENTICATE] = parts.authenticate
    app[dependencies.LIMIT] = parts.limit
    app[dependencies.PRIVATE] = frozenset(one[2] for one in operations if needs_account(one))
    operation_ids: dict[object, str] = {one[2]: operation_id_of(one) for one in operations}
    app[dependencies.OPERATION_IDS] = operation_ids
    app[SCRAPES] = Scrapes(parts.store, parts.metrics, parts.clock)
    app[dependencies.CURRENCY] = parts.currency
    app[dependencies.JUDGE] = parts.judge
    app[dependencies.IS_READY] = parts.is_ready
    # Before any route exists: called later, it would take the declarations off the handlers.
    with warnings.catch_warnings():
        # aiohttp-apispec looks for its settings under plain names, which aiohttp warns of.
        warnings.simplefilter("ignore", web.NotAppKeyWarning)
        setup_aiohttp_apispec(app, url=None, in_place=True)
        app["_apispec_parser"] = RequestParser()
    for operation in operations:
        add_operation(app, operation, expect)
    app.on_cleanup.append(end_look)
    app.on_response_prepare.append(count_answer)
    app.on_response_prepare.append(dress_answer)
    if parts.is_public_over_tls:
        app.on_response_prepare.append(insist_on_tls)
    return app
