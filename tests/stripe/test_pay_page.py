"""The button of the hosted invoice, where Stripe collects."""

from __future__ import annotations

from datetime import timedelta

import pytest
from aiohttp.test_utils import TestClient, TestServer

from service.api.application import make_application
from service.pages.pay import add_pages
from tests.stripe.fake import Fault


@pytest.fixture
async def page(world):
    """Ask for the page of the invoice, or press its button."""
    app = make_application(world.process.dependencies)
    add_pages(app, world.process.service.payments)
    key = (await world.process.invoice("i0")).key
    url = await world.process.dependencies.pay_links.url_of("dev", key)
    async with TestClient(TestServer(app)) as client:

        async def ask(method):
            path = "/pay/" + url.rpartition("/")[2]
            async with client.request(method, path, allow_redirects=False) as answer:
                return answer.status, answer.headers, await answer.text()

        yield ask


async def test_the_button_leads_to_stripe(world, page):
    """A POST leads to the session; looking at the page makes none."""
    status, headers, text = await page("GET")
    assert (200, {}) == (status, world.fake.sessions)
    assert "form-action 'self' https:" in headers["Content-Security-Policy"]
    assert 'class="sandbox"' not in text

    status, headers, _ = await page("POST")

    (session,) = world.fake.sessions.values()
    assert (303, session["url"]) == (status, headers["Location"])


async def test_the_button_of_an_invoice_that_was_paid_leads_back(world, page):
    """A payment of a moment ago is noticed by the click, and the page says so."""
    _, headers, _ = await page("POST")
    world.fake.pay(headers["Location"].rpartition("/")[2])

    status, headers, _ = await page("POST")

    assert (303, True) == (status, "/pay/" in headers["Location"])
    assert "Paid. Thank you." in (await page("GET"))[2]


async def test_a_payment_on_its_way_is_said(world, page):
    """A customer whose debit takes days is not led to a second payment."""
    _, headers, _ = await page("POST")
    world.fake.pay(headers["Location"].rpartition("/")[2], is_late=True)

    status, _, text = await page("POST")

    assert (409, True) == (status, "is being processed" in text)


async def test_a_stripe_that_is_away_is_said(world, page):
    """Where Stripe does not answer, the customer is asked to come again."""
    world.fake.faults.extend([Fault.BUSY] * 4)

    status, _, text = await page("POST")

    assert (503, True) == (status, "try again in a minute" in text)
    world.fake.faults.clear()
    world.clock.advance(timedelta(minutes=1))
    assert 303 == (await page("POST"))[0]
