"""Mail into mailpit under chaos: a real mail server that refuses at random, at every stage."""

import asyncio
import logging
from collections import defaultdict
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from service.collection.smtp import Smtp, SmtpServer
from service.localization import load
from tests.clock import ManualClock
from tests.fakes import WatchedMemory, WatchedStore, assembled
from tests.mailpit.server import MAILPIT, MISSING, mailpit
from tests.processes import until
from tests.rows import an_invoice

COUNT = 30
STEP = timedelta(minutes=2)
"""By how much the clock is moved when no mail is being handed over; above every delay."""

SCHEDULE = (timedelta(minutes=1),) * 60
"""So long that no series of refusals exhausts it."""

REFUSED = {"Authentication": (535, 100)}
"""No login is accepted: it is the service that is refused."""

CHAOS = {"Sender": (451, 40), "Recipient": (452, 40), "Authentication": (535, 25)}
"""
The code and the percentage of the answers at each stage. Of so many mails, one in five million
times none is refused at one of the first two stages.
"""


@pytest.fixture
async def server(tmp_path):
    """A mailpit that takes everything."""
    if not MAILPIT.exists():
        pytest.skip(MISSING)
    async with mailpit(tmp_path) as one:
        yield one


@asynccontextmanager
async def _running(service):
    """Run the collection and the mailing, and drain them at the end."""
    await load(None)
    loops = (service.collection, service.mailing)
    async with asyncio.TaskGroup() as tasks:
        for loop in loops:
            tasks.create_task(loop.run())
        yield
        for loop in loops:
            loop.drain()


@pytest.mark.slow
async def test_every_mail_arrives_under_chaos(server, caplog):
    """Every invoice's mail arrives in the end; a second copy has the Message-ID of the first."""
    url = f"smtp://user:password@127.0.0.1:{server.smtp_port}"
    store, clock = WatchedStore(WatchedMemory()), ManualClock()
    transport = Smtp(SmtpServer.of(url), "billing@acme.example")
    service = assembled(store, clock=clock, transport=transport, mail_retry_schedule=SCHEDULE)
    await server.chaos(**REFUSED)

    async def is_paused():
        return service.mailing.is_paused

    async def are_settled():
        """Whether every mail is; else the clock moves on, once nothing is being handed over."""
        if service.mailing.held_count:
            return False
        rows = list(store.memory.tables.mails)
        if COUNT == sum(row["status"] != "pending" for row in rows):
            return rows
        clock.advance(STEP)
        return False

    with caplog.at_level(logging.INFO):
        async with _running(service):
            for number in range(COUNT):
                address = f"customer-{number}@example.com"
                invoice = an_invoice(f"{number}", customer="A+never", customer_email=address)
                await service.collection.accept(invoice)
            await until(is_paused)
            await server.chaos(**CHAOS)
            rows = await until(are_settled)

    arrived = defaultdict(set)
    for address, message_id in await server.messages():
        arrived[address].add(message_id)
    assert {row["recipient"]: {row["message_id"]} for row in rows} == arrived
    assert {"sent"} == {row["status"] for row in rows}
    # There was chaos: mails were deferred, and logins were refused until sending was resumed.
    assert {451, 452, 250} == {row["code"] for row in store.memory.tables.mail_attempts}
    assert {"mail.paused", "mail.resumed"} <= {record.message for record in caplog.records}
