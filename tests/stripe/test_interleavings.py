"""
The ledger of callbacks equals the ledger of money, in whatever order things happen.

`python -m tests.stripe.test_interleavings FROM TO` plays more seeds than a run of the tests does.
"""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest

from tests.stripe import world

SEED_COUNT = 40


WANTED = {
    "checkout.session.completed",
    "checkout.session.expired",
    "checkout.session.async_payment_failed",
    "payment_intent.payment_failed",
    "charge.dispute.created",
    "charge.dispute.closed",
    "refund.created",
    "kill",
    "void",
    "refunded",
    "partially_refunded",
}
"""What must happen in the seeds, so that they prove something."""


@pytest.mark.slow
async def test_the_ledger_of_callbacks_is_the_ledger_of_money():
    """No payment is lost or told twice, and no invoice has two sessions that can be paid."""
    seen = set()
    for seed in range(SEED_COUNT):
        played = await world.run(seed)
        seen |= {one["type"] for one in played.fake.events} | played.seen()
        seen |= {"kill"} if played.kill_count else set()

    assert set() == WANTED - seen


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    first, last = map(int, sys.argv[1:])
    for number in range(first, last):
        asyncio.run(world.run(number))
    sys.stdout.write(f"{last - first} seeds: the ledgers are equal\n")
