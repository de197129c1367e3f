"""`make stripe-live`, at the fake of Stripe instead of Stripe itself."""

import asyncio
import subprocess
import sys

import pytest

from tests.processes import until
from tests.stripe import live
from tests.stripe.fake import API_KEY
from tests.stripe.server import served

POLL_SECONDS = 0.01


async def person(fake):
    """Do at the page of Stripe what the walk asks for."""

    async def sessions():
        return list(fake.sessions)

    (session_id,) = await until(sessions)
    fake.decline(session_id)
    seen_count = len(fake.requests)

    async def has_told():
        return any(method == "GET" for method, *_ in fake.requests[seen_count:])

    # A payment before the walk has read of the decline would hide it for ever.
    await until(has_told)
    assert fake.pay(session_id)


async def test_the_walk_comes_to_its_end(fake, judge, capsys):
    """A decline, a payment and a refund: each call is one that Stripe's schema allows."""
    async with served(fake, judge) as url, asyncio.TaskGroup() as tasks:
        tasks.create_task(person(fake))
        tasks.create_task(live.walk(API_KEY, url, POLL_SECONDS))

    (refund,) = fake.refunds.values()
    assert (1234, "succeeded") == (refund["amount"], refund["status"])
    shown = capsys.readouterr().out
    assert "Declined: Your card was declined." in shown
    assert "succeeded." in shown


@pytest.mark.parametrize("arguments", [[], ["rk_live_secret"]])
def test_a_key_of_the_test_mode_is_needed(arguments):
    """Without one nothing is asked, and the key is not printed."""
    command = [sys.executable, "-m", "tests.stripe.live", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert 1 == done.returncode
    assert "a key of the test mode is needed" in done.stderr
    assert "secret" not in done.stdout + done.stderr
