"""The service in production mode: keys, signing secrets of accounts, and limits."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from service.accounts.encryption import new_encryption_key
from service.development import DEV_SECRET
from tests import processes
from tests.processes import (
    Service,
    command,
    environment,
    free_port,
    receiving,
    until,
)

ENCRYPTION_KEY = new_encryption_key()
LOCAL_RECEIVERS = {"CALLBACK_ALLOW": "127.0.0.0/8", "CALLBACK_REQUIRE_HTTPS": "false"}
"""The settings that let production call a receiver on this machine."""


class Production:
    """A process of the service in production mode, its output, and the key that the test uses."""

    def __init__(self, service, session):
        self.service = service
        self.session = session
        self.printed = ""
        self._reading = asyncio.create_task(self._read())

    def use(self, key):
        """Use *key* for the next requests."""
        self.session.headers["Authorization"] = f"Bearer {key}"

    async def status_with(self, key):
        """The status of a request with *key*."""
        headers = {"Authorization": f"Bearer {key}"}
        async with self.session.get(f"{self.service.url}/invoices/", headers=headers) as answer:
            return answer.status

    async def shown(self):
        """Wait until a key and a secret are printed, and return both."""

        async def ask():
            return "not shown again" in self.printed

        await until(ask)
        (key,) = re.findall(r"\s(inv_\S+)\n", self.printed)
        (secret,) = re.findall(r"\s(whsec_\S+)\n", self.printed)
        return key, secret

    async def stopped(self):
        """Stop the process normally, and return its output."""
        self.service.signal(signal.SIGTERM)
        assert 0 == await self.service.ended()
        await self._reading
        return self.printed

    async def _read(self):
        async for line in self.service.process.stdout:
            self.printed += line.decode()


@pytest.fixture
def settings(tmp_path):
    """The settings of the service and of the commands."""
    return {
        "DATABASE_URL": f"sqlite:///{tmp_path}/invoices.db",
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "SANDBOX_DELAY": "0ms",
        "LOG_FORMAT": "json",
        **LOCAL_RECEIVERS,
    }


@pytest.fixture
def on_postgres(settings, empty_postgres_url):
    """The same settings with an empty database on a PostgreSQL server."""
    return {**settings, "DATABASE_URL": empty_postgres_url}


@asynccontextmanager
async def producing(settings, *arguments):
    """A service in production mode; it is ended at the end of the block."""
    port = free_port()
    process = await processes.start_process(
        *("service", "serve", *arguments),
        env=environment(PORT=str(port), **settings),
        stdout=asyncio.subprocess.PIPE,
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
    """The output of an account command, as JSON."""
    status, printed, errors = await command("accounts", *arguments, "--json", **settings)
    assert (0, "") == (status, errors)
    return json.loads(printed)


def is_signed_with(secret, arrived):
    """Whether *secret* verifies the signature of a received callback."""
    _, _, headers, body = arrived
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True


async def sent(production, receiver, id_):
    """Send an invoice, and return its callback."""
    count = len(receiver.arrived)
    status, _ = await production.service.send(id_, receiver.url)
    assert 202 == status
    return (await receiver.arrived.reaches(count + 1))[count]


# The first start


async def test_the_first_start_prints_a_working_key(settings):
    """The first start prints one key and one secret; an invoice with them causes a callback."""
    async with producing(settings) as production, receiving() as receiver:
        key, secret = await production.shown()
        assert 401 == (await production.service.ask("/invoices/"))[0]

        production.use(key)
        arrived = await sent(production, receiver, "2expen51ve")
        delivery = await production.service.delivery_of("2expen51ve", is_settled=True)

    event = {"description": "Invoice paid", "paid": True, "invoice_id": "2expen51ve"}
    assert event == json.loads(arrived[-1])
    assert is_signed_with(secret, arrived)
    assert not is_signed_with(DEV_SECRET, arrived)
    assert ("delivered", arrived[2]["webhook-id"]) == (delivery["status"], delivery["id"])


async def test_a_second_start_prints_no_key(settings):
    """The key of the first start stays valid, and is not printed again."""
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


async def test_a_start_with_accounts_adds_none(settings):
    """If an operator has added an account, a start adds no other account."""
    shown = await accounts(settings, "add", "acme")

    async with producing(settings) as production:
        assert 200 == await production.status_with(shown["key"])
        assert "" == await production.stopped()
    assert ["acme"] == [row["name"] for row in await accounts(settings, "list")]


async def test_a_start_with_workers_prints_the_first_key(on_postgres):
    """With --workers the first key is printed once for all processes."""
    async with producing(on_postgres, "--workers", "2") as production:
        key, _ = await production.shown()
        await production.service.logged("service.started", count=2)

        assert {200} == {await production.status_with(key) for _ in range(8)}
        assert 1 == (await production.stopped()).count("inv_")


async def test_concurrent_first_starts_add_one_account(on_postgres):
    """Of several processes on an empty database, one prints a key, and all of them accept it."""
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
    """The processes that have printed anything so far."""
    return [one for one in productions if one.printed]


async def test_another_encryption_key_stops_the_start(settings):
    """Another encryption key stops the start with status 2 and an error that names the setting."""
    await accounts(settings, "add", "acme")

    status, printed, errors = await command(
        "serve", **{**settings, "PORT": str(free_port()), "ENCRYPTION_KEY": new_encryption_key()}
    )
    assert (2, "") == (status, printed)
    assert "INVOICES_ENCRYPTION_KEY must name that key too" in errors
    assert "Traceback" not in errors


# Keys


async def test_a_rotated_key_replaces_the_old_key(settings):
    """During the overlap both keys are valid; without an overlap the old key is refused soon."""
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

        async def are_refused():
            return [401, 401] == [await production.status_with(key) for key in (old, second)]

        assert await until(are_refused)
        assert 200 == await production.status_with(third)


async def test_a_disabled_account_is_refused(settings):
    """A disabled account soon gets 401, and other accounts are still accepted."""
    acme, other = [await accounts(settings, "add", name) for name in ("acme", "other")]
    async with producing(settings) as production:
        assert 200 == await production.status_with(acme["key"])
        await accounts(settings, "disable", "acme")

        async def is_refused():
            return 401 == await production.status_with(acme["key"])

        assert await until(is_refused)
        assert 200 == await production.status_with(other["key"])


async def test_accepted_invoices_of_a_disabled_account_are_delivered(settings):
    """An invoice that was accepted before is collected, and its signed callback is delivered."""
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


async def test_during_a_rotation_both_secrets_verify(settings):
    """Callbacks have both signatures until the overlap ends, then only the new one."""
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
    """The first callback that *secret* verifies; invoices are sent until there is one."""

    async def ask():
        arrived = await sent(production, receiver, f"i{len(receiver.arrived)}")
        return arrived if is_signed_with(secret, arrived) else None

    return await until(ask)


async def test_each_account_is_called_with_its_own_secret(settings):
    """Two accounts with the same invoice id and the same receiver get separate callbacks."""
    both = [await accounts(settings, "add", name) for name in ("ann", "ben")]
    async with producing(settings) as production, receiving() as receiver:
        for shown in both:
            production.use(shown["key"])
            arrived = await sent(production, receiver, "1")
            delivery = await production.service.delivery_of("1", is_settled=True)

            assert arrived[2]["webhook-id"] == delivery["id"]
            assert [shown] == [one for one in both if is_signed_with(one["secret"], arrived)]


# Limits


async def test_too_many_requests_get_429_with_retry_after(settings):
    """Requests beyond the burst get 429 with Retry-After, for this account alone."""
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

        async def is_accepted():
            return 200 == await production.status_with(both[0]["key"])

        assert await until(is_accepted)


# The log


async def test_the_log_contains_no_key_and_no_secret(settings):
    """No key and no secret is ever logged, valid or not."""
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
