"""The aiohttp application: operations, middlewares and documentation put together."""

import re
from collections.abc import Sequence
from dataclasses import replace

from aiohttp import web
from aiohttp.typedefs import Middleware
from aiohttp_apispec import validation_middleware

from service.api import (
    collectors,
    deliveries,
    events,
    invoices,
    listening,
    monitoring,
    payments,
    receivers,
)
from service.api.callbacks import make_callback_evaluation
from service.api.dependencies import DEPENDENCIES, Dependencies
from service.api.docs import add_docs
from service.api.operations import Operation, other_form, read_operation, use_parser
from service.api.validation import RequestParser
from service.web.middlewares import (
    ERROR_PAGES,
    EXPECT,
    NOT_SERVED,
    PUBLIC_PATH,
    Admission,
    Authenticate,
    make_border,
    make_response_hook,
)

LISTENING_OPERATIONS: tuple[Operation, ...] = (
    read_operation("GET", "/listen/{name}/stream", listening.open_stream),
    read_operation("POST", "/listen/{name}/seen", listening.acknowledge_events),
    read_operation("POST", "/listen/{name}/{id}/redeliver", listening.redeliver_to_listener),
    read_operation("POST", "/listen/{name}/{id}/{attempt}", listening.answer_delivery),
)
"""What listeners use; only a process that delivers takes their connections."""

MONITORING_OPERATIONS: tuple[Operation, ...] = (
    read_operation("GET", "/healthz", monitoring.is_alive),
    read_operation("GET", "/readyz", monitoring.is_ready),
    read_operation("GET", "/metrics", monitoring.get_metrics),
)
"""What every process serves, whatever its role."""

OPERATIONS: tuple[Operation, ...] = (
    read_operation("POST", "/invoices/", invoices.create_invoice),
    read_operation("GET", "/invoices/", invoices.list_invoices),
    read_operation("GET", "/invoices/{id}", invoices.get_invoice),
    read_operation("GET", "/invoices/{id}/deliveries", invoices.list_deliveries_of_invoice),
    read_operation("GET", "/invoices/{id}/why", invoices.get_invoice_why),
    read_operation("POST", "/invoices/{id}/void", payments.void_invoice),
    read_operation("POST", "/invoices/{id}/refund", payments.refund_invoice),
    read_operation("POST", "/collectors/stripe/{account_id}", collectors.take_stripe_webhook),
    read_operation("GET", "/invoices/{id}/mails", invoices.list_mails_of_invoice),
    read_operation("GET", "/deliveries", deliveries.list_deliveries),
    read_operation("GET", "/deliveries/{id}", deliveries.get_delivery),
    read_operation("GET", "/deliveries/{id}/why", deliveries.get_delivery_why),
    read_operation("POST", "/deliveries/{id}/cancel", deliveries.cancel_delivery),
    read_operation("POST", "/deliveries/{id}/redeliver", deliveries.redeliver_delivery),
    read_operation("POST", "/deliveries/redeliver", deliveries.redeliver_deliveries),
    read_operation("GET", "/events", events.list_events),
    read_operation("GET", "/receivers", receivers.list_receivers),
    read_operation("GET", "/receivers/{id}", receivers.get_receiver),
    read_operation("POST", "/receivers/{id}/pause", receivers.pause_receiver),
    read_operation("POST", "/receivers/{id}/resume", receivers.resume_receiver),
    read_operation("POST", "/receivers/{id}/test", receivers.send_test_event),
    *LISTENING_OPERATIONS,
    read_operation("POST", "/listen-keys", listening.create_listen_key),
    *MONITORING_OPERATIONS,
)
"""Every operation of the API, in the order of the document."""


def make_application(
    dependencies: Dependencies,
    operations: Sequence[Operation] = OPERATIONS,
    checks: Sequence[Middleware] = (),
) -> web.Application:
    """
    The API with its documentation, ready to be served.

    *operations* must be those from which the document of *dependencies* was built. A request passes
    *checks* before anything else.
    """
    app = _application(dependencies, operations, checks)
    add_docs(app, dependencies.document, dependencies.receiver_documents, dependencies.vectors)
    return app


def make_health_application(
    dependencies: Dependencies, checks: Sequence[Middleware] = ()
) -> web.Application:
    """What a process serves that accepts no invoices: listeners, health and metrics."""
    app = _application(dependencies, (*LISTENING_OPERATIONS, *MONITORING_OPERATIONS), checks)
    app[NOT_SERVED] = DISPATCHER_ONLY
    return app


DISPATCHER_ONLY = (
    "This process delivers and accepts no invoices (--role dispatcher): it serves listeners, "
    "/healthz, /readyz and /metrics. A process with --role api or all serves the rest."
)


def _application(
    dependencies: Dependencies, operations: Sequence[Operation], checks: Sequence[Middleware]
) -> web.Application:
    private: dict[object, Authenticate] = {
        one.handler: dependencies.authenticate_listener
        if one.takes_listen_key
        else dependencies.authenticate
        for one in operations
        if one.is_private
    }
    limits = dependencies.body_limits
    of_answers = replace(limits, size=max(limits.size, dependencies.listeners.answer_request_bytes))
    admission = Admission(
        private, dependencies.limit, limits, {listening.answer_delivery: of_answers}
    )
    app = web.Application(
        middlewares=[
            make_border(dependencies.tracing, private),
            *checks,
            admission.admit,
            validation_middleware,
            make_callback_evaluation(operations, dependencies.judge, dependencies.listener_of),
        ],
        client_max_size=of_answers.size,
    )
    app[DEPENDENCIES] = dependencies
    app[PUBLIC_PATH] = dependencies.public_path
    app[ERROR_PAGES] = {}
    app[EXPECT] = admission.expect
    use_parser(app, RequestParser(dependencies.currency, operations))
    for operation in operations:
        _add_routes(app, operation, admission, reserved_ids(operation, operations))
    hook = make_response_hook(
        dependencies.metrics,
        {one.handler: one.operation_id for one in operations},
        is_public_over_tls=dependencies.is_public_over_tls,
    )
    app.on_response_prepare.append(hook)
    # Before the server waits for the requests in progress: connections of listeners never end.
    app.on_shutdown.append(lambda _: _end_waits(dependencies))
    app.on_cleanup.append(lambda _: _close(dependencies))
    return app


async def _end_waits(dependencies: Dependencies) -> None:
    dependencies.feed.end()
    dependencies.listeners.close()


async def _close(dependencies: Dependencies) -> None:
    await dependencies.exposition.close()
    dependencies.reads.close()


def reserved_ids(operation: Operation, operations: Sequence[Operation]) -> list[str]:
    """
    The values of `{id}` that make the path of *operation* the path of another operation.

    They cannot be used as ids: in OpenAPI, a path without parameters goes before one with
    parameters.
    """
    before, has_id, after = operation.path.partition("{id}")
    others = [one.path for one in operations if has_id and "{" not in one.path]
    matching = [path for path in others if path.startswith(before) and path.endswith(after)]
    ids = {path[len(before) : len(path) - len(after)] for path in matching}
    return sorted(one for one in ids if one and "/" not in one)


def _add_routes(
    app: web.Application, operation: Operation, admission: Admission, reserved: Sequence[str]
) -> None:
    """Serve *operation* with and without the trailing slash; GET answers HEAD too."""
    methods = ("GET", "HEAD") if operation.method == "GET" else (operation.method,)
    for path in (operation.path, other_form(operation.path)):
        # Without a pattern, {id} would not match an id with braces in it.
        other_ids = f"(?!(?:{'|'.join(map(re.escape, reserved))})(?:/|$))" if reserved else ""
        pattern = path.replace("{id}", f"{{id:{other_ids}[^/]+}}")
        for method in methods:
            app.router.add_route(
                method, pattern, operation.handler, expect_handler=admission.expect
            )
