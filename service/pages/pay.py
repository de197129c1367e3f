"""
The hosted invoice: who has its link sees it, and is led to the payment.

The button is a POST: programs that look at mails follow links, and must not begin a payment. In the
sandbox it leads to a page of ours on which every ending can be chosen.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from service.domain.invoice import Invoice
from service.domain.states import PAYABLE, InvoiceStatus
from service.errors import CollectorUnavailable, ConfigurationError, Conflict, StorageUnavailable
from service.localization import decimals_of, format_amount, format_date, load, one_line
from service.pages.errors import words_of
from service.pages.rendering import Renderer, invoice_renderer
from service.storage.invoices import as_invoice
from service.storage.store import Store
from service.web.middlewares import ERROR_PAGES, EXPECT

log = logging.getLogger("invoices.pages")


class Checkout(Protocol):
    """Leads customers to the payment."""

    async def checkout(self, invoice: Invoice, page_url: str) -> str:
        """The URL at which *invoice* is paid; the customer returns to *page_url*."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Payments:
    """
    What the pages need.

    *endings* are what can be chosen in the sandbox, by name; empty where real money moves.
    *public_path* is what links begin with: the path that a proxy in front removes.
    """

    store: Store
    find: Callable[[str], Awaitable[tuple[str, str] | None]]
    """The account and the key of the invoice for which a token was made, or None."""
    collector: Checkout
    choose: Callable[[Invoice, str], Awaitable[bool]]
    """Makes the ending of that name come true; False if the invoice is not payable any more."""
    endings: Mapping[str, str]
    public_path: str
    renderer: Renderer = field(default_factory=invoice_renderer)


_STATES = {
    InvoiceStatus.RECEIVED: ("To be paid", ""),
    InvoiceStatus.SENT: ("To be paid", ""),
    InvoiceStatus.UNDELIVERABLE: ("To be paid", ""),
    InvoiceStatus.PAYMENT_FAILED: ("The payment has failed. You can try again.", "failed"),
    InvoiceStatus.PAID: ("Paid. Thank you.", "paid"),
    InvoiceStatus.PARTIALLY_REFUNDED: ("Paid, and partly refunded", "paid"),
    InvoiceStatus.REFUNDED: ("Refunded", ""),
    InvoiceStatus.DISPUTED: ("The payment is disputed", ""),
    InvoiceStatus.VOID: ("Void: nothing is to be paid", ""),
}
"""What the customer reads in each state, and how it looks."""

NOT_FOUND = "This link leads to no invoice. It may be cut off: open the whole link of the mail."
NOT_NOW = "The payment cannot begin at the moment. Please try again in a minute."
UNAVAILABLE = "The invoice cannot be shown at the moment. Please try again in a minute."


def add_pages(app: web.Application, payments: Payments) -> None:
    """Serve the hosted invoice, and the sandbox's page where *payments* has endings."""
    pages = _Pages(payments)
    routes: list[tuple[str, str, Handler]] = [
        (hdrs.METH_GET, "/pay/{token}", pages.show),
        (hdrs.METH_POST, "/pay/{token}", pages.pay),
    ]
    if payments.endings:
        routes += [
            (hdrs.METH_GET, "/pay/{token}/sandbox", pages.show_endings),
            (hdrs.METH_POST, "/pay/{token}/sandbox", pages.choose),
        ]
    app[ERROR_PAGES]["/pay"] = pages.error_page
    for method, path, handler in routes:
        for form in (path, f"{path}/"):
            app.router.add_route(method, form, handler, expect_handler=app[EXPECT])
            if method == hdrs.METH_GET:
                app.router.add_route(hdrs.METH_HEAD, form, handler, expect_handler=app[EXPECT])


class _Pages:
    def __init__(self, payments: Payments) -> None:
        self._payments = payments
        self._page = payments.renderer.page

    async def show(self, request: web.Request) -> web.StreamResponse:
        """The invoice, and the button where it can be paid."""

        async def show(row: dict[str, Any], url: str) -> web.Response:
            return self._page("invoice.html", self._shown(row, url))

        return await self._answer(request, show)

    async def pay(self, request: web.Request) -> web.StreamResponse:
        """Lead to the payment; to the invoice, if there is nothing to pay."""

        async def lead(row: dict[str, Any], url: str) -> web.Response:
            if row["status"] not in PAYABLE:
                return _redirect(url)
            try:
                return _redirect(await self._payments.collector.checkout(as_invoice(row), url))
            except Conflict as error:
                now = await self._payments.store.invoice_by_key(row["account_id"], row["key"])
                if now and now["status"] not in PAYABLE:
                    # It was paid a moment ago.
                    return _redirect(url)
                return self._message("It cannot be paid now", str(error), 409)

        return await self._answer(request, lead)

    async def show_endings(self, request: web.Request) -> web.StreamResponse:
        """The endings of the sandbox; the invoice, if there is nothing to pay."""

        async def show(row: dict[str, Any], url: str) -> web.Response:
            if row["status"] not in PAYABLE:
                return _redirect(url)
            endings = list(self._payments.endings.items())
            return self._page("sandbox.html", {**self._shown(row, url), "endings": endings})

        return await self._answer(request, show)

    async def choose(self, request: web.Request) -> web.StreamResponse:
        """Make an ending come true, and lead back to the invoice."""
        form = dict(parse_qsl((await request.read()).decode("latin-1")))
        ending = form.get("ending", "")

        async def choose(row: dict[str, Any], url: str) -> web.Response:
            if ending not in self._payments.endings:
                return _redirect(f"{url}/sandbox")
            await self._payments.choose(as_invoice(row), ending)
            return _redirect(url)

        return await self._answer(request, choose)

    def error_page(self, request: web.Request, status: int) -> web.Response:
        """A page in place of an error with *status* outside the handlers."""
        token = request.path.removeprefix("/pay").strip("/").partition("/")[0]
        if status == HTTPStatus.NOT_FOUND or not token:
            return self._message("No such invoice", NOT_FOUND, status)
        heading, words = words_of(status)
        url = f"{self._payments.public_path}/pay/{quote(token, safe='')}"
        # Under another name, the link would lead to the same error.
        is_elsewhere = status == HTTPStatus.MISDIRECTED_REQUEST
        return self._message(heading, words, status, url="" if is_elsewhere else url)

    async def _answer(
        self,
        request: web.Request,
        answer: Callable[[dict[str, Any], str], Awaitable[web.Response]],
    ) -> web.Response:
        """Answer with the invoice of the token and the URL of its page, or with a message."""
        token = request.match_info["token"]
        try:
            found = await self._payments.find(token)
            row = await self._payments.store.invoice_by_key(*found) if found else None
            if row is None:
                return self._message("No such invoice", NOT_FOUND, 404)
            await load(row["locale"])
            return await answer(row, f"{self._payments.public_path}/pay/{token}")
        except StorageUnavailable:
            return self._message("One moment", UNAVAILABLE, 503)
        except ConfigurationError as error:
            log.error("secret.unreadable", extra={"fields": {"detail": str(error)}})
            return self._message("One moment", UNAVAILABLE, 503)
        except CollectorUnavailable as error:
            log.warning("collector.unavailable", extra={"fields": {"detail": str(error)}})
            return self._message("One moment", NOT_NOW, 503)

    def _shown(self, row: dict[str, Any], url: str) -> dict[str, object]:
        state, look = _STATES[InvoiceStatus(row["status"])]
        locale, currency = row["locale"], row["currency"]
        decimals = decimals_of(currency, row["decimals"])
        refunded_minor = row["amount_refunded_minor"]
        has_failed = row["status"] == InvoiceStatus.PAYMENT_FAILED
        return {
            "heading": f"Invoice {one_line(row['id'])}",
            "is_sandbox": bool(self._payments.endings),
            "state": state,
            "look": look,
            # What an API user writes turns nothing around that stands beside it, as in the mail.
            "customer": one_line(row["customer"]),
            "id": one_line(row["id"]),
            "title": one_line(row["title"] or ""),
            "date": format_date(row["created_at"], locale),
            "amount": format_amount(row["total_minor"], decimals, currency, locale),
            "currency": currency,
            "refunded": refunded_minor
            and format_amount(refunded_minor, decimals, currency, locale),
            "is_payable": row["status"] in PAYABLE,
            "button": "Try again" if has_failed else "Pay",
            "url": url,
        }

    def _message(self, heading: str, message: str, status: int, *, url: str = "") -> web.Response:
        values = {"heading": heading, "message": message, "url": url, "is_sandbox": False}
        return self._page("message.html", values, status=status)


def _redirect(url: str) -> web.Response:
    """Lead to *url* with a GET."""
    return web.Response(status=303, headers={hdrs.LOCATION: url})
