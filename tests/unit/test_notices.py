"""The loop that tells accounts of their receivers, and the mails that do."""

import logging
from datetime import timedelta
from email import message_from_bytes, policy

import pytest

from service.collection.notice_mail import NoticeMails
from service.delivery.notices import INTERVAL, Notices
from service.domain.mail import OF_NO_INVOICE
from service.domain.notices import Notice, NoticeKind
from service.domain.outcomes import MailOutcome
from service.domain.states import MailStatus
from service.storage.observations import Observation
from service.storage.tables import mail_attempts, mails
from service.telemetry.metrics import Metrics
from tests.clock import START, ManualClock
from tests.fakes import WatchedMemory, WatchedStore, assembled
from tests.mails import FakeTransport, World, running
from tests.memory import Memory, memory_store
from tests.rows import ONE, a_receiver, rows_of
from tests.samples import samples_of

HOUR = timedelta(hours=1)
EMAIL = "acme@example.com"
KINDS = tuple(NoticeKind)


@pytest.fixture
def memory():
    """The stored rows, with an account that has an address."""
    memory = Memory()
    add_account(memory)
    return memory


def add_account(memory, email=EMAIL):
    """Add the account `dev` with an address."""
    values = {"id": "dev", "name": "dev", "created_at": START, "disabled_at": None}
    memory.tables.accounts.insert({**values, "email": email})


@pytest.fixture
def metrics():
    """The metrics of the process."""
    return Metrics()


@pytest.fixture
def notices(memory, metrics):
    """The loop, which does not run; a receiver has failed for an hour."""
    clock = ManualClock(START + HOUR)
    compose = NoticeMails("Acme <billing@acme.example>", clock).compose
    return Notices(memory_store(memory), compose, clock, metrics)


async def fails(store):
    """A receiver fails."""
    one = Observation(receiver=a_receiver(), origin=ONE, failing_since=START, failed_at=START)
    await store.receivers.observe([one])


async def test_a_notice_is_a_mail_a_line_and_a_count(notices, memory, metrics, caplog):
    """One of each, however many rounds there are."""
    caplog.set_level(logging.INFO, logger="invoices.delivery")
    await fails(notices._store)

    rounds = [await notices.run_round() for _ in range(3)]

    assert [(1, INTERVAL), (0, INTERVAL), (0, INTERVAL)] == [
        (one.count, one.wait) for one in rounds
    ]
    (mail,) = await rows_of(memory, mails)
    assert (EMAIL, OF_NO_INVOICE) == (mail["recipient"], mail["invoice_key"])
    (line,) = [one for one in caplog.records if one.getMessage() == "receiver.noticed"]
    assert logging.WARNING == line.levelno
    expected = {"account_id": "dev", "origin": ONE, "kind": "failing", "since": START}
    assert {**expected, "has_mail": True} == line.fields
    samples = samples_of(metrics)
    assert 1 == samples['invoices_receiver_notices_total{kind="failing"}']


async def test_an_account_without_an_address_gets_no_mail(notices, memory, metrics, caplog):
    """The operator still sees that a receiver fails, once."""
    caplog.set_level(logging.INFO, logger="invoices.delivery")
    memory.tables.accounts.change(memory.tables.accounts.get("dev"), email=None)
    await fails(notices._store)

    for _ in range(2):
        await notices.run_round()

    assert [] == await rows_of(memory, mails)
    (line,) = [one for one in caplog.records if one.getMessage() == "receiver.noticed"]
    assert not line.fields["has_mail"]


async def test_nothing_is_written_without_a_notice(notices, memory):
    """A round that finds none is one read."""
    memory.losses.append(None)

    await notices.run_round()

    assert 1 == len(memory.losses)


def a_notice(kind, **changes):
    """A notice for an account with an address."""
    values = {"receiver": a_receiver(path="/base"), "origin": ONE, "since": START, "email": EMAIL}
    return Notice(kind=kind, **{**values, "reason": "Your receiver answered 503.", **changes})


def read(notice, sender="Acme <billing@acme.example>"):
    """The mail of *notice*, its message, and the lines of its text."""
    mail = NoticeMails(sender, ManualClock()).compose(notice)
    message = message_from_bytes(mail.body, policy=policy.default)
    return mail, message, message.get_content().splitlines()


@pytest.mark.parametrize("kind", KINDS)
def test_a_mail_says_what_has_changed(kind):
    """It names the URL and since when, and how the last attempt failed where it does."""
    mail, message, lines = read(a_notice(kind))

    assert f"{ONE}/base" in mail.subject
    assert f"{ONE}/base" in lines
    assert "since 2026-01-31 12:00 UTC" in lines[0]
    reason = "The last attempt: Your receiver answered 503."
    assert (kind is not NoticeKind.RECOVERED) == (reason in lines)
    assert (mail.subject, mail.message_id) == (message["Subject"], message["Message-ID"])
    assert (EMAIL, "auto-generated") == (message["To"], message["Auto-Submitted"])


def test_each_kind_has_words_of_its_own():
    """The three subjects and the three texts differ."""
    read_ones = [read(a_notice(kind)) for kind in KINDS]

    assert 3 == len({mail.subject for mail, *_ in read_ones})
    assert 3 == len({lines[0] + lines[-1] for *_, lines in read_ones})


def test_what_a_receiver_answers_cannot_write_into_the_mail():
    """A reason becomes one line, also if the receiver has put line breaks into it."""
    _, message, lines = read(a_notice(NoticeKind.FAILING, reason="a\r\nTo: other@example.com\n\nb"))

    assert "The last attempt: a To: other@example.com b" in lines
    assert EMAIL == message["To"]


def test_a_long_url_is_cut_in_the_subject_alone():
    """A subject has a bounded length; the text has the whole URL."""
    url = f"{ONE}/{1000 * 'a'}"
    mail, _, lines = read(a_notice(NoticeKind.FAILING, receiver=f"dev {url}"))

    assert len(mail.subject) <= 120
    assert url in lines


def test_without_a_reason_the_mail_says_so():
    """A version before may have stored none."""
    *_, lines = read(a_notice(NoticeKind.FAILING, reason=None))

    assert "The last attempt: it is not known how it failed." in lines


@pytest.fixture
def transport():
    """Takes every mail, unless a test says something else."""
    return FakeTransport()


@pytest.fixture
async def world(transport):
    """A process whose mailing runs, on a memory whose account has an address."""
    memory, clock = WatchedMemory(), ManualClock(START + HOUR)
    add_account(memory)
    store = WatchedStore(memory)
    service = assembled(store, clock=clock, transport=transport)
    async with running(World(service, store, clock, transport)) as made:
        yield made


async def test_the_mail_of_a_notice_is_sent(world, transport):
    """It goes the way of the mails of invoices, and has no invoice that it could change."""
    await fails(world.store)
    (notice,) = await world.store.receivers.due_notices(START + HOUR)
    mail, *_ = read(notice)

    await world.store.receivers.give_notices([(notice, mail)])
    await world.rest()

    assert [mail.body] == [one.body for one in transport.mails]
    (row,) = await rows_of(world.store.memory, mails)
    assert (MailStatus.SENT.value, None) == (row["status"], row["body"])
    (attempt,) = await rows_of(world.store.memory, mail_attempts)
    assert MailOutcome.ACCEPTED.value == attempt["outcome"]
