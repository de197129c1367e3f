"""The loop that sends mails, with a transport that does what a test wants."""

import logging
from datetime import timedelta

import pytest

from service.api.application import make_application
from service.collection.mailing import CONCURRENCY, LEASE, PAUSE
from service.collection.sending import Sending
from service.domain.invoice import Step
from service.domain.outcomes import MailOutcome
from service.domain.states import InvoiceStatus
from service.errors import SendingRefused
from service.loops import POLL
from service.storage.invoices import as_invoice
from service.storage.leases import LeaseRound
from service.storage.tables import mails
from service.telemetry.metrics import Metrics
from tests.clock import ManualClock
from tests.fakes import WatchedMemory, WatchedStore, assembled
from tests.mails import FakeTransport, World, running
from tests.memory import Loss
from tests.rows import SECOND, an_invoice, rows_of
from tests.samples import samples_of

SENT, PAID = InvoiceStatus.SENT, InvoiceStatus.PAID
RECEIVED, UNDELIVERABLE = InvoiceStatus.RECEIVED, InvoiceStatus.UNDELIVERABLE
DEFERRED = Sending(MailOutcome.DEFERRED, 451, "greylisted")
REJECTED = Sending(MailOutcome.REJECTED, 550, "no such user")
REFUSED = SendingRefused("535 the password is wrong")
MINUTE = timedelta(minutes=1)


@pytest.fixture
def memory():
    """The stored rows."""
    return WatchedMemory()


@pytest.fixture
def clock():
    """The clock of the loops."""
    return ManualClock()


@pytest.fixture
def transport():
    """Takes every mail, unless a test says something else."""
    return FakeTransport()


@pytest.fixture
def metrics():
    """The metrics of the process."""
    return Metrics()


@pytest.fixture
def make_world(memory, clock, transport, metrics):
    """Makes a process with its own settings."""

    def make(**settings):
        store = WatchedStore(memory)
        edges = {"clock": clock, "transport": transport, "metrics": metrics}
        return World(assembled(store, **edges, **settings), store, clock, transport)

    return make


@pytest.fixture
async def world(make_world):
    """A process whose collection and mailing run."""
    async with running(make_world()) as made:
        yield made


async def test_an_invoice_is_sent_when_its_mail_was_accepted(world, transport, memory):
    """Until the server has the mail the invoice is received; then it is sent, without an event."""
    transport.may_send.clear()
    await world.accept()
    assert (RECEIVED, [], "pending") == await world.status()

    transport.may_send.set()
    await world.rest()

    assert (SENT, [], "sent") == await world.status()
    (row,) = await rows_of(memory, mails)
    assert row["body"] is None


async def test_collecting_does_not_wait_for_the_mail(world, transport):
    """An invoice is paid on time although its mail has not gone, and the mail still goes."""
    transport.may_send.clear()
    await world.accept(customer="Acme")
    await world.advance(SECOND)
    assert (PAID, [("Invoice paid", True)], "pending") == await world.status()

    transport.may_send.set()
    await world.rest()

    assert (PAID, [("Invoice paid", True)], "sent") == await world.status()
    assert 1 == len(transport.mails)


async def test_an_invoice_without_an_address_gets_no_mail(world, transport):
    """Without an address nothing is mailed, and the invoice is sent at once."""
    await world.service.collection.accept(an_invoice(customer="Acme+never"))
    await world.rest()

    assert SENT == (await world.store.history.find_invoice("dev", "1"))["status"]
    assert ([], []) == (transport.mails, await world.store.history.mails_of("dev", "1"))


async def test_an_invoice_that_cannot_be_sent_gets_no_mail(world, transport):
    """The sandbox's tag for an undeliverable invoice sends nothing to the address."""
    await world.service.collection.accept(an_invoice(customer_email="jo+undeliverable@example.com"))
    await world.rest()

    assert UNDELIVERABLE == (await world.store.history.find_invoice("dev", "1"))["status"]
    assert [] == transport.mails


async def test_a_deferred_mail_follows_the_schedule(world, transport):
    """After each deferral the next attempt waits for the next delay, with the same bytes."""
    transport.results.extend([DEFERRED, DEFERRED])
    await world.accept()
    assert (RECEIVED, [], "pending") == await world.status()

    await world.advance(MINUTE - POLL)
    assert 1 == len(transport.mails)
    await world.advance(POLL)
    assert 2 == len(transport.mails)
    await world.advance(5 * MINUTE)

    assert (SENT, [], "sent") == await world.status()
    assert 1 == len({(mail.body, mail.message_id) for mail in transport.mails})
    (mail,) = await world.store.history.mails_of("dev", "1")
    assert ["deferred", "deferred", "accepted"] == [one["outcome"] for one in mail["attempts"]]
    assert [451, 451, 250] == [one["code"] for one in mail["attempts"]]


async def test_a_refused_address_makes_the_invoice_undeliverable(world, transport, metrics):
    """A refusal for good is one event with `paid: false`, and the mail is not tried again."""
    transport.results.append(REJECTED)
    await world.accept()
    await world.advance(10 * MINUTE)

    status, ((description, paid),), mail_status = await world.status()
    assert (UNDELIVERABLE, False, "undeliverable") == (status, paid, mail_status)
    assert description.startswith("Invoice undeliverable")
    assert 1 == len(transport.mails)
    (delivery,), _ = await world.store.history.deliveries_of("dev", "1", after=None, limit=10)
    assert not delivery["event"]["paid"]
    assert 1 == samples_of(metrics)['invoices_mail_attempts_total{outcome="rejected"}']


async def test_an_exhausted_schedule_is_undeliverable(make_world, transport):
    """After the last delay a deferral ends in an event."""
    transport.results.extend([DEFERRED] * 3)

    async with running(make_world(mail_retry_schedule=(SECOND, SECOND))) as world:
        await world.accept()
        await world.advance(10 * SECOND)

        status, events, mail_status = await world.status()
        assert (UNDELIVERABLE, 1, "undeliverable") == (status, len(events), mail_status)
        assert 3 == len(transport.mails)


async def test_a_paid_invoice_does_not_become_undeliverable(world, transport):
    """A refused mail of a paid invoice is recorded with the mail, and is no event."""
    transport.may_send.clear()
    transport.results.append(REJECTED)
    await world.accept(customer="Acme")
    await world.advance(SECOND)
    transport.may_send.set()
    await world.rest()

    assert (PAID, [("Invoice paid", True)], "undeliverable") == await world.status()


async def test_an_undeliverable_invoice_is_still_paid(world, transport):
    """The collection goes on after a refused mail: the customer may have the link."""
    transport.results.append(REJECTED)
    await world.accept(customer="Acme")
    assert UNDELIVERABLE == (await world.status())[0]

    await world.advance(SECOND)

    status, events, _ = await world.status()
    assert (PAID, [False, True]) == (status, [paid for _, paid in events])


async def test_a_void_invoice_is_not_mailed(world, transport):
    """Nobody is asked to pay an invoice that was voided before its mail had gone."""
    transport.results.append(DEFERRED)
    await world.accept()
    row = await world.store.history.find_invoice("dev", "1")
    void = Step(invoice=as_invoice(row), status=InvoiceStatus.VOID, is_report=True)
    assert await world.service.dispatcher.record(void)
    await world.advance(10 * MINUTE)

    assert (InvoiceStatus.VOID, [], "undeliverable") == await world.status()
    assert 1 == len(transport.mails)


async def test_a_server_that_is_away_does_not_end_the_pause(world, transport):
    """A deferral while sending is paused shows nothing: one mail tries it again later."""
    transport.results.extend([REFUSED, DEFERRED])
    await world.accept("1")
    await world.accept("2")
    await world.advance(PAUSE)
    assert world.service.mailing.is_paused
    assert 2 == len(transport.mails)

    await world.advance(PAUSE)
    assert not world.service.mailing.is_paused


async def test_a_failure_of_ours_pauses_sending(world, transport, metrics, caplog):
    """It is no attempt and one log line; one mail tries it again, and then all of them go."""
    caplog.set_level(logging.INFO, "invoices.mail")
    transport.results.extend([REFUSED, REFUSED, REFUSED])
    await world.accept("1")
    for id_ in ("2", "3"):
        await world.accept(id_)
    assert world.service.mailing.is_paused
    assert 1 == samples_of(metrics)["invoices_mail_paused"]

    await world.advance(2 * PAUSE + 2 * POLL)
    assert 3 == len(transport.mails)
    for _ in range(4):
        await world.advance(PAUSE)

    assert not world.service.mailing.is_paused
    assert 0 == samples_of(metrics)["invoices_mail_paused"]
    for id_ in ("1", "2", "3"):
        assert (SENT, [], "sent") == await world.status(id_)
        (mail,) = await world.store.history.mails_of("dev", id_)
        assert 1 == len(mail["attempts"])
    assert 1 == caplog.messages.count("mail.paused")
    assert 1 == caplog.messages.count("mail.resumed")


async def test_collecting_goes_on_while_sending_is_paused(world, transport):
    """A wrong password costs no payment."""
    transport.results.extend([REFUSED] * 10)
    await world.accept(customer="Acme")
    await world.advance(SECOND)

    assert (PAID, [("Invoice paid", True)], "pending") == await world.status()


async def test_a_defect_in_one_mail_does_not_stop_the_others(world, transport, caplog):
    """An unexpected error is logged, and the mail is tried again after its lease."""
    transport.results.append(LookupError("unexpected"))
    await world.accept("1")
    await world.accept("2")
    assert (SENT, [], "sent") == await world.status("2")
    assert "mail.failed" in caplog.messages

    await world.advance(LEASE + POLL)
    assert (SENT, [], "sent") == await world.status("1")


@pytest.mark.parametrize("loss", [Loss.BEFORE, Loss.AFTER])
async def test_a_mail_that_went_is_recorded_after_an_outage(world, transport, memory, loss):
    """If its record is lost, the mail is settled once, whether the commit was written or not."""
    transport.may_send.clear()
    transport.results.append(REJECTED)
    await world.accept()
    memory.losses.append(loss)
    transport.may_send.set()
    await world.rest()
    await world.advance(2 * POLL)

    status, events, mail_status = await world.status()
    assert (UNDELIVERABLE, 1, "undeliverable") == (status, len(events), mail_status)


async def test_an_attempt_that_outlived_its_lease_is_not_counted(world, transport, metrics, caplog):
    """A mail that another process took over meanwhile is not reported as settled by this one."""
    caplog.set_level(logging.INFO, "invoices.mail")
    transport.may_send.clear()
    await world.accept()
    later = world.clock.now() + LEASE
    await world.store.lease_mails(LeaseRound(later, later + LEASE, 1))

    transport.may_send.set()
    await world.rest()

    assert ["mail.outlived_lease"] == [
        one.message for one in caplog.records if one.message.startswith("mail.")
    ]
    assert 0 == samples_of(metrics)['invoices_mail_attempts_total{outcome="accepted"}']
    assert (RECEIVED, [], "pending") == await world.status()


async def test_the_last_attempt_at_a_paid_invoice_is_counted(world, transport, metrics):
    """The invoice stays paid; the attempt is recorded, and counted, all the same."""
    transport.may_send.clear()
    await world.accept(customer="Acme")
    await world.advance(SECOND)
    transport.may_send.set()
    await world.rest()

    assert (PAID, [("Invoice paid", True)], "sent") == await world.status()
    assert 1 == samples_of(metrics)['invoices_mail_attempts_total{outcome="accepted"}']


async def test_one_account_does_not_delay_the_mails_of_another(world, transport):
    """While one account has many mails on their way, the next place goes to another account."""
    transport.may_send.clear()
    for number in range(2 * CONCURRENCY):
        await world.accept(f"a{number}")
    await world.accept("other", account_id="other")
    await world.rest()
    before = len(transport.mails)
    transport.may_send.set()
    await world.rest()

    accounts = [one.account_id for one in transport.mails]
    assert "other" in accounts[: before + CONCURRENCY]
    assert 2 * CONCURRENCY + 1 == len(accounts)


async def test_no_more_mails_are_on_their_way_than_allowed(world, transport):
    """Mails wait in the database while as many as allowed are on their way."""
    transport.may_send.clear()
    for number in range(CONCURRENCY + 3):
        await world.accept(str(number))
    assert CONCURRENCY == len(transport.mails)

    transport.may_send.set()
    await world.advance(POLL)
    assert CONCURRENCY + 3 == len(transport.mails)


# Over HTTP


@pytest.fixture
async def api(world, aiohttp_client):
    """A client of the process."""
    return await aiohttp_client(make_application(world.service.dependencies))


async def test_the_mails_of_an_invoice_are_shown(world, transport, api):
    """`GET /invoices/{id}/mails` has the mail and its attempts, and no bytes."""
    transport.results.append(DEFERRED)
    await world.accept()

    answer = await api.get("/invoices/1/mails")

    (mail,) = (await answer.json())["items"]
    ids = {name: mail.pop(name) for name in ("id", "message_id")}
    assert ids["id"].startswith("mail_")
    assert f"<{ids['id']}@localhost>" == ids["message_id"]
    assert {
        "to": "richie@example.com",
        "subject": "Invoice 1",
        "status": "pending",
        "due_at": "2026-01-31T12:01:00.000Z",
        "created_at": "2026-01-31T12:00:00.000Z",
        "attempts": [
            {
                "number": 1,
                "started_at": "2026-01-31T12:00:00.000Z",
                "outcome": "deferred",
                "code": 451,
                "detail": "greylisted",
            }
        ],
    } == mail

    await world.advance(MINUTE)
    (mail,) = (await (await api.get("/invoices/1/mails")).json())["items"]
    assert ("sent", None, 2) == (mail["status"], mail["due_at"], len(mail["attempts"]))


async def test_mails_of_an_unknown_invoice_are_not_found(api):
    """An id that the account has not used is 404."""
    assert 404 == (await api.get("/invoices/none/mails")).status


async def test_readiness_says_that_sending_is_paused(world, transport, api):
    """A process that cannot send is ready for everything else, and says so in one word."""
    for loop in world.service.loops:
        loop.is_running = True
    assert {"status": "ok", "mail": "ok"} == await (await api.get("/readyz")).json()

    transport.results.append(REFUSED)
    await world.accept()

    answer = await api.get("/readyz")
    assert (200, {"status": "ok", "mail": "paused"}) == (answer.status, await answer.json())
