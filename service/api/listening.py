"""The operations of listeners, which take callbacks over a connection of their own."""

import asyncio
import socket
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import hdrs, web
from aiohttp_apispec import docs, json_schema, match_info_schema, querystring_schema

from schemas.listening import (
    ArrivedEventsSchema,
    ListenerAnswerSchema,
    ListenerAttemptPathSchema,
    ListenerDeliveryPathSchema,
    ListenerPathSchema,
    ListenKeySchema,
    StreamQuerySchema,
)
from service.api.deliveries import record_redelivered
from service.api.dependencies import DEPENDENCIES, Dependencies, ListenerStream
from service.api.operations import answers, answers_events, answers_nothing, refuses
from service.domain.listening import (
    LISTENER_SILENCE,
    AttemptKey,
    StreamEnd,
    listener_origin,
)
from service.errors import Conflict, NotFound, StorageUnavailable, Unauthorized
from service.web.middlewares import ACCOUNT_ID
from service.web.responses import json_response

KEYS: list[dict[str, list[str]]] = [{"key": []}, {"listen_key": []}]
"""An account's own key, or one that permits nothing but to listen."""

LOOK_SECONDS = 1.0
"""How often a connection without events is looked at: its client may have closed it."""

KEY_SECONDS = 10.0
"""How often the key of a connection is checked again."""

ENDED = "This connection of the listener has ended. Connect again."
TOO_LATE = (
    "This attempt has ended, or is answered already: an answer counts once, until `deadline_at`."
)

IN_PROGRESS = "An attempt of this delivery is in progress, so nothing was changed."

STREAM_EXAMPLE = """\
id: 2
event: delivery
data: {"id":"msg_019c13ec9ff47f3cb0d2a64e1b9c8d57","attempt":1,\
"deadline_at":"2026-01-31T12:00:15.502Z","method":"POST","path":"/invoices/2expen51ve",\
"headers":{"webhook-id":"msg_019c13ec9ff47f3cb0d2a64e1b9c8d57"},"body_base64":"e30="}

"""

_key = ListenKeySchema()


@docs(
    tags=["listening"],
    operationId="open_stream",
    summary="Take callbacks over this connection",
    description="For `invoices listen`: with `{service}/listen/{name}` as the `callback_url` of "
    "an invoice, callbacks are not sent to that URL, but come as server-sent events of this "
    "answer. Without a connection they wait, and lose no attempts. Of several connections the "
    "newest is the one.\n\n"
    "`connected`: first. `delivery`: a request to make, with its `deadline_at`; send the answer "
    "to `POST /listen/{name}/{id}/{attempt}`. `settled`: what an attempt came to. `ping`: "
    "every 10 seconds. `displaced`: another connection has taken the name, and this one ends. "
    "`closed`: this one ends for another `reason`.",
    security=KEYS,
)
@match_info_schema(ListenerPathSchema)
@querystring_schema(StreamQuerySchema)
@answers_events("Events, until one of both sides closes the connection.", STREAM_EXAMPLE)
@refuses(400, 401, 422, 429, 503)
async def open_stream(request: web.Request) -> web.StreamResponse:
    """Send the events of a listener as they come."""
    headers = {hdrs.CONTENT_TYPE: "text/event-stream", "X-Accel-Buffering": "no"}
    if request.method == hdrs.METH_HEAD:
        return web.Response(headers=headers)
    dependencies, query = request.app[DEPENDENCIES], request["querystring"]
    listeners = dependencies.listeners
    stream = await listeners.connect(
        request[ACCOUNT_ID],
        request["match_info"]["name"],
        acknowledges=query["acknowledge"] == "true",
        replaces=query["replaces"],
    )
    end = StreamEnd.GONE
    response = web.StreamResponse(headers=headers)
    try:
        _notice_a_dead_link(request)
        await response.prepare(request)
        end = await _send_events(request, response, stream)
    except (ConnectionError, TimeoutError):
        # The client has closed the connection, or reads nothing.
        pass
    finally:
        with suppress(StorageUnavailable):
            await listeners.disconnect(stream, end)
    # What is left unread would delay the end of the connection.
    response.force_close()
    if request.transport is not None and stream.end is StreamEnd.SILENT:
        request.transport.abort()
    return response


def _notice_a_dead_link(request: web.Request) -> None:
    """Have the kernel end the connection if what is sent does not arrive, where it can do so."""
    transport = request.transport
    connection: Any = transport.get_extra_info("socket") if transport else None
    if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = round(LISTENER_SILENCE.total_seconds() * 1000)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


async def _send_events(
    request: web.Request, response: web.StreamResponse, stream: ListenerStream
) -> StreamEnd:
    """Send events until the end of *stream*, or of its key; returns why it has ended."""
    loop, dependencies = asyncio.get_running_loop(), request.app[DEPENDENCIES]
    check_at = loop.time() + KEY_SECONDS
    while True:
        event = await stream.next(LOOK_SECONDS)
        if request.transport is None or request.transport.is_closing():
            return StreamEnd.GONE
        if event is not None:
            content = orjson.dumps(event.data, option=orjson.OPT_UTC_Z)
            async with asyncio.timeout(LISTENER_SILENCE.total_seconds()):
                await response.write(
                    b"id: %d\nevent: %b\ndata: %b\n\n"
                    % (event.number, event.name.encode(), content)
                )
        elif stream.end is not None:
            return stream.end
        if loop.time() >= check_at and stream.end is None:
            check_at = loop.time() + KEY_SECONDS
            if not await _is_valid(request, dependencies):
                await dependencies.listeners.disconnect(stream, StreamEnd.REFUSED)


async def _is_valid(request: web.Request, dependencies: Dependencies) -> bool:
    """Whether the key of *request* is still valid."""
    try:
        await dependencies.authenticate_listener(request.headers.get(hdrs.AUTHORIZATION))
    except Unauthorized:
        return False
    except StorageUnavailable:
        # The outage may end before the key does.
        pass
    return True


@docs(
    tags=["listening"],
    operationId="acknowledge_events",
    summary="Acknowledge events of a connection",
    description="Says that the events up to `event` have arrived, pings included. A connection "
    "with `acknowledge=true` that acknowledges nothing for 22 seconds is closed, and what has not "
    "arrived is sent over the next one.",
    security=KEYS,
)
@match_info_schema(ListenerPathSchema)
@json_schema(ArrivedEventsSchema)
@answers_nothing("Noted.")
@refuses(400, 401, 408, 409, 413, 415, 422, 429, 503, descriptions={409: ENDED})
async def acknowledge_events(request: web.Request) -> web.Response:
    """Note which events have arrived."""
    seen, name = request["json"], request["match_info"]["name"]
    is_current = await request.app[DEPENDENCIES].listeners.note_seen(
        request[ACCOUNT_ID], name, seen["stream"], seen["event"]
    )
    if not is_current:
        raise Conflict(ENDED)
    return web.Response(status=HTTPStatus.NO_CONTENT)


@docs(
    tags=["listening"],
    operationId="answer_delivery",
    summary="Answer a delivery",
    description="Sends what the local server answered to the request of the event `delivery`. It "
    "counts as the answer of a receiver that was called: the same rules, the same retry schedule.",
    security=KEYS,
)
@match_info_schema(ListenerAttemptPathSchema)
@json_schema(
    ListenerAnswerSchema,
    example={
        "status": 200,
        "headers": {"Content-Type": "application/json"},
        "body_base64": "eyJvayI6IHRydWV9",
    },
)
@answers_nothing("The answer is the result of the attempt.")
@refuses(400, 401, 408, 409, 413, 415, 422, 429, 503, descriptions={409: TOO_LATE})
async def answer_delivery(request: web.Request) -> web.Response:
    """Take the answer of an attempt."""
    place = request["match_info"]
    key = AttemptKey(
        account_id=request[ACCOUNT_ID],
        origin=listener_origin(place["name"]),
        delivery_id=place["id"],
        number=place["attempt"],
    )
    if not await request.app[DEPENDENCIES].listeners.answer(key, orjson.dumps(request["json"])):
        raise Conflict(TOO_LATE)
    return web.Response(status=HTTPStatus.NO_CONTENT)


@docs(
    tags=["listening"],
    operationId="redeliver_to_listener",
    summary="Redeliver to a listener",
    description="Attempts a delivery of this listener now, in any status, as "
    "`POST /deliveries/{id}/redeliver` does with the key of the account. Deliveries to receivers "
    "and to other listeners are not found here.",
    security=KEYS,
)
@match_info_schema(ListenerDeliveryPathSchema)
@answers_nothing("The delivery is pending.")
@refuses(400, 401, 404, 409, 422, 429, 503, descriptions={409: IN_PROGRESS})
async def redeliver_to_listener(request: web.Request) -> web.Response:
    """Make one delivery of a listener pending again."""
    place, account_id = request["match_info"], request[ACCOUNT_ID]
    dependencies, delivery_id = request.app[DEPENDENCIES], place["id"]
    async with dependencies.reads.turn(account_id):
        row = await dependencies.store.history.find_delivery(account_id, delivery_id)
        if row["origin"] != listener_origin(place["name"]):
            raise NotFound(f"There is no delivery {delivery_id!r}.")
        _, is_redelivered = await dependencies.store.redeliver(
            account_id, delivery_id, dependencies.clock.now()
        )
    if not is_redelivered:
        raise Conflict(IN_PROGRESS)
    record_redelivered(request, 1, delivery_id=delivery_id)
    return web.Response(status=HTTPStatus.NO_CONTENT)


@docs(
    tags=["listening"],
    operationId="create_listen_key",
    summary="Create a key to listen",
    description="A key for a developer, in place of the key of your account: it permits nothing "
    "but to listen, answer and redeliver to a listener, and expires after 24 hours. 1,000 of them "
    "are valid at once; a further one replaces the oldest.",
)
@answers(ListenKeySchema, "The key, which is not shown again.", 201)
@refuses(400, 401, 429, 503)
async def create_listen_key(request: web.Request) -> web.Response:
    """Issue a key that permits nothing but to listen."""
    key, expires_at = await request.app[DEPENDENCIES].issue_listen_key(request[ACCOUNT_ID])
    return json_response(_key.dump({"key": key, "expires_at": expires_at}), status=201)
