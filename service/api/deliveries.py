"""Deliveries over REST: what was sent to whom, and what came of each attempt."""

from __future__ import annotations

from aiohttp import web
from aiohttp_apispec import docs, match_info_schema, querystring_schema

from schemas.delivery import (
    DeliveryListQuerySchema,
    DeliveryPageSchema,
    DeliveryPathSchema,
    DeliverySchema,
)
from service.api.keys import ACCOUNT_ID, STORE
from service.api.responses import answers, json_response, refuses
from service.callbacks.url import parse_url
from service.errors import InvalidInput, Mistake
from service.storage.history import DeliveryFilter

_shown = DeliverySchema()
_page = DeliveryPageSchema()


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
    if "origin" in query:
        query["origin"] = _origin(query["origin"])
    told, next_after = await request.app[STORE].list_deliveries(
        request[ACCOUNT_ID], DeliveryFilter(**query), after=after, limit=limit
    )
    return json_response(_page.dump({"items": told, "next": next_after}))


def _origin(text: str) -> str:
    """The origin that *text* says, its port written out as deliveries keep it."""
    try:
        return parse_url(text).origin
    except ValueError as error:
        raise InvalidInput(
            [Mistake("query", "/origin", f"The value is no origin: {error}.")]
        ) from None
