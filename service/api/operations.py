"""
Every operation of the API, in the order of the document.

The application and the document are both made from this table.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from service.api import deliveries, health, invoices, metrics

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Expect = Callable[[web.Request], Awaitable[web.StreamResponse | None]]

Operation = tuple[str, str, Handler]
"""Method, path as documented, handler. Every path works with and without the slash."""

HEALTH_OPERATIONS: tuple[Operation, ...] = (
    (hdrs.METH_GET, "/healthz", health.is_alive),
    (hdrs.METH_GET, "/readyz", health.is_ready),
    (hdrs.METH_GET, "/metrics", metrics.get_metrics),
)
"""What every process serves, whatever its role."""

OPERATIONS: tuple[Operation, ...] = (
    (hdrs.METH_POST, "/invoices/", invoices.create_invoice),
    (hdrs.METH_GET, "/invoices/", invoices.list_invoices),
    (hdrs.METH_GET, "/invoices/{id}", invoices.get_invoice),
    (hdrs.METH_GET, "/invoices/{id}/deliveries", invoices.list_deliveries_of_invoice),
    (hdrs.METH_GET, "/deliveries", deliveries.list_deliveries),
    (hdrs.METH_GET, "/deliveries/{id}", deliveries.get_delivery),
    (hdrs.METH_POST, "/deliveries/{id}/redeliver", deliveries.redeliver_delivery),
    (hdrs.METH_POST, "/deliveries/redeliver", deliveries.redeliver_deliveries),
    *HEALTH_OPERATIONS,
)


def needs_account(operation: Operation) -> bool:
    """Whether only an account may ask: so it is unless the operation declares no security."""
    declared = operation[2].__apispec__  # type: ignore[attr-defined]
    return "security" not in declared or declared["security"] != []


def operation_id_of(operation: Operation) -> str:
    """What *operation* is called in the document."""
    name: str = operation[2].__apispec__["operationId"]  # type: ignore[attr-defined]
    return name


def add_operation(app: web.Application, operation: Operation, expect: Expect) -> None:
    """Serve *operation* under both forms of its path; what answers GET answers HEAD too."""
    method, path, handler = operation
    for form in (path, other_form(path)):
        # By itself, {id} would not match an id with braces in it.
        pattern = form.replace("{id}", "{id:[^/]+}")
        app.router.add_route(method, pattern, handler, expect_handler=expect)
        if method == hdrs.METH_GET:
            app.router.add_route(hdrs.METH_HEAD, pattern, handler, expect_handler=expect)


def other_form(path: str) -> str:
    """*path* with a trailing slash if it has none, and without if it has one."""
    return path.removesuffix("/") if path.endswith("/") else path + "/"
