"""The operations that turn the money of an invoice round: void and refund."""

import logging
from collections.abc import Sequence
from typing import Any

from aiohttp import web
from aiohttp_apispec import docs, headers_schema, json_schema, match_info_schema

from schemas.invoice import InvoicePathSchema, InvoiceSchema
from schemas.money import minor_of, to_text
from schemas.refund import (
    REFUND_EXAMPLE,
    IdempotencyKeySchema,
    RefundRequestSchema,
    RefundSchema,
)
from service.api.dependencies import DEPENDENCIES
from service.api.invoices import get_invoice
from service.api.operations import answers, refuses
from service.domain.payment import NothingLeft, Refund, RefundStatus
from service.errors import FieldError, InvalidInput
from service.localization import decimals_of
from service.storage.invoices import as_invoice
from service.web.middlewares import ACCOUNT_ID
from service.web.responses import json_response

log = logging.getLogger("invoices.api")

UNAVAILABLE = "The database or the collector does not answer. Send the same request again."

_refund = RefundSchema()


@docs(
    tags=["invoices"],
    operationId="void_invoice",
    summary="Void an invoice",
    description="From then on nobody can pay it: a payment page that is open is closed first. "
    "Repeated, it changes nothing. Money that comes nevertheless is shown as `overpaid`.",
)
@match_info_schema(InvoicePathSchema)
@answers(InvoiceSchema, "The invoice, which is void.")
@refuses(
    *(400, 401, 404, 409, 422, 429, 503),
    descriptions={409: "The invoice was paid, or is being paid.", 503: UNAVAILABLE},
)
async def void_invoice(request: web.Request) -> web.Response:
    """Void one invoice."""
    dependencies = request.app[DEPENDENCIES]
    await dependencies.reversals.void(as_invoice(await _find(request)))
    shown: web.Response = await get_invoice(request)
    return shown


@docs(
    tags=["invoices"],
    operationId="refund_invoice",
    summary="Refund an invoice",
    description="Gives money back to the customer: a part, or all that is left. The invoice "
    "becomes `partially_refunded` or `refunded` once the collector has given it back, and your "
    "API is called back then. What was paid beyond the total is given back first, without an "
    "event.",
)
@match_info_schema(InvoicePathSchema)
@headers_schema(IdempotencyKeySchema)
@json_schema(RefundRequestSchema, example=REFUND_EXAMPLE)
@answers(RefundSchema, "The refund is recorded, and will be made.", 202)
@refuses(
    *(400, 401, 404, 408, 409, 413, 415, 422, 429, 503),
    descriptions={409: "This Idempotency-Key was used with another amount."},
)
async def refund_invoice(request: web.Request) -> web.Response:
    """Begin to give money back."""
    dependencies = request.app[DEPENDENCIES]
    row = await _find(request)
    invoice, decimals = as_invoice(row), decimals_of(row["currency"], row["decimals"])
    asked_minor = None
    if request["json"]["amount"] is not None:
        try:
            asked_minor = minor_of(request["json"]["amount"], invoice.currency, decimals)
        except ValueError as error:
            raise _invalid(str(error)) from None
        if reason := dependencies.reversals.check_refund(invoice, asked_minor):
            raise _invalid(reason)
    key = request["headers"]["idempotency_key"]
    try:
        parts = await dependencies.reversals.refund(invoice, asked_minor, key)
    except NothingLeft as error:
        left = to_text(error.left_minor, decimals)
        raise _invalid(f"Only {left} {invoice.currency} is left to give back.") from None
    log.info("refund.requested", extra={"fields": _log_fields(parts[0], invoice.id)})
    return json_response(_refund.dump(_shown_refund(parts, decimals)), status=202)


async def _find(request: web.Request) -> dict[str, Any]:
    """The row of the invoice, read when it is the turn of the account: see `Reads`."""
    account_id, dependencies = request[ACCOUNT_ID], request.app[DEPENDENCIES]
    async with dependencies.reads.turn(account_id):
        return await dependencies.store.history.find_invoice(
            account_id, request["match_info"]["id"]
        )


def _invalid(message: str) -> InvalidInput:
    return InvalidInput([FieldError("body", "/amount", message)])


def _shown_refund(parts: Sequence[Refund], decimals: int) -> dict[str, str]:
    """One refund of several *parts*: pending while one is, and failed where all are."""
    statuses = {part.status for part in parts}
    order = (RefundStatus.PENDING, RefundStatus.SUCCEEDED, RefundStatus.FAILED)
    return {
        "id": parts[0].id,
        "amount": to_text(sum(part.amount_minor for part in parts), decimals),
        "status": next(one.value for one in order if one in statuses),
    }


def _log_fields(refund: Refund, invoice_id: str) -> dict[str, str]:
    return {
        "refund_id": refund.id,
        "invoice_id": invoice_id,
        "account_id": refund.account_id,
    }
