"""The operations that get, list and redeliver deliveries."""

import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import hdrs, web
from aiohttp_apispec import docs, json_schema, match_info_schema, querystring_schema

from schemas.delivery import (
    CANCELLED_EXAMPLE,
    PENDING_EXAMPLE,
    REDELIVERY_EXAMPLE,
    DeliveryListQuerySchema,
    DeliveryPathSchema,
    DeliverySchema,
    ListedDeliveryPageSchema,
    ListedDeliverySchema,
    RedeliveredSchema,
    RedeliverySchema,
)
from schemas.explanation import ExplanationSchema
from service.api.dependencies import DEPENDENCIES
from service.api.operations import answers, refuses
from service.callbacks.url import parse_url
from service.domain.explanation import explain_delivery
from service.domain.states import DeadReason, DeliveryStatus
from service.errors import Conflict, FieldError, InvalidInput
from service.storage.history import DeliveryFilter
from service.web.middlewares import ACCOUNT_ID
from service.web.request_ids import request_id_of
from service.web.responses import json_head_response, json_response

log = logging.getLogger("invoices.api")

_delivery = DeliverySchema()
_listed = ListedDeliverySchema()
_explanation = ExplanationSchema()
_redelivered = RedeliveredSchema()


@docs(
    tags=["deliveries"],
    operationId="get_delivery",
    summary="Get a delivery",
    description="The delivery and its newest 100 attempts, ten of them with the body of your "
    "answer, and with what was sent. Its id is the `webhook-id` that was "
    "sent to you.",
)
@match_info_schema(DeliveryPathSchema)
@answers(DeliverySchema, "The delivery.")
@refuses(400, 401, 404, 422, 429, 503)
async def get_delivery(request: web.Request) -> web.Response:
    """One delivery with its attempts."""
    account_id, dependencies = request[ACCOUNT_ID], request.app[DEPENDENCIES]
    async with dependencies.reads.turn(account_id):
        row = await dependencies.store.history.find_delivery(
            account_id, request["match_info"]["id"]
        )
        return await dependencies.reads.answer(
            _delivery, shown(request, row), weight=len(row["attempts"])
        )


@docs(
    tags=["deliveries"],
    operationId="list_deliveries",
    summary="List deliveries",
    description="Newest first, one page at a time, each with its newest attempt. With several "
    "filters, all of them must match. A filter looks at 20,000 deliveries for one page: follow "
    "`next` until it is null, also after a page without items.",
)
@querystring_schema(DeliveryListQuerySchema)
@answers(ListedDeliveryPageSchema, "A page of deliveries.")
@refuses(400, 401, 422, 429, 503)
async def list_deliveries(request: web.Request) -> web.StreamResponse:
    """A page of deliveries; to HEAD, its status and headers, which no filter changes."""
    account_id, dependencies = request[ACCOUNT_ID], request.app[DEPENDENCIES]
    query = dict(request["querystring"])
    after, limit = query.pop("after", None), query.pop("limit")
    wanted = _filter(query, "query")
    async with dependencies.reads.turn(account_id):
        if request.method == hdrs.METH_HEAD:
            await dependencies.store.history.list_deliveries(
                account_id, DeliveryFilter(), after=after, limit=1
            )
            return json_head_response()
        rows, next_after = await dependencies.store.history.list_deliveries(
            account_id, wanted, after=after, limit=limit
        )
        return await dependencies.reads.answer_page(
            _listed.dump, [shown(request, row) for row in rows], next_after
        )


@docs(
    tags=["deliveries"],
    operationId="redeliver_delivery",
    summary="Redeliver a delivery",
    description="Attempts a delivery now, in any status, even if your receiver is on hold or in a "
    "cooldown; then the retry schedule begins again. If you have paused the receiver, it waits for "
    "you to resume it. Only an earlier event of the same invoice "
    "that is still `pending` is attempted before. The `webhook-id` and the body stay "
    "the same, so that your receiver can recognise a repeated event; the `cause` of the attempt "
    "is `redelivery`. A delivery whose attempt is in progress does not change.",
)
@match_info_schema(DeliveryPathSchema)
@answers(DeliverySchema, "The delivery, now pending.", 202, example=PENDING_EXAMPLE)
@refuses(400, 401, 404, 422, 429, 503)
async def redeliver_delivery(request: web.Request) -> web.Response:
    """Make one delivery pending again."""
    delivery_id = request["match_info"]["id"]
    account_id, dependencies = request[ACCOUNT_ID], request.app[DEPENDENCIES]
    now = dependencies.clock.now()
    async with dependencies.reads.turn(account_id):
        row, is_redelivered = await dependencies.store.redeliver(account_id, delivery_id, now)
        record_redelivered(request, 1 if is_redelivered else 0, delivery_id=delivery_id)
        return await dependencies.reads.answer(
            _delivery, shown(request, row), status=202, weight=len(row["attempts"])
        )


@docs(
    tags=["deliveries"],
    operationId="cancel_delivery",
    summary="Cancel a delivery",
    description="Makes a pending delivery dead, with the reason `cancelled`: it is not attempted "
    "again, and the later events of its invoice go on. An attempt that is in progress is not "
    "stopped, so your receiver may still get one request; whatever it answers changes nothing, "
    "and that attempt is told as `lost`. Cancelling it again changes nothing and is answered the "
    "same. Redelivering it makes it pending again.",
)
@match_info_schema(DeliveryPathSchema)
@answers(DeliverySchema, "The delivery, now dead.", example=CANCELLED_EXAMPLE)
@refuses(
    400,
    401,
    404,
    409,
    422,
    429,
    503,
    descriptions={409: "The delivery has ended already: delivered, or dead for another reason."},
)
async def cancel_delivery(request: web.Request) -> web.Response:
    """Make a pending delivery dead."""
    delivery_id = request["match_info"]["id"]
    account_id, dependencies = request[ACCOUNT_ID], request.app[DEPENDENCIES]
    now = dependencies.clock.now()
    async with dependencies.reads.turn(account_id):
        row, is_cancelled = await dependencies.store.cancel(account_id, delivery_id, now)
        if is_cancelled:
            dependencies.metrics.settled(DeliveryStatus.DEAD, DeadReason.CANCELLED)
            fields = {
                "request_id": request_id_of(request),
                "account_id": account_id,
                "delivery_id": delivery_id,
            }
            log.info("delivery.cancelled", extra={"fields": fields})
        elif row["reason"] != DeadReason.CANCELLED:
            because = f", with the reason {row['reason']}" if row["reason"] else ""
            raise Conflict(
                f"The delivery {delivery_id!r} is {row['status']}{because}: only a pending one can "
                "be cancelled."
            )
        return await dependencies.reads.answer(
            _delivery, shown(request, row), weight=len(row["attempts"])
        )


@docs(
    tags=["deliveries"],
    operationId="explain_delivery",
    summary="Explain a delivery",
    description="Why the callback came or not: one verdict, what it was concluded from, what "
    "happens next and when, and what you can do. Where a pending delivery only waits for the next "
    "attempt of the schedule, the verdict says how the last attempt failed; where anything else "
    "holds it, the verdict says what that is.",
)
@match_info_schema(DeliveryPathSchema)
@answers(ExplanationSchema, "The explanation.")
@refuses(400, 401, 404, 422, 429, 503)
async def get_delivery_why(request: web.Request) -> web.Response:
    """Why one delivery has come, or not."""
    account_id, dependencies = request[ACCOUNT_ID], request.app[DEPENDENCIES]
    async with dependencies.reads.turn(account_id):
        facts = await dependencies.store.history.facts_of_delivery(
            account_id, request["match_info"]["id"]
        )
        explanation = explain_delivery(facts, dependencies.clock.now())
        return await dependencies.reads.answer(_explanation, explanation)


@docs(
    tags=["deliveries"],
    operationId="redeliver_deliveries",
    summary="Redeliver dead deliveries",
    description="Redelivers every dead delivery that matches the filter, except those that you "
    "cancelled, for example after an outage of your receiver. Their number is not limited. The "
    "request is safe to repeat: pending deliveries are not counted again. If the "
    "connection is lost before the answer, send the request again to redeliver the rest.",
)
@json_schema(RedeliverySchema, example=REDELIVERY_EXAMPLE)
@answers(RedeliveredSchema, "All of them are now pending.", 202)
@refuses(400, 401, 408, 413, 415, 422, 429, 503)
async def redeliver_deliveries(request: web.Request) -> web.Response:
    """Make every dead delivery that matches the filter pending again."""
    wanted = _filter(dict(request["json"]), "body")
    account_id, dependencies = request[ACCOUNT_ID], request.app[DEPENDENCIES]
    now, count = dependencies.clock.now(), 0
    try:
        async for redelivered in dependencies.store.redeliver_all(account_id, wanted, now):
            count += redelivered
    finally:
        # These are pending, even if an error or the client has ended the request.
        record_redelivered(request, count, origin=wanted.origin)
    return json_response(_redelivered.dump({"count": count}), status=202)


def shown(request: web.Request, row: Mapping[str, Any]) -> dict[str, Any]:
    """A delivery as it is stored, with what it waits for."""
    reason = until = None
    if row["waits"]:
        dependencies = request.app[DEPENDENCIES]
        now = dependencies.clock.now()
        is_paced = dependencies.store.is_paced(row["account_id"], now)
        is_queued = is_paced and dependencies.is_queued(row["receiver"], row["id"])
        reason, until = row["waits"].reason_at(now, is_paced=is_paced, is_queued=is_queued)
    return {**row, "waiting_for": reason, "waiting_until": until}


def _filter(values: dict[str, Any], location: str) -> DeliveryFilter:
    """
    The filter of *values*, which were sent in *location*.

    Raises:
        InvalidInput: if their origin is not valid.
    """
    if "origin" in values:
        try:
            # Deliveries are stored with the port in their origin.
            values["origin"] = parse_url(values["origin"]).origin
        except ValueError as error:
            message = f"The value is not an origin: {error}."
            raise InvalidInput([FieldError(location, "/origin", message)]) from None
    return DeliveryFilter(**values)


def record_redelivered(request: web.Request, count: int, **filters: str | None) -> None:
    """Count and log a redelivery of *count* deliveries."""
    request.app[DEPENDENCIES].metrics.redelivered(count)
    known = {"request_id": request_id_of(request), "account_id": request[ACCOUNT_ID]}
    log.info("deliveries.redelivered", extra={"fields": {**known, **filters, "count": count}})
