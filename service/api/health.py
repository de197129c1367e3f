"""Whether the process lives, and whether it can do its work."""

from __future__ import annotations

from aiohttp import web
from aiohttp_apispec import docs

from schemas.health import HealthSchema
from service.api.dependencies import IS_READY, STORE
from service.web.problems import problem_of_status
from service.web.responses import answers, json_response, refuses


@docs(
    tags=["operations"],
    operationId="is_alive",
    summary="Whether the process lives",
    description="Asks nobody else: restart the process if this does not answer.",
    security=[],
)
@answers(HealthSchema, "It lives.")
@refuses(400)
async def is_alive(_request: web.Request) -> web.Response:
    """Answer, which is all there is to it."""
    return json_response({"status": "ok"})


@docs(
    tags=["operations"],
    operationId="is_ready",
    summary="Whether the service can do its work",
    description="The database can be read, and written to if that has failed lately; invoices are "
    "being collected and delivered.",
    security=[],
)
@answers(HealthSchema, "It can.")
@refuses(400, 503)
async def is_ready(request: web.Request) -> web.Response:
    """Ask the database and the loops."""
    await request.app[STORE].ping()
    if not request.app[IS_READY]():
        return problem_of_status(503, "Invoices are accepted, but not collected and delivered.")
    return json_response({"status": "ok"})
