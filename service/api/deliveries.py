"""Deliveries over REST: what was sent to whom, and what came of each attempt."""

from __future__ import annotations

import logging
from typing import Any

from aiohttp import web
from aiohttp_apispec import docs, json_schema, match_info_schema, querystring_schema

from schemas.delivery import (
    REDELIVERY_EXAMPLE,
    DeliveryListQuerySchema,
    DeliveryPageSchema,
    DeliveryPathSchema,
    DeliverySchema,
    RedeliveredSchema,
    RedeliverySchema,
)
from service.api.dependencies import ACCOUNT_ID, CLOCK, METRICS, STORE
from service.callbacks.url import parse_url
from service.errors import InvalidInput, Mistake
from service.storage.history import DeliveryFilter
from service.web.request_ids import request_id_of
from service.web.responses import answers, json_response, refuses

log = logging.getLogger("invoices.api")

_shown = DeliverySchema()
_page = DeliveryPageSchema()
_redelivered = RedeliveredSchema()


@docs(
    tags=["deliveries"],
    operationId="get_delivery",
    summary="Look at one delivery",
    description="Its id is the `webhook-id` that your receiver saw; every attempt is listed.",
)
@match_info_schema(DeliveryPathSchema)
@answers(DeliverySchema, "The delivery.")
@refuses(400, 401, 404, 422, 429, 503)
async def get_delivery(request: web.Request) -> web.Response:
    """One delivery with its attempts."""
    delivery_id = request["match_info"]["id"]
    told = await request.app[STORE].find_delivery(request[ACCOUNT_ID], delivery_id)
    return json_response(_shown.dump(told))


@docs(
    tags=["deliveries"],
    operationId="list_deliveries",
    summary="List deliveries",
    description="Newest first, a page at a time; every filter narrows further.",
)
@querystring_schema(DeliveryListQuerySchema)
@answers(DeliveryPageSchema, "A page of deliveries.")
@refuses(400, 401, 422, 429, 503)
async def list_deliveries(request: web.Request) -> web.Response:
    """A page of deliveries."""
    query = dict(request["querystring"])
    after, limit = query.pop("after", None), query.pop("limit")
    told, next_after = await request.app[STORE].list_deliveries(
        request[ACCOUNT_ID], _filter(query, "query"), after=after, limit=limit
    )
    return json_response(_page.dump({"items": told, "next": next_after}))


@docs(
    tags=["deliveries"],
    operationId="redeliver_delivery",
    summary="Deliver once more",
    description="Makes a delivery that is `delivered` or `dead` pending again, to be attempted "
    "at once and then by the retry schedule from its beginning. The `webhook-id` and the body "
    "stay what they were, so that your receiver can recognise what it had; the attempt tells "
    "its `cause`. A delivery that is `pending` stays as it is.",
)
@match_info_schema(DeliveryPathSchema)
@answers(DeliverySchema, "The delivery, which is pending now.", 202)
@refuses(400, 401, 404, 422, 429, 503)
async def redeliver_delivery(request: web.Request) -> web.Response:
    """Make one delivery pending again."""
    delivery_id = request["match_info"]["id"]
    account_id, now = request[ACCOUNT_ID], request.app[CLOCK].now()
    told, is_redelivered = await request.app[STORE].redeliver(account_id, delivery_id, now)
    _tell(request, 1 if is_redelivered else 0, delivery_id=delivery_id)
    return json_response(_shown.dump(told), status=202)


@docs(
    tags=["deliveries"],
    operationId="redeliver_deliveries",
    summary="Deliver all that is dead once more",
    description="As for one delivery, for every dead one that the filter takes: however many, "
    "after an outage of your receiver say. Safe to repeat: what is pending already is not "
    "counted again. If the connection breaks before the answer, repeat the request, and what "
    "was not reached yet follows.",
)
@json_schema(RedeliverySchema, example=REDELIVERY_EXAMPLE)
@answers(RedeliveredSchema, "All of them are pending now.", 202)
@refuses(400, 401, 408, 413, 415, 422, 429, 503)
async def redeliver_deliveries(request: web.Request) -> web.Response:
    """Make every dead delivery that the filter takes pending again."""
    wanted = _filter(dict(request["json"]), "body")
    account_id, now, count = request[ACCOUNT_ID], request.app[CLOCK].now(), 0
    try:
        async for redelivered in request.app[STORE].redeliver_all(account_id, wanted, now):
            count += redelivered
    finally:
        # Those that were reached are pending, whatever ended it.
        _tell(request, count, origin=wanted.origin)
    return json_response(_redelivered.dump({"count": count}), status=202)


def _filter(values: dict[str, Any], location: str) -> DeliveryFilter:
    """The filter that *values* say, which stood in the *location* of the request."""
    if "origin" in values:
        values["origin"] = _origin(values["origin"], location)
    return DeliveryFilter(**values)


def _origin(text: str, location: str) -> str:
    """The origin that *text* says, its port written out as deliveries keep it."""
    try:
        return parse_url(text).origin
    except ValueError as error:
        raise InvalidInput(
            [Mistake(location, "/origin", f"The value is no origin: {error}.")]
        ) from None


def _tell(request: web.Request, count: int, **asked: str | None) -> None:
    """Count and log a redelivery, and what was *asked* for."""
    request.app[METRICS].redelivered(count)
    known = {"request_id": request_id_of(request), "account_id": request[ACCOUNT_ID]}
    log.info("deliveries.redelivered", extra={"fields": {**known, **asked, "count": count}})
