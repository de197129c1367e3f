"""The operation that takes what Stripe sends."""

from aiohttp import web
from aiohttp_apispec import docs, match_info_schema

from schemas.refund import CollectorPathSchema, WebhookTakenSchema
from service.api.dependencies import DEPENDENCIES
from service.api.operations import answers, refuses
from service.errors import MalformedRequest
from service.web.responses import json_response

SIGNATURE = "Stripe-Signature"

NOT_SIGNED = "The signature is not one of this account, or is too old."
"""The same for an unknown account: nobody learns here which accounts exist."""


@docs(
    tags=["operations"],
    operationId="take_stripe_webhook",
    summary="Take a webhook of Stripe",
    description="For Stripe alone, which signs each webhook with a secret of the account. What it "
    "tells is read from Stripe again.",
    security=[],
)
@match_info_schema(CollectorPathSchema)
@answers(WebhookTakenSchema, "The webhook was taken, now or before.")
@refuses(400, 408, 413, 415, 503)
async def take_stripe_webhook(request: web.Request) -> web.Response:
    """Verify one webhook, and have Stripe asked about it."""
    stripe = request.app[DEPENDENCIES].stripe
    signature = request.headers.get(SIGNATURE, "")
    account_id, body = request["match_info"]["account_id"], await request.read()
    if stripe is None or not await stripe.take(account_id, body, signature):
        raise MalformedRequest(NOT_SIGNED)
    return json_response({"received": True})
