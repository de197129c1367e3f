"""The service as it is in production: with keys, secrets of its accounts, and limits."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from service.accounts.encryption import new_encryption_key
from service.development import DEV_SECRET
from tests.processes import (
    ROOT,
    Service,
    command,
    environment,
    free_port,
    receiving,
    until,
)

ENCRYPTION_KEY = new_encryption_key()
LOCAL_RECEIVERS = {"CALLBACK_ALLOW": "127.0.0.0/8", "CALLBACK_REQUIRE_HTTPS": "false"}
"""What production has to be told before it calls a receiver on this machine."""


class Production:
    """A process of the service in production mode, what it prints, and the key it is asked with."""

    def __init__(self, service, session):
        self.service = service
        self.session = session
        self.printed = ""
        self._reading = asyncio.create_task(self._read())

    def use(self, key):
        """From now on, ask with *key*."""
        self.session.headers["Authorization"] = f"Bearer {key}"

    async def status_with(self, key):
        """The status of a question that shows *key*."""
        headers = {"Authorization": f"Bearer {key}"}
        async with self.session.get(f"{self.service.url}/invoices/", headers=headers) as answer:
            return answer.status

    async def shown(self):
        """Wait until a key and a secret are shown, and give both."""

        async def ask():
            return "not shown again" in self.printed

        await until(ask)
        (key,) = re.findall(r"\s(inv_\S+)\n", self.printed)
        (secret,) = re.findall(r"\s(whsec_\S+)\n", self.printed)
        return key, secret

    async def stopped(self):
        """Stop the process in good order; all that it has printed."""
        self.service.signal(signal.SIGTERM)
        assert 0 == await self.service.ended()
        await self._reading
        return self.printed

    async def _read(self):
        async for line in self.service.process.stdout:
            self.printed += line.decode()


@pytest.fixture
def settings(tmp_path):
    """What is set for the service and for the commands beside it."""
    return {
        "DATABASE_URL": f"sqlite:///{tmp_path}/invoices.db",
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "SANDBOX_DELAY": "0ms",
        "LOG_FORMAT": "json",
        **LOCAL_RECEIVERS,
    }


@pytest.fixture
def on_postgres(settings, empty_postgres_url):
    """The same on a PostgreSQL server, in an empty database."""
    return {**settings, "DATABASE_URL": empty_postgres_url}


@asynccontextmanager
async def producing(settings, *arguments):
    """A service in production mode that serves; it is ended at the end of the block."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "serve", *arguments),
        cwd=ROOT,
        env=environment(PORT=str(port), **settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        production = Production(Service(process, f"http://127.0.0.1:{port}", session), session)
        try:
            await production.service.logged("service.started")
            yield production
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await production.service.ended()
            await production._reading


async def accounts(settings, *arguments):
    """What a command about accounts printed as JSON."""
    status, printed, told = await command("accounts", *arguments, "--json", **settings)
    assert (0, "") == (status, told)
    return json.loads(printed)


def is_signed_with(secret, arrived):
    """Whether a callback that arrived verifies with *secret*."""
    _, _, headers, body = arrived
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True


async def sent(production, receiver, id_):
    """The callback of an invoice that is sent now."""
    count = len(receiver.arrived)
    status, _ = await production.service.send(id_, receiver.url)
    assert 202 == status
    return (await receiver.arrived.reaches(count + 1))[count]


# The first start


async def test_the_first_start_shows_a_key_that_works(settings):
    """One key and one secret are printed; with them an invoice comes back as a callback."""
    async with producing(settings) as production, receiving() as receiver:
        key, secret = await production.shown()
        assert 401 == (await production.service.ask("/invoices/"))[0]

        production.use(key)
        arrived = await sent(production, receiver, "2expen51ve")
        delivery = await production.service.delivery_of("2expen51ve", is_settled=True)

    assert {"description": "Invoice paid", "paid": True} == json.loads(arrived[-1])
    assert is_signed_with(secret, arrived)
    assert not is_signed_with(DEV_SECRET, arrived)
    assert ("delivered", arrived[2]["webhook-id"]) == (delivery["status"], delivery["id"])


async def test_a_second_start_shows_nothing(settings):
    """The key of the first start goes on working, and is never printed again."""
    async with producing(settings) as production:
        key, secret = await production.shown()
        printed = await production.stopped()
        first_log = production.service.output.decode()
    async with producing(settings) as production:
        assert 200 == await production.status_with(key)
        assert "" == await production.stopped()
        second_log = production.service.output.decode()

    assert 1 == printed.count(key) == printed.count(secret)
    assert [] == [one for one in (key, secret) if one in first_log + second_log]


async def test_where_there_are_accounts_none_is_made(settings):
    """Who has added an account is shown no other."""
    shown = await accounts(settings, "add", "acme")

    async with producing(settings) as production:
        assert 200 == await production.status_with(shown["key"])
        assert "" == await production.stopped()
    assert ["acme"] == [row["name"] for row in await accounts(settings, "list")]


async def test_of_several_workers_none_swallows_the_first_key(on_postgres):
    """With --workers the key is shown as well, once for all of them."""
    async with producing(on_postgres, "--workers", "2") as production:
        key, _ = await production.shown()
        await production.service.logged("service.started", count=2)

        assert {200} == {await production.status_with(key) for _ in range(8)}
        assert 1 == (await production.stopped()).count("inv_")


async def test_processes_that_start_together_make_one_account(on_postgres):
    """Of several on an empty database, one shows a key, and all of them let it in."""
    async with AsyncExitStack() as stack:
        starting = (stack.enter_async_context(producing(on_postgres)) for _ in range(3))
        productions = await asyncio.gather(*starting)
        (shown,) = await until(lambda: those_that_printed(productions))
        key, _ = await shown.shown()

        assert [200] * 3 == [await one.status_with(key) for one in productions]
        assert key in await shown.stopped()
        others = [one for one in productions if one is not shown]
        assert ["", ""] == [await one.stopped() for one in others]


async def those_that_printed(productions):
    """The processes that have printed anything yet."""
    return [one for one in productions if one.printed]


async def test_another_encryption_key_stops_the_start(settings):
    """What was encrypted with another key is told in words, with status 2, before anything runs."""
    await accounts(settings, "add", "acme")

    status, printed, told = await command(
        "serve", **{**settings, "PORT": str(free_port()), "ENCRYPTION_KEY": new_encryption_key()}
    )
    assert (2, "") == (status, printed)
    assert "INVOICES_ENCRYPTION_KEY must name that key too" in told
    assert "Traceback" not in told


# Keys


async def test_a_rotated_key_takes_the_place_of_the_old_one(settings):
    """During the overlap both are let in; without one the old is turned away in a moment."""
    old = (await accounts(settings, "add", "acme"))["key"]
    async with producing(settings) as production:
        assert 200 == await production.status_with(old)

        second = (await accounts(settings, "rotate-key", "acme"))["key"]
        assert (200, 200) == (
            await production.status_with(old),
            await production.status_with(second),
        )

        third = (await accounts(settings, "rotate-key", "acme", "--overlap", "0s"))["key"]
        assert 200 == await production.status_with(third)

        async def are_turned_away():
            return [401, 401] == [await production.status_with(key) for key in (old, second)]

        assert await until(are_turned_away)
        assert 200 == await production.status_with(third)


async def test_a_disabled_account_is_turned_away(settings):
    """A disabled account gets 401 in a moment, others are let in as before."""
    acme, other = [await accounts(settings, "add", name) for name in ("acme", "other")]
    async with producing(settings) as production:
        assert 200 == await production.status_with(acme["key"])
        await accounts(settings, "disable", "acme")

        async def is_turned_away():
            return 401 == await production.status_with(acme["key"])

        assert await until(is_turned_away)
        assert 200 == await production.status_with(other["key"])


async def test_what_a_disabled_account_sent_in_is_delivered(settings):
    """202 holds: what was accepted before is collected, told, and signed with its secret."""
    shown = await accounts(settings, "add", "acme")
    async with receiving() as receiver:
        async with producing(settings, "--role", "api") as production:
            production.use(shown["key"])
            assert 202 == (await production.service.send("1", receiver.url))[0]
            await production.stopped()
        await accounts(settings, "disable", "acme")
        assert 0 == len(receiver.arrived)

        async with producing(settings) as production:
            (arrived,) = await receiver.arrived.reaches(1)
            assert 401 == await production.status_with(shown["key"])

    assert is_signed_with(shown["secret"], arrived)


# Secrets


async def test_during_a_rotation_receivers_may_know_either_secret(settings):
    """Callbacks carry both signatures until the overlap is over, then the new one alone."""
    old = await accounts(settings, "add", "acme")
    async with producing(settings) as production, receiving() as receiver:
        production.use(old["key"])
        assert is_signed_with(old["secret"], await sent(production, receiver, "before"))

        second = await accounts(settings, "rotate-secret", "acme")
        arrived = await first_signed_with(second["secret"], production, receiver)
        assert is_signed_with(old["secret"], arrived)
        assert 2 == len(arrived[2]["webhook-signature"].split())

        third = await accounts(settings, "rotate-secret", "acme", "--overlap", "0s")
        arrived = await first_signed_with(third["secret"], production, receiver)
        assert 1 == len(arrived[2]["webhook-signature"].split())
        assert not is_signed_with(old["secret"], arrived)
        assert not is_signed_with(second["secret"], arrived)


async def first_signed_with(secret, production, receiver):
    """The first callback that *secret* verifies, of invoices that are sent until there is one."""

    async def ask():
        arrived = await sent(production, receiver, f"i{len(receiver.arrived)}")
        return arrived if is_signed_with(secret, arrived) else None

    return await until(ask)


async def test_each_account_is_called_with_its_own_secret(settings):
    """Two accounts use the same id and the same receiver, and nothing of theirs is mixed up."""
    both = [await accounts(settings, "add", name) for name in ("ann", "ben")]
    async with producing(settings) as production, receiving() as receiver:
        for shown in both:
            production.use(shown["key"])
            arrived = await sent(production, receiver, "1")
            delivery = await production.service.delivery_of("1", is_settled=True)

            assert arrived[2]["webhook-id"] == delivery["id"]
            assert [shown] == [one for one in both if is_signed_with(one["secret"], arrived)]


# Limits


async def test_too_many_requests_are_told_when_to_come_again(settings):
    """Beyond the burst comes 429 with Retry-After, for this account alone, and it passes."""
    both = [await accounts(settings, "add", name) for name in ("ann", "ben")]
    few = {**settings, "RATE_LIMIT": "1", "RATE_BURST": "3"}
    async with producing(few) as production:
        production.use(both[0]["key"])
        answers = [await production.service.ask("/invoices/") for _ in range(8)]
        statuses = [status for status, _, _ in answers]

        assert [200] * 3 == statuses[:3]
        assert 429 in statuses
        _, headers, document = answers[statuses.index(429)]
        assert "1" == headers["Retry-After"]
        assert "/api/docs/problems#too-many-requests" == document["type"]
        assert 200 == await production.status_with(both[1]["key"])

        async def is_let_in():
            return 200 == await production.status_with(both[0]["key"])

        assert await until(is_let_in)


# The log


async def test_no_key_and_no_secret_stands_in_the_log(settings):
    """Whatever happens with keys and secrets, good or wrong, none is ever logged."""
    shown = await accounts(settings, "add", "acme")
    wrong = shown["key"][:-4] + "aaaa"
    async with producing(settings) as production, receiving() as receiver:
        production.use(shown["key"])
        receiver.answer(status=500, text="oops")
        await sent(production, receiver, "1")
        assert 401 == await production.status_with(wrong)
        assert 401 == await production.status_with("inv_garbage")
        rotated = await accounts(settings, "rotate-secret", "acme", "--overlap", "0s")
        new = await accounts(settings, "rotate-key", "acme", "--overlap", "0s")
        assert 200 == await production.status_with(new["key"])
        await production.stopped()
        log = production.service.output.decode()

    assert production.service.lines("attempt.settled")
    behind_prefixes = [key[len("inv_abcdefgh_") :] for key in (shown["key"], wrong, new["key"])]
    secrets = [one["secret"].removeprefix("whsec_") for one in (shown, rotated)]
    private = [*behind_prefixes, *secrets, ENCRYPTION_KEY]
    assert [] == [one for one in private if one in log]
