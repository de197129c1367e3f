"""
What accounts read of their invoices, deliveries and events; it is part of the store.

Nothing here writes. These reads have a lane of their own: they never delay those of the service.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from service.database.engine import Database
from service.domain.explanation import DeliveryFacts, InvoiceFacts
from service.storage import backlog, explaining, feed, history, invoices, mails


class HistoryStore:
    """All that accounts read; each method raises NotFound for what an account does not have."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find_invoice(self, account_id: str, invoice_id: str) -> dict[str, Any]:
        """One invoice with its events, or NotFound."""
        return await self._database.browse(invoices.find, account_id, invoice_id)

    async def mails_of(self, account_id: str, invoice_id: str) -> list[dict[str, Any]]:
        """The mails of one invoice, newest first, or NotFound."""
        return await self._database.browse(mails.of_invoice, account_id, invoice_id)

    async def list_invoices(
        self,
        account_id: str,
        *,
        status: str | None,
        after: str | None,
        limit: int,
        invoice_id: str | None = None,
    ) -> history.Page:
        """A page of invoices, newest first, and the cursor of the next one."""
        return await self._database.browse(
            invoices.list_invoices,
            account_id,
            status=status,
            after=after,
            limit=limit,
            invoice_id=invoice_id,
        )

    async def find_delivery(self, account_id: str, delivery_id: str) -> dict[str, Any]:
        """One delivery with its attempts, or NotFound."""
        return await self._database.browse(history.find, account_id, delivery_id)

    async def deliveries_of(
        self, account_id: str, invoice_id: str, *, after: str | None = None, limit: int = 50
    ) -> history.Page:
        """A page of the deliveries of one invoice, newest first, and the cursor, or NotFound."""
        return await self._database.browse(
            history.of_invoice, account_id, invoice_id, after=after, limit=limit
        )

    async def list_deliveries(
        self, account_id: str, wanted: history.DeliveryFilter, *, after: str | None, limit: int
    ) -> history.Page:
        """A page of deliveries, newest first, and the cursor of the next one."""
        return await self._database.browse(
            history.list_deliveries, account_id, wanted, after=after, limit=limit
        )

    async def feed(self, account_id: str, *, after: str | None, limit: int) -> feed.FeedPage:
        """A page of what happened to the invoices of an account, oldest first; see `feed.page`."""
        return await self._database.browse(feed.page, account_id, after=after, limit=limit)

    async def feed_heads(self, account_ids: Sequence[str]) -> Mapping[str, int]:
        """The newest position of each account; see `feed.heads`."""
        return await self._database.read(feed.heads, account_ids)

    async def facts_of_delivery(self, account_id: str, delivery_id: str) -> DeliveryFacts:
        """What explains why a delivery has come or not, or NotFound."""
        return await self._database.browse(explaining.delivery_facts, account_id, delivery_id)

    async def facts_of_invoice(self, account_id: str, invoice_id: str) -> InvoiceFacts:
        """What explains why the callback of an invoice has come or not, or NotFound."""
        return await self._database.browse(explaining.invoice_facts, account_id, invoice_id)

    async def count_open(self, account_id: str, most: int) -> int:
        """How many deliveries of an account are pending, up to *most*."""
        return await self._database.browse(backlog.count_open, account_id, most)
