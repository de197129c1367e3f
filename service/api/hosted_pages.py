"""
The hosted invoice, as the OpenAPI document describes it: HTML, which needs no key.

The pages are served by `service.pages`, beside the API and without its problem documents. They are
described here, because their links are part of what an API user gets, in `payment_url`.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from service.web import problems

PATH = "/pay/{token}"

_PAGE_EXAMPLE = "<!DOCTYPE html><html><body><h1>Invoice 2expen51ve</h1></body></html>"

_TOKEN = {
    "in": "path",
    "name": "token",
    "required": True,
    "description": "The token of the invoice: the last part of its `payment_url`.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
    "example": "c2FtcGxlx0Rg1q8FcBCAxyT3Kd5mDSsuPX3tAd8b3PIJ0EGs0xZP",
}


def _page(description: str) -> dict[str, Any]:
    content = {"text/html": {"schema": {"type": "string"}, "example": _PAGE_EXAMPLE}}
    return {"description": description, "content": content}


def _problem(status: HTTPStatus, description: str, detail: str) -> dict[str, Any]:
    """What is refused before a page is looked for: a problem document, as everywhere."""
    example = problems.document_of_status(status, detail)
    schema = {"$ref": "#/components/schemas/Problem"}
    content = {problems.CONTENT_TYPE: {"schema": schema, "example": example}}
    return {"description": description, "content": content}


_LOCATION = {
    "description": "Where the customer is led.",
    "schema": {"type": "string"},
    "example": "https://checkout.stripe.com/c/pay/cs_test_a1b2c3",
}
_FAILURES = {
    "400": _problem(
        HTTPStatus.BAD_REQUEST, "The request is not valid HTTP.", "Invalid header value."
    ),
    "404": _page("The token leads to no invoice."),
    "503": _page("The database or the collector does not answer."),
}

HOSTED_PAGES: Mapping[str, Mapping[str, Any]] = {
    PATH: {
        "get": {
            "tags": ["pages"],
            "operationId": "show_hosted_invoice",
            "summary": "Show the hosted invoice",
            "description": "The page of an invoice, for its customer: who, what, how much, and "
            "whether it is paid. Whoever has the link sees it; it needs no key. Send people there "
            "and no programs: its HTML may change with any version.",
            "security": [],
            "parameters": [_TOKEN],
            "responses": {"200": _page("The invoice, in HTML."), **_FAILURES},
        },
        "post": {
            "tags": ["pages"],
            "operationId": "pay_hosted_invoice",
            "summary": "Lead to the payment",
            "description": "What the button of the page does: it leads to the payment, or back to "
            "the page if there is nothing to pay. It is a POST, because programs that look at "
            "mails follow links. It needs no key and no body.",
            "security": [],
            "parameters": [_TOKEN],
            "responses": {
                # Many clients follow redirects, and generators and linters expect a success.
                "200": _page("For clients that follow the 303: the page to which it leads."),
                "303": {
                    "description": "To the payment, or to the page.",
                    "headers": {"Location": _LOCATION},
                },
                **_FAILURES,
                "408": _problem(
                    HTTPStatus.REQUEST_TIMEOUT,
                    "The body did not arrive in time.",
                    "The body was not complete after 10 seconds.",
                ),
                "409": _page("The invoice cannot be paid now: a payment is being processed."),
                "413": _problem(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    "The body is too large.",
                    "The body is larger than 65536 bytes.",
                ),
            },
        },
    }
}
"""Path -> method -> operation, in the form of the document."""
