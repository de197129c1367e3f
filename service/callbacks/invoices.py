"""The callback about an invoice; no other module contains its URL."""

from typing import Any

from schemas.event import InvoiceEventReceivedSchema, InvoiceNotificationSchema
from service.callbacks.declaration import Callback
from service.callbacks.headers import STANDARD_HEADERS, CallbackHeader

INVOICE_NOTIFICATION = Callback(
    name="invoice_notification",
    expression="{$request.query.callback_url}/invoices/{$request.body#/id}",
    method="post",
    request=InvoiceNotificationSchema,
    response=InvoiceEventReceivedSchema,
    summary="Notification of what happened to an invoice",
    description=(
        "Sent to the `callback_url` that came with the invoice, for every event of the invoice;"
        " the events of one invoice arrive in order.\n"
        "\n"
        "**Authenticity.** Each request carries the headers `webhook-id`, `webhook-timestamp`"
        " and `webhook-signature` of [Standard Webhooks](https://www.standardwebhooks.com/)."
        " Verify the signature over the body exactly as it arrived, before you parse it. It"
        " covers the id, the timestamp and the body, and not the path: compare `invoice_id` with"
        " the id in the path, and refuse the event if they differ.\n"
        "\n"
        "**At least once.** The same event may arrive more than once, always with the same"
        " `webhook-id` and the same body. Store the ids that you have processed, and give a"
        " repeated one the same answer as the first time."
    ),
    path_fields={"id": "invoice_id"},
    headers=(
        *STANDARD_HEADERS,
        CallbackHeader("invoices-collector", "Who collected; `sandbox` moves no money.", "sandbox"),
        CallbackHeader(
            "traceparent",
            "W3C Trace Context: continues the trace of the request that brought the invoice."
            " Present where there is a trace.",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            is_required=False,
            pattern="^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
        ),
    ),
)
"""The callback of `POST /invoices/`."""


def invoice_content(description: str, paid: bool, invoice_id: str) -> dict[str, Any]:
    """What the body is made of, where an event has no content of its own."""
    return {"description": description, "paid": paid, "invoice_id": invoice_id}
