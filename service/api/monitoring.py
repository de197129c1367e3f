"""The operations for monitoring: liveness, readiness and metrics."""

from aiohttp import hdrs, web
from aiohttp_apispec import docs

from schemas.health import HealthSchema, ReadinessSchema
from service.api.dependencies import DEPENDENCIES
from service.api.operations import answers, answers_text, refuses
from service.web.problems import problem_of_status
from service.web.responses import json_response

METRICS_EXAMPLE = """\
# HELP invoices_deliveries_due Deliveries that are due and not leased.
# TYPE invoices_deliveries_due gauge
invoices_deliveries_due 0.0
"""


@docs(
    tags=["operations"],
    operationId="is_alive",
    summary="Liveness",
    description="Depends on nothing else: restart the process if it does not answer.",
    security=[],
)
@answers(HealthSchema, "The process is alive.")
@refuses(400)
async def is_alive(_request: web.Request) -> web.Response:
    """Answer 200."""
    return json_response({"status": "ok"})


@docs(
    tags=["operations"],
    operationId="is_ready",
    summary="Readiness",
    description="Ready means: the database can be read, and written to if a write has failed "
    "recently; invoices are being collected and delivered.",
    security=[],
)
@answers(ReadinessSchema, "The service is ready.")
@refuses(400, 503)
async def is_ready(request: web.Request) -> web.Response:
    """Check the database and the loops."""
    dependencies = request.app[DEPENDENCIES]
    await dependencies.store.ping()
    if not dependencies.is_ready():
        return problem_of_status(503, "Invoices are accepted, but not collected and delivered.")
    mail = "paused" if dependencies.is_mail_paused() else "ok"
    return json_response({"status": "ok", "mail": mail})


@docs(
    tags=["operations"],
    operationId="get_metrics",
    summary="Metrics",
    description="Counters, gauges and histograms, in the text format of Prometheus or in "
    "OpenMetrics, as the `Accept` header prefers. Answers also while the database is unavailable.",
    security=[],
)
@answers_text("All metrics.", METRICS_EXAMPLE)
@refuses(400)
async def get_metrics(request: web.Request) -> web.Response:
    """All metrics, in the preferred format."""
    accept = request.headers.get(hdrs.ACCEPT, "")
    text, content_type = await request.app[DEPENDENCIES].exposition.text(accept)
    return web.Response(body=text, headers={hdrs.CONTENT_TYPE: content_type})
