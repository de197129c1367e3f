"""Invoices over REST: sent in, found and listed."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote

import orjson
from aiohttp import web
from aiohttp_apispec import docs, json_schema, match_info_schema, querystring_schema

from schemas.delivery import DeliveryPageSchema
from schemas.invoice import (
    EXAMPLE,
    CallbackQuerySchema,
    CollectedInvoiceSchema,
    InvoiceListQuerySchema,
    InvoicePageSchema,
    InvoicePathSchema,
    InvoiceReceivedSchema,
    InvoiceSchema,
)
from schemas.money import to_text
from service.api.dependencies import ACCOUNT_ID, CALLED, CLOCK, METRICS, STORE, TRACEPARENT
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.domain.states import Acceptance
from service.errors import Conflict
from service.storage.invoices import Call, NewInvoice
from service.web.request_ids import request_id_of
from service.web.responses import answers, json_answer, json_response, refuses

log = logging.getLogger("invoices.api")

RECEIVED = orjson.dumps({"msg": "Invoice received"})

_shown = CollectedInvoiceSchema()
_page = InvoicePageSchema()
_deliveries = DeliveryPageSchema()


@docs(
    tags=["invoices"],
    operationId="create_invoice",
    summary="Send in an invoice",
    description="Stores the invoice for good, sends it to the customer and collects the money. "
    "Whatever happens to it is told to your API at `callback_url`: see the **Callbacks** of "
    "this operation.\n\n"
    "The id is yours, and makes the request safe to repeat: after a lost connection, send the "
    "same invoice again.",
    callbacks=[INVOICE_NOTIFICATION],
)
@querystring_schema(CallbackQuerySchema)
@json_schema(InvoiceSchema, example=EXAMPLE)
@answers(
    InvoiceReceivedSchema,
    "Stored; the callbacks will follow.",
    202,
    headers={"Location": ("Where the invoice can be looked at.", "/invoices/2expen51ve")},
)
@answers(
    InvoiceReceivedSchema,
    "The same invoice was received before; nothing changed.",
    200,
    headers={"Idempotent-Replayed": ("This answer stands for an earlier one.", "true")},
)
@refuses(400, 401, 408, 409, 413, 415, 422, 429, 503)
async def create_invoice(request: web.Request) -> web.Response:
    """202 only after the invoice is committed; 200 for the same one again."""
    invoice = _new_invoice(request)
    acceptance = await request.app[STORE].accept(invoice)
    request.app[METRICS].received(acceptance)
    if acceptance is Acceptance.CONFLICT:
        raise Conflict(
            f"The invoice {invoice.id!r} was received before with other content. "
            "An invoice cannot be changed; send another one with an id of its own."
        )
    if acceptance is Acceptance.REPLAYED:
        log.info("invoice.replayed", extra={"fields": _log_fields(invoice)})
        return json_answer(RECEIVED, headers={"Idempotent-Replayed": "true"})
    log.info("invoice.accepted", extra={"fields": _log_fields(invoice)})
    location = f"/invoices/{quote(invoice.id, safe='')}"
    return json_answer(RECEIVED, status=202, headers={"Location": location})


@docs(
    tags=["invoices"],
    operationId="get_invoice",
    summary="Look at one invoice",
    description="Its state, and everything that happened to it so far.",
)
@match_info_schema(InvoicePathSchema)
@answers(CollectedInvoiceSchema, "The invoice.")
@refuses(400, 401, 404, 422, 429, 503)
async def get_invoice(request: web.Request) -> web.Response:
    """One invoice with its events."""
    invoice_id = request["match_info"]["id"]
    row = await request.app[STORE].find_invoice(request[ACCOUNT_ID], invoice_id)
    return json_response(_shown.dump(_with_total(row)))


@docs(
    tags=["invoices"],
    operationId="list_invoices",
    summary="List invoices",
    description="Newest first, a page at a time.",
)
@querystring_schema(InvoiceListQuerySchema)
@answers(InvoicePageSchema, "A page of invoices.")
@refuses(400, 401, 422, 429, 503)
async def list_invoices(request: web.Request) -> web.Response:
    """A page of invoices."""
    query = request["querystring"]
    rows, after = await request.app[STORE].list_invoices(
        request[ACCOUNT_ID],
        status=query.get("status"),
        after=query.get("after"),
        limit=query["limit"],
    )
    return json_response(_page.dump({"items": [_with_total(row) for row in rows], "next": after}))


@docs(
    tags=["deliveries"],
    operationId="list_deliveries_of_invoice",
    summary="Find out why a callback did not come",
    description="The deliveries of one invoice, newest first, with every attempt made.",
)
@match_info_schema(InvoicePathSchema)
@answers(DeliveryPageSchema, "All deliveries of the invoice; `next` is always null.")
@refuses(400, 401, 404, 422, 429, 503)
async def list_deliveries_of_invoice(request: web.Request) -> web.Response:
    """All deliveries of one invoice."""
    invoice_id = request["match_info"]["id"]
    told = await request.app[STORE].deliveries_of(request[ACCOUNT_ID], invoice_id)
    return json_response(_deliveries.dump({"items": told, "next": None}))


def _new_invoice(request: web.Request) -> NewInvoice:
    url = request[CALLED].get(INVOICE_NOTIFICATION)
    return NewInvoice(
        account_id=request[ACCOUNT_ID],
        created_at=request.app[CLOCK].now(),
        callback_url=request["querystring"].get("callback_url"),
        call=Call(INVOICE_NOTIFICATION.name, url.text, url.origin) if url else None,
        request_id=request_id_of(request),
        traceparent=request[TRACEPARENT],
        **request["json"],
    )


def _log_fields(invoice: NewInvoice) -> dict[str, Any]:
    """What the log says of *invoice*: by which request it came, and whom it will be told to."""
    return {
        "request_id": invoice.request_id,
        "invoice_id": invoice.id,
        "account_id": invoice.account_id,
        "origin": invoice.call.origin if invoice.call else None,
    }


def _with_total(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "total": to_text(row["total_minor"], row["currency"])}
