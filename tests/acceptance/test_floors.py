"""The services that the benchmark measures ours against, and that nothing else starts."""

from __future__ import annotations

import aiohttp
import pytest

from benchmarks.services import BARE_FLOOR, FLOOR, running
from tests.processes import receiving

UNUSED = "sqlite:///none.db"
"""A database, which settings must name; it is never opened."""

INVOICE = {"id": "2expen51ve", "customer": "Mr. Richie Rich", "total": "9999"}


@pytest.mark.parametrize("floor", [FLOOR, BARE_FLOOR], ids=lambda floor: floor.module)
async def test_a_floor_calls_back(floor, tmp_path):
    """It accepts an invoice, and the callback arrives."""
    async with receiving() as receiver, aiohttp.ClientSession() as session:
        with running(floor, tmp_path, UNUSED) as service:
            url, query = f"{service.url}/invoices/", {"callback_url": receiver.url}
            async with session.post(url, params=query, json=INVOICE) as answer:
                assert 202 == answer.status
            ((method, path, *_),) = await receiver.arrived.reaches(1)

    assert ("POST", "/invoices/2expen51ve") == (method, path)
