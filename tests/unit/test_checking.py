"""The checks of a receiver that the console runs: by the address policy, and one at a time."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from service import checking
from service.app.policies import egress_policy_of, judge_of
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.checking import RUNS_MAX, ReceiverChecks
from service.clock import SystemClock
from service.development import DEV_SECRET, for_development
from service.errors import TooManyRequests
from service.receiver.sample import make_receiver
from service.settings import Settings
from service.web.server import Server


async def secret_of(_account_id):
    """The secret of every account."""
    return DEV_SECRET


def checks_with(settings):
    """What runs checks under *settings*."""
    return ReceiverChecks(
        egress_policy_of(settings), None, 5.0, judge_of(settings), secret_of, SystemClock()
    )


@pytest.fixture
async def receiver_url():
    """The URL of a receiver that does what is documented."""
    server = Server(make_receiver(INVOICE_NOTIFICATION, DEV_SECRET, lambda _: None))
    port = await server.start("127.0.0.1", 0)
    yield f"http://127.0.0.1:{port}"
    await server.stop()


@pytest.fixture
def hanging(monkeypatch):
    """Runs that last until a test ends them."""
    begun, ended = asyncio.Semaphore(0), asyncio.Event()

    async def run_checks(*_):
        begun.release()
        await ended.wait()
        return []

    monkeypatch.setattr(checking, "run_checks", run_checks)
    return begun, ended


async def test_a_sound_receiver_conforms(receiver_url):
    """The result is that of the command, without the signatures that it prints."""
    result = await checks_with(for_development(Settings())).run("acct_1", receiver_url)

    failed = [one for one in result["checks"] if one["status"] == "failed"]
    assert (True, []) == (result["conforms"], failed)
    assert {None} == {one["curl"] for one in result["checks"]}


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://127.0.0.1/", "is an address that cannot be called"),
        ("https://169.254.169.254/", "is an address that cannot be called"),
        ("http://example.com/", "must be an https:// URL"),
        ("nonsense", "This URL"),
        ("https://example.com/?a=b", "This URL"),
    ],
)
async def test_a_url_that_callbacks_may_not_have_is_refused(url, reason, hanging):
    """The policy is that of callbacks: nothing is sent where they may not go."""
    with pytest.raises(ValueError, match=reason):
        await checks_with(Settings()).run("acct_1", url)


async def test_an_account_runs_one_check_at_a_time(hanging):
    """Another check of the account is refused until the first one has ended."""
    begun, ended = hanging
    checks = checks_with(Settings())
    first = asyncio.create_task(checks.run("acct_1", "https://example.com"))
    await begun.acquire()

    with pytest.raises(TooManyRequests):
        await checks.run("acct_1", "https://example.com")
    second = asyncio.create_task(checks.run("acct_2", "https://example.com"))
    await begun.acquire()
    ended.set()

    assert [True, True] == [one["conforms"] for one in await asyncio.gather(first, second)]
    assert (await checks.run("acct_1", "https://example.com"))["conforms"]


async def test_few_checks_run_in_a_process(hanging):
    """Accounts together run a bounded number of checks."""
    begun, ended = hanging
    checks = checks_with(Settings())
    runs = [
        asyncio.create_task(checks.run(f"acct_{number}", "https://example.com"))
        for number in range(RUNS_MAX)
    ]
    for _ in runs:
        await begun.acquire()

    with pytest.raises(TooManyRequests) as refused:
        await checks.run("acct_x", "https://example.com")
    assert timedelta(minutes=1) >= timedelta(seconds=refused.value.after_seconds)
    ended.set()
    await asyncio.gather(*runs)
