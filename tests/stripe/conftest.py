"""A Stripe for each test, with stripe-mock before it where that is installed."""

from __future__ import annotations

import pytest

from service.collection.stripe.client import StripeHttpCalls, stripe_connections
from tests.stripe.fake import API_KEY, FakeStripe
from tests.stripe.server import MISSING, STRIPE_MOCK, served, stripe_mock
from tests.stripe.world import World


@pytest.fixture
def fake():
    """The state of Stripe."""
    return FakeStripe()


@pytest.fixture(scope="session")
def judge():
    """The URL of stripe-mock."""
    if not STRIPE_MOCK.exists():
        pytest.skip(MISSING)
    with stripe_mock() as url:
        yield url


@pytest.fixture
async def calls(fake):
    """The calls of the service to the fake, over HTTP."""
    async with served(fake) as url, stripe_connections() as http:
        yield StripeHttpCalls(API_KEY, url, http)


@pytest.fixture
async def judged_calls(fake, judge):
    """The calls of the service to the fake, each judged by stripe-mock first."""
    async with served(fake, judge) as url, stripe_connections() as http:
        yield StripeHttpCalls(API_KEY, url, http)


@pytest.fixture
async def world():
    """An invoice, without anything that goes wrong by itself."""
    made = World(0, invoice_count=1)
    await made.begin()
    return made
