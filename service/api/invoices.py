"""The operations that create, get and list invoices."""

import logging
from typing import Any

import orjson
from aiohttp import hdrs, web
from aiohttp_apispec import docs, json_schema, match_info_schema, querystring_schema

from schemas.delivery import DeliveryPageSchema, DeliverySchema
from schemas.explanation import ExplanationSchema
from schemas.invoice import (
    EXAMPLE,
    CallbackQuerySchema,
    InvoiceListQuerySchema,
    InvoicePageSchema,
    InvoicePathSchema,
    InvoiceReceivedSchema,
    InvoiceRequestSchema,
    InvoiceSchema,
)
from schemas.mail import MailListSchema
from schemas.money import CURRENCIES, to_text
from schemas.page import PageQuerySchema
from service.api.callbacks import EVALUATED_CALLBACKS
from service.api.deliveries import shown
from service.api.dependencies import DEPENDENCIES
from service.api.operations import answers, refuses
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.callbacks.url import percent_encoded
from service.domain.explanation import explain_invoice
from service.domain.invoice import Invoice
from service.domain.states import Acceptance, MailStatus
from service.errors import Conflict, FieldError, InvalidInput
from service.localization import decimals_of
from service.storage.invoices import differences
from service.telemetry.logs import log_event
from service.web.middlewares import ACCOUNT_ID, TRACEPARENT
from service.web.request_ids import request_id_of
from service.web.responses import json_head_response, raw_json_response

log = logging.getLogger("invoices.api")

RECEIVED = orjson.dumps({"msg": "Invoice received"})

_invoice = InvoiceSchema()
_delivery = DeliverySchema()
_explanation = ExplanationSchema()
_mails = MailListSchema()


@docs(
    tags=["invoices"],
    operationId="create_invoice",
    summary="Create an invoice",
    description="Stores the invoice durably, sends it to the customer and collects the money. "
    "Your API is called at `callback_url` with every event of the invoice: see the **Callbacks** "
    "of this operation.\n\n"
    "You choose the id, and it makes the request idempotent: after a lost connection, send the "
    "same invoice again.",
    callbacks=[INVOICE_NOTIFICATION],
)
@querystring_schema(CallbackQuerySchema)
@json_schema(InvoiceRequestSchema, example=EXAMPLE)
@answers(
    InvoiceReceivedSchema,
    "The invoice is stored; callbacks follow.",
    202,
    headers={"Location": ("The path of the invoice.", "/invoices/2expen51ve")},
)
@answers(
    InvoiceReceivedSchema,
    "The same invoice was received before. Nothing changed.",
    200,
    headers={
        "Location": ("The path of the invoice.", "/invoices/2expen51ve"),
        "Idempotent-Replayed": ("The request repeats an earlier one.", "true"),
    },
)
@refuses(400, 401, 408, 409, 413, 415, 422, 429, 503)
async def create_invoice(request: web.Request) -> web.Response:
    """Answer 202 after the invoice is committed, and 200 if the same one is sent again."""
    dependencies = request.app[DEPENDENCIES]
    callback_url = request["querystring"].get("callback_url")
    invoice = new_invoice(request, callback_url=callback_url, **request["json"])
    if dependencies.stripe and (reason := await dependencies.stripe.check(invoice)):
        raise InvalidInput([FieldError("body", "/total", reason)])
    if invoice.callbacks:
        await dependencies.admit_delivery(invoice.account_id)
    acceptance = await dependencies.accept(invoice)
    dependencies.metrics.received(acceptance)
    if acceptance is Acceptance.CONFLICT:
        async with dependencies.reads.turn(invoice.account_id):
            stored = await dependencies.store.history.find_invoice(invoice.account_id, invoice.id)
        names = ", ".join(differences(invoice, stored)).replace("total_minor", "total")
        raise Conflict(
            f"The invoice {invoice.id!r} was received before with other content: {names}. "
            "An invoice cannot be changed: send another one with a new id."
        )
    fields = {
        "request_id": invoice.request_id,
        "invoice_id": invoice.id,
        "account_id": invoice.account_id,
        "origin": invoice.callbacks[0].origin if invoice.callbacks else None,
    }
    headers = {"Location": f"{dependencies.public_path}/invoices/{percent_encoded(invoice.id)}"}
    if acceptance is Acceptance.REPLAYED:
        log.info("invoice.replayed", extra={"fields": fields})
        return raw_json_response(RECEIVED, headers={**headers, "Idempotent-Replayed": "true"})
    log_event(log, "invoice.accepted", fields)
    return raw_json_response(RECEIVED, status=202, headers=headers)


@docs(
    tags=["invoices"],
    operationId="get_invoice",
    summary="Get an invoice",
    description="The invoice with its status and its newest 100 events.",
)
@match_info_schema(InvoicePathSchema)
@answers(InvoiceSchema, "The invoice.")
@refuses(400, 401, 404, 422, 429, 503)
async def get_invoice(request: web.Request) -> web.Response:
    """One invoice with its events."""
    account_id, dependencies = request[ACCOUNT_ID], request.app[DEPENDENCIES]
    async with dependencies.reads.turn(account_id):
        row = await dependencies.store.history.find_invoice(account_id, request["match_info"]["id"])
        weight = len(row["events"])
        return await dependencies.reads.answer(
            _invoice, await shown_invoice(request, row), weight=weight
        )


@docs(
    tags=["invoices"],
    operationId="list_invoices",
    summary="List invoices",
    description="Newest first, one page at a time. `id` finds one whose id a proxy does not let "
    "through in a path, such as one with a slash.",
)
@querystring_schema(InvoiceListQuerySchema)
@answers(InvoicePageSchema, "A page of invoices.")
@refuses(400, 401, 422, 429, 503)
async def list_invoices(request: web.Request) -> web.StreamResponse:
    """A page of invoices; to HEAD, its status and headers, which no filter changes."""
    account_id, dependencies = request[ACCOUNT_ID], request.app[DEPENDENCIES]
    query = request["querystring"]
    async with dependencies.reads.turn(account_id):
        if request.method == hdrs.METH_HEAD:
            await dependencies.store.history.list_invoices(
                account_id, status=None, after=query.get("after"), limit=1
            )
            return json_head_response()
        rows, after = await dependencies.store.history.list_invoices(
            account_id,
            status=query.get("status"),
            after=query.get("after"),
            limit=query["limit"],
            invoice_id=query.get("id"),
        )
        items = [await shown_invoice(request, row) for row in rows]
        return await dependencies.reads.answer_page(_invoice.dump, items, after)


@docs(
    tags=["deliveries"],
    operationId="list_deliveries_of_invoice",
    summary="List the deliveries of an invoice",
    description="Shows why a callback did not arrive: the deliveries of one invoice, newest first, "
    "one page at a time, each with its newest 100 attempts.",
)
@match_info_schema(InvoicePathSchema)
@querystring_schema(PageQuerySchema)
@answers(DeliveryPageSchema, "A page of the deliveries of the invoice.")
@refuses(400, 401, 404, 422, 429, 503)
async def list_deliveries_of_invoice(request: web.Request) -> web.StreamResponse:
    """A page of the deliveries of one invoice; to HEAD, its status and headers."""
    account_id, dependencies = request[ACCOUNT_ID], request.app[DEPENDENCIES]
    query = request["querystring"]
    is_head = request.method == hdrs.METH_HEAD
    async with dependencies.reads.turn(account_id):
        rows, after = await dependencies.store.history.deliveries_of(
            account_id,
            request["match_info"]["id"],
            after=query.get("after"),
            limit=1 if is_head else query["limit"],
        )
        if is_head:
            return json_head_response()
        return await dependencies.reads.answer_page(
            _delivery.dump, [shown(request, row) for row in rows], after
        )


@docs(
    tags=["invoices"],
    operationId="explain_invoice",
    summary="Explain the callback of an invoice",
    description="Why the callback of an invoice came or not. It explains the delivery that "
    "matters: the first that is pending; if there is none, the newest dead one; if there is none, "
    "the newest. Without a delivery, it says why there is none.",
)
@match_info_schema(InvoicePathSchema)
@answers(ExplanationSchema, "The explanation.")
@refuses(400, 401, 404, 422, 429, 503)
async def get_invoice_why(request: web.Request) -> web.Response:
    """Why the callback of one invoice has come, or not."""
    account_id, dependencies = request[ACCOUNT_ID], request.app[DEPENDENCIES]
    async with dependencies.reads.turn(account_id):
        facts = await dependencies.store.history.facts_of_invoice(
            account_id, request["match_info"]["id"]
        )
        explanation = explain_invoice(facts, dependencies.clock.now())
        return await dependencies.reads.answer(_explanation, explanation)


@docs(
    tags=["invoices"],
    operationId="list_mails_of_invoice",
    summary="List the mails of an invoice",
    description="Shows whether the invoice has reached its customer: its mails, newest first, each "
    "with its newest 100 attempts. There is none without a `customer_email`.",
)
@match_info_schema(InvoicePathSchema)
@answers(MailListSchema, "All mails of the invoice.")
@refuses(400, 401, 404, 422, 429, 503)
async def list_mails_of_invoice(request: web.Request) -> web.Response:
    """All mails of one invoice."""
    invoice_id = request["match_info"]["id"]
    account_id, dependencies = request[ACCOUNT_ID], request.app[DEPENDENCIES]
    is_pending = MailStatus.PENDING.value
    async with dependencies.reads.turn(account_id):
        rows = await dependencies.store.history.mails_of(account_id, invoice_id)
        items = [
            {**row, "due_at": row["due_at"] if row["status"] == is_pending else None}
            for row in rows
        ]
        return await dependencies.reads.answer(_mails, {"items": items})


def new_invoice(request: web.Request, **content: Any) -> Invoice:
    """The invoice of *request*: with its account, its evaluated callbacks and *content*."""
    return Invoice(
        account_id=request[ACCOUNT_ID],
        created_at=request.app[DEPENDENCIES].clock.now(),
        callbacks=request[EVALUATED_CALLBACKS],
        request_id=request_id_of(request),
        traceparent=request[TRACEPARENT],
        decimals=CURRENCIES[content["currency"]],
        **content,
    )


async def shown_invoice(request: web.Request, row: dict[str, Any]) -> dict[str, Any]:
    """The *row* of an invoice with what is not stored in it: amounts as text, and its pay link."""
    decimals = decimals_of(row["currency"], row["decimals"])
    overpaid_minor = row["overpaid_minor"]
    pay_links = request.app[DEPENDENCIES].pay_links
    return {
        **row,
        "total": to_text(row["total_minor"], decimals),
        "payment_url": await pay_links.url_of(row["account_id"], row["key"]),
        "amount_refunded": to_text(row["amount_refunded_minor"] or 0, decimals),
        "mismatch": bool(row["mismatch"]),
        "overpaid": to_text(overpaid_minor, decimals) if overpaid_minor else None,
    }
