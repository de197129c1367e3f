"""
The bare floor: a handler with two marshmallow schemas and a shared ClientSession, nothing else.

No validation of URLs, no callback expression, no signature, no check of what the receiver
answers: what aiohttp and marshmallow alone can do here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from urllib.parse import quote

import orjson
import uvloop
from aiohttp import ClientSession, TCPConnector, web
from marshmallow import Schema, fields

CONCURRENCY = int(os.environ.get("INVOICES_ORIGIN_CONCURRENCY", "64"))


class InvoiceSchema(Schema):
    """What comes in."""

    id = fields.String(required=True)
    title = fields.String()
    customer = fields.String(required=True)
    total = fields.Decimal(required=True)


class EventSchema(Schema):
    """What goes out."""

    description = fields.String(required=True)
    paid = fields.Boolean(required=True)
    invoice_id = fields.String(required=True)


INVOICE, EVENT = InvoiceSchema(), EventSchema()
SESSION = web.AppKey("session", ClientSession)
SLOTS = web.AppKey("slots", asyncio.Semaphore)
CALLS = web.AppKey("calls", set[asyncio.Task[None]])


async def create_invoice(request: web.Request) -> web.Response:
    """Accept, and call back if asked to."""
    invoice = INVOICE.load(orjson.loads(await request.read()))
    if callback_url := request.query.get("callback_url"):
        url = f"{callback_url}/invoices/{quote(invoice['id'], safe='')}"
        calls = request.app[CALLS]
        call = asyncio.create_task(call_back(request.app, url, invoice["id"]))
        calls.add(call)
        call.add_done_callback(calls.discard)
    body = orjson.dumps({"msg": "Invoice received"})
    return web.Response(body=body, status=202, content_type="application/json")


async def call_back(app: web.Application, url: str, id_: str) -> None:
    """Send the event and read the answer."""
    event = {"description": "Invoice paid", "paid": True, "invoice_id": id_}
    body = orjson.dumps(EVENT.dump(event))
    headers = {"Content-Type": "application/json"}
    async with app[SLOTS], app[SESSION].post(url, data=body, headers=headers) as response:
        await response.read()


async def session(app: web.Application) -> AsyncIterator[None]:
    """One session for the life of the application."""
    app[SLOTS], app[CALLS] = asyncio.Semaphore(CONCURRENCY), set()
    async with ClientSession(connector=TCPConnector(limit=0)) as app[SESSION]:
        yield


def make() -> web.Application:
    """The application."""
    app = web.Application()
    app.router.add_post("/invoices/", create_invoice)
    app.cleanup_ctx.append(session)
    return app


if __name__ == "__main__":
    web.run_app(
        make(),
        host="127.0.0.1",
        port=int(os.environ["INVOICES_PORT"]),
        access_log=None,
        loop=uvloop.new_event_loop(),
    )
