"""
A walk through a decline, a payment and a refund with a test key of your own, at Stripe itself.

    make stripe-live KEY=rk_test_…

You pay in a browser, where it says so; everything else happens here. It has never been run at
Stripe itself, which needs the internet and a key: `test_live` runs it at the fake of Stripe, where
stripe-mock judges its calls. To run it at another server: make stripe-live KEY=… URL=http://…
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import click

from service.collection.stripe.calls import NewSession, Session, SessionState
from service.collection.stripe.client import StripeHttpCalls, stripe_connections
from service.domain.payment import RefundStatus

API_URL = "https://api.stripe.com"
POLL_SECONDS = 3
PATIENCE_SECONDS = 600


async def walk(api_key: str, api_url: str = API_URL, poll_seconds: float = POLL_SECONDS) -> None:
    """
    Create a session, wait for what the person at the browser does, and give the money back.

    Stripe is at *api_url*, and is asked what has happened every *poll_seconds*.
    """
    reference = uuid4().hex
    wanted = NewSession(
        reference=reference,
        invoice_id=f"live-{reference[:8]}",
        title="A walk through Stripe",
        amount=1234,
        currency="EUR",
        locale="en",
        return_url="https://example.com/",
        expires_at=datetime.now(UTC) + timedelta(hours=1),
    )
    async with stripe_connections() as http:
        calls = StripeHttpCalls(api_key, api_url, http)
        session = await calls.create_session(wanted, reference)
        assert session == await calls.create_session(wanted, reference), "two sessions for one key"
        click.echo(f"Open {session.url}\n1. Pay with 4000 0000 0000 0002: it is declined.")

        async def read() -> Session:
            return await calls.read_session(session.id)

        declined = await until(read, lambda one: one.decline is not None, poll_seconds)
        click.echo(f"   Declined: {declined.decline}\n2. Pay with 4242 4242 4242 4242.")
        paid = await until(read, lambda one: one.state is SessionState.PAID, poll_seconds)
        assert (1234, "EUR") == (paid.amount, paid.currency), paid
        assert paid.payment_intent is not None
        click.echo("   Paid.\n3. It is given back.")
        refund = await calls.create_refund(paid.payment_intent, 1234, reference, reference + "-r")
        told = await calls.refunds_of(paid.payment_intent)
        assert [reference] == [one.reference for one in told], told
        click.echo(f"   {refund.status}.")
        assert refund.status is not RefundStatus.FAILED


async def until(
    read: Callable[[], Awaitable[Session]], is_so: Callable[[Session], bool], poll_seconds: float
) -> Session:
    """The session, once *is_so* is true of it."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not is_so(session := await read()):  # noqa: ASYNC110 -- Stripe sets no event here
            await asyncio.sleep(poll_seconds)
    return session


if __name__ == "__main__":
    if len(sys.argv) not in {2, 3} or "_test_" not in sys.argv[1]:
        sys.exit("make stripe-live KEY=rk_test_…: a key of the test mode is needed")
    asyncio.run(walk(*sys.argv[1:]))
