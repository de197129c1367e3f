"""The operations that list, pause, resume and test receivers."""

import logging
from datetime import datetime

from aiohttp import web
from aiohttp_apispec import docs, match_info_schema, querystring_schema

from schemas.page import PageQuerySchema
from schemas.receiver import (
    PAUSED_EXAMPLE,
    RESUMED_EXAMPLE,
    ReceiverPageSchema,
    ReceiverPathSchema,
    ReceiverSchema,
    SentTestSchema,
)
from service.api.dependencies import DEPENDENCIES
from service.api.operations import answers, refuses
from service.callbacks.exchange import Exchange, Message
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.domain import test_events
from service.domain.delivery import Delivery
from service.domain.ids import new_id
from service.domain.receivers import KnownReceiver
from service.errors import Conflict, EvaluationError
from service.web.middlewares import ACCOUNT_ID, TRACEPARENT
from service.web.request_ids import request_id_of
from service.web.responses import json_response

log = logging.getLogger("invoices.api")

_receiver = ReceiverSchema()
_tested = SentTestSchema()


@docs(
    tags=["receivers"],
    operationId="list_receivers",
    summary="List receivers",
    description="Your callback URLs in their order, one page at a time, each with its state: those "
    "that had an attempt, and those with pending deliveries. Every process tells the same.",
)
@querystring_schema(PageQuerySchema)
@answers(ReceiverPageSchema, "A page of receivers.")
@refuses(400, 401, 422, 429, 503)
async def list_receivers(request: web.Request) -> web.Response:
    """A page of receivers."""
    account_id, dependencies = request[ACCOUNT_ID], request.app[DEPENDENCIES]
    query, now = request["querystring"], dependencies.clock.now()
    async with dependencies.reads.turn(account_id):
        known, after = await dependencies.store.receivers.page(
            account_id, now, after=query.get("after"), limit=query["limit"]
        )
        rows = [one.shown_at(now) for one in known]
        return await dependencies.reads.answer_page(_receiver.dump, rows, after)


@docs(
    tags=["receivers"],
    operationId="get_receiver",
    summary="Get a receiver",
    description="One of your callback URLs with its state.",
)
@match_info_schema(ReceiverPathSchema)
@answers(ReceiverSchema, "The receiver.")
@refuses(400, 401, 404, 422, 429, 503)
async def get_receiver(request: web.Request) -> web.Response:
    """One receiver."""
    async with request.app[DEPENDENCIES].reads.turn(request[ACCOUNT_ID]):
        return _answer(request, await _find(request))


@docs(
    tags=["receivers"],
    operationId="pause_receiver",
    summary="Pause a receiver",
    description="No attempt is made for this callback URL until you resume it, not even one that "
    "you ask for by hand. An attempt that is in progress ends as usual. Deliveries wait meanwhile "
    "(`waiting_for` is `paused`): none uses up its retry schedule, and none is lost. They count as "
    "open deliveries of your account. Pausing a paused receiver changes nothing.",
)
@match_info_schema(ReceiverPathSchema)
@answers(ReceiverSchema, "The receiver, now paused.", example=PAUSED_EXAMPLE)
@refuses(400, 401, 404, 422, 429, 503)
async def pause_receiver(request: web.Request) -> web.Response:
    """Give a receiver no attempts."""
    store = request.app[DEPENDENCIES].store
    now = request.app[DEPENDENCIES].clock.now()
    async with request.app[DEPENDENCIES].reads.turn(request[ACCOUNT_ID]):
        known = await _find(request)
        if await store.receivers.pause(known, now):
            log.info("receiver.paused", extra={"fields": _fields(request, known)})
        return _answer(request, await _find(request))


@docs(
    tags=["receivers"],
    operationId="resume_receiver",
    summary="Resume a receiver",
    description="What waited is attempted again at once, as fast as your receiver answers. "
    "Resuming a receiver that is not paused changes nothing.",
)
@match_info_schema(ReceiverPathSchema)
@answers(ReceiverSchema, "The receiver, no longer paused.", example=RESUMED_EXAMPLE)
@refuses(400, 401, 404, 422, 429, 503)
async def resume_receiver(request: web.Request) -> web.Response:
    """Give a paused receiver attempts again."""
    async with request.app[DEPENDENCIES].reads.turn(request[ACCOUNT_ID]):
        known = await _find(request)
        if await request.app[DEPENDENCIES].store.receivers.resume(known):
            log.info("receiver.resumed", extra={"fields": _fields(request, known)})
        return _answer(request, await _find(request))


@docs(
    tags=["receivers"],
    operationId="send_test_event",
    summary="Send a test event",
    description="Sends your receiver an event that is signed, attempted, retried and recorded like "
    'any other, at once, even on hold or in a cooldown. Its body has `"test": true`, its '
    "`invoice_id` begins with `test_`, and there is no such invoice. To a paused receiver it is "
    "sent once you resume it.",
)
@match_info_schema(ReceiverPathSchema)
@answers(SentTestSchema, "The test event is stored; an attempt follows.", 202)
@refuses(
    *(400, 401, 404, 409, 422, 429, 503),
    descriptions={409: "The URL is too long for a test event, or cannot be called."},
)
async def send_test_event(request: web.Request) -> web.Response:
    """Send a receiver a test event."""
    account_id, dependencies = request[ACCOUNT_ID], request.app[DEPENDENCIES]
    async with dependencies.reads.turn(account_id):
        known = await _find(request)
    delivery = test_event(
        account_id, known, dependencies.clock.now(), request_id_of(request), request[TRACEPARENT]
    )
    await dependencies.admit_delivery(account_id)
    await dependencies.store.receivers.add_test_event(delivery)
    fields = {**_fields(request, known), "delivery_id": delivery.id}
    log.info("receiver.tested", extra={"fields": fields})
    return json_response(_tested.dump({"delivery_id": delivery.id}), status=202)


async def _find(request: web.Request) -> KnownReceiver:
    dependencies = request.app[DEPENDENCIES]
    return await dependencies.store.receivers.find(
        request[ACCOUNT_ID], request["match_info"]["id"], dependencies.clock.now()
    )


def _answer(request: web.Request, known: KnownReceiver) -> web.Response:
    now = request.app[DEPENDENCIES].clock.now()
    return json_response(_receiver.dump(known.shown_at(now)))


def _fields(request: web.Request, known: KnownReceiver) -> dict[str, str]:
    """What is logged: the origin alone, because the path of a URL may hold a secret."""
    return {
        "request_id": request_id_of(request),
        "account_id": request[ACCOUNT_ID],
        "origin": known.origin,
    }


def test_event(
    account_id: str,
    known: KnownReceiver,
    now: datetime,
    request_id: str,
    traceparent: str | None = None,
) -> Delivery:
    """
    The delivery of a test event for a receiver, asked for by hand.

    Raises:
        Conflict: if the URL of the receiver makes no URL for a test event.
    """
    callback, invoice_id = INVOICE_NOTIFICATION, test_events.new_test_id()
    message = Message(query={"callback_url": known.url}, body={"id": invoice_id})
    try:
        url = callback.url_for(Exchange("", "POST", message))
    except EvaluationError as error:
        raise Conflict(f"This receiver cannot be sent a test event: {error}") from None
    assert url is not None  # noqa: S101 -- the value that it begins with is given
    content = {
        "description": test_events.DESCRIPTION,
        "paid": test_events.IS_PAID,
        "invoice_id": invoice_id,
        "test": True,
    }
    return Delivery(
        id=f"msg_{new_id()}",
        account_id=account_id,
        invoice_key=invoice_id,
        invoice_id=invoice_id,
        sequence=1,
        collector=test_events.COLLECTOR,
        callback=callback.name,
        url=url.text,
        origin=url.origin,
        receiver=known.receiver,
        body=callback.render(content),
        is_asked=True,
        accepted_at=now,
        created_at=now,
        leased_until=None,
        lease_token=0,
        request_id=request_id,
        traceparent=traceparent,
    )
