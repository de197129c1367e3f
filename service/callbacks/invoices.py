"""What is told about an invoice: the one place that spells the callback's URL."""

from __future__ import annotations

from schemas.event import InvoiceEventReceivedSchema, InvoiceEventSchema
from service.callbacks.declaration import Callback

INVOICE_NOTIFICATION = Callback(
    name="invoice_notification",
    expression="{$request.query.callback_url}/invoices/{$request.body#/id}",
    method="post",
    request=InvoiceEventSchema,
    response=InvoiceEventReceivedSchema,
    summary="Tells you what happened to an invoice",
    description=(
        "Sent to the `callback_url` that came with the invoice, whenever something happens to"
        " it; the events of one invoice arrive in order.\n"
        "\n"
        "**Authenticity.** Each request carries the headers `webhook-id`, `webhook-timestamp`"
        " and `webhook-signature` of [Standard Webhooks](https://www.standardwebhooks.com/)."
        " Verify the signature over the body exactly as it arrived, before you parse it.\n"
        "\n"
        "**At least once.** The same event may arrive more than once, always with the same"
        " `webhook-id` and the same body. Remember the ids that you have dealt with, and"
        " answer a repeated one like the first.\n"
        "\n"
        "**Your answer.** Within the deadline (15 seconds by default), any 2xx status with"
        ' `{"ok": true}` says that the event is safely yours;'
        " do longer work afterwards. Answer 410 to stop this delivery"
        " for good. Anything else, another body and a redirect included, counts as not"
        " delivered, and the event is sent again later, after growing delays. `Retry-After`"
        " is respected."
    ),
    request_example={"description": "Invoice paid", "paid": True},
    response_example={"ok": True},
)
"""The callback of `POST /invoices/`."""
