"""Notices about receivers: when each is due, and that it is given once."""

from dataclasses import replace
from datetime import timedelta

import pytest
from asyncpg import NotNullViolationError

from service.accounts.administration import AccountAdministration
from service.accounts.encryption import SecretCipher, new_encryption_key
from service.database.sqlite_library import LIBRARY
from service.domain.mail import OF_NO_INVOICE, Mail
from service.domain.notices import NoticeKind
from service.domain.receivers import id_of
from service.storage.leases import LeaseRound
from service.storage.notices import BATCH
from service.storage.observations import Observation
from service.storage.tables import mails
from tests.clock import START, ManualClock
from tests.rows import LEASE, ONE, SECOND, a_receiver, rows_of

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
FAILING, STILL_FAILING, RECOVERED = NoticeKind

REFUSALS = {
    "sqlite": LIBRARY.IntegrityError,
    "postgresql": NotNullViolationError,
    "memory": ValueError,
}
"""What each store raises for a row without a value that it must have."""


async def fails(store, *, at=START, receiver=None):
    """The receiver fails at *at*."""
    name = receiver or a_receiver()
    one = Observation(receiver=name, origin=ONE, failing_since=at, failed_at=at, reason="Why.")
    await store.receivers.observe([one])


async def answers(store, *, at):
    """The receiver answers at *at*."""
    await store.receivers.observe([Observation(receiver=a_receiver(), origin=ONE, answered_at=at)])


async def due(store, at):
    """The kinds of notices that are due at *at*."""
    return [one.kind for one in await store.receivers.due_notices(at)]


async def told(store, at):
    """The kinds of the notices that are given at *at*."""
    items = [(one, None) for one in await store.receivers.due_notices(at)]
    return [one.kind for one in await store.receivers.give_notices(items)]


def a_mail(notice, id_="mail_1"):
    """A mail that gives *notice*."""
    return Mail(
        account_id=notice.account_id,
        id=id_,
        invoice_key=OF_NO_INVOICE,
        recipient="dev@example.com",
        subject="It fails",
        message_id=f"<{id_}@example.com>",
        body=b"x",
        created_at=START,
    )


async def test_a_failure_is_told_after_a_while(store):
    """A receiver that fails for five minutes is told of, and not before, and once."""
    await fails(store)

    assert [] == await due(store, START + 5 * MINUTE - SECOND)
    (notice,) = await store.receivers.due_notices(START + 5 * MINUTE)
    assert (FAILING, a_receiver(), ONE, START) == (
        notice.kind,
        notice.receiver,
        notice.origin,
        notice.since,
    )
    assert ("dev", ONE, "Why.", None, None) == (
        notice.account_id,
        notice.url,
        notice.reason,
        notice.told,
        notice.email,
    )
    assert [FAILING] == await told(store, START + 5 * MINUTE)
    assert [] == await due(store, START + 23 * HOUR)


async def test_a_receiver_that_answers_now_and_then_is_not_told_of(store):
    """Failures that an answer ends before that cause no notice, nor does their end."""
    for minute in range(0, 60, 4):
        await fails(store, at=START + minute * MINUTE)
        await answers(store, at=START + (minute + 2) * MINUTE)

        assert [] == await due(store, START + (minute + 4) * MINUTE)


async def test_a_long_failure_is_told_once_more(store):
    """After 24 hours it is told that the receiver still fails, and then nothing more."""
    await fails(store)
    assert [FAILING] == await told(store, START + HOUR)

    assert [STILL_FAILING] == await told(store, START + 24 * HOUR)
    assert [] == await due(store, START + 1000 * HOUR)


async def test_two_notices_are_never_given_at_once(store):
    """A service that was down for days tells of the failure first, and then that it lasts."""
    await fails(store)

    assert [[FAILING], [STILL_FAILING], []] == [
        await told(store, START + 100 * HOUR) for _ in range(3)
    ]


@pytest.mark.parametrize("hours", [1, 30])
async def test_a_recovery_is_told_after_a_while(store, hours):
    """A receiver that was told of, and answers for five minutes, has recovered; it is told once."""
    await fails(store)
    while await told(store, START + hours * HOUR):
        pass
    at = START + hours * HOUR
    await answers(store, at=at)

    assert [] == await due(store, at + 5 * MINUTE - SECOND)
    assert [RECOVERED] == await told(store, at + 5 * MINUTE)
    assert [] == await due(store, at + 1000 * HOUR)


async def test_a_short_recovery_is_not_told(store):
    """A receiver that fails again within five minutes has not recovered, and is not told again."""
    await fails(store)
    await told(store, START + HOUR)
    await answers(store, at=START + HOUR)
    await fails(store, at=START + HOUR + MINUTE)

    assert [] == await due(store, START + 2 * HOUR)


async def test_a_second_failure_is_told_again(store):
    """After a recovery that was told, the next failure is a new one."""
    await fails(store)
    await told(store, START + HOUR)
    await answers(store, at=START + HOUR)
    await told(store, START + 2 * HOUR)
    await fails(store, at=START + 3 * HOUR)

    assert [FAILING] == await told(store, START + 4 * HOUR)


async def test_a_paused_receiver_is_not_told_of(store):
    """Who has paused a receiver knows of it; after the pause it is told."""
    await fails(store)
    known = await store.receivers.find("dev", id_of(a_receiver()), START)
    await store.receivers.pause(known, START)
    assert [] == await due(store, START + HOUR)

    await store.receivers.resume(known)

    assert [FAILING] == await due(store, START + HOUR)


async def test_of_two_processes_one_gives_a_notice(store, elsewhere, database):
    """Both find it; the one that commits second gives nothing, and inserts no mail."""
    await fails(store)
    (notice,) = await store.receivers.due_notices(START + HOUR)
    again = await elsewhere.receivers.due_notices(START + HOUR)

    first = await store.receivers.give_notices([(notice, a_mail(notice))])
    second = await elsewhere.receivers.give_notices([(one, a_mail(one, "mail_2")) for one in again])

    assert ([notice], []) == (list(first), list(second))
    assert ["mail_1"] == [row["id"] for row in await rows_of(database, mails)]


async def test_a_notice_that_has_become_wrong_is_not_given(store, database):
    """If the receiver has answered since it was found, nothing is told."""
    await fails(store)
    (notice,) = await store.receivers.due_notices(START + HOUR)
    await answers(store, at=START + HOUR)

    assert [] == list(await store.receivers.give_notices([(notice, a_mail(notice))]))
    assert [] == await rows_of(database, mails)


async def test_a_notice_and_its_mail_are_stored_together(store, database, kind):
    """A notice whose mail cannot be stored stays due."""
    await fails(store)
    (notice,) = await store.receivers.due_notices(START + HOUR)
    wrong = replace(a_mail(notice), recipient=None)

    with pytest.raises(REFUSALS[kind], match="recipient"):
        await store.receivers.give_notices([(notice, wrong)])

    assert [FAILING] == await due(store, START + HOUR)
    assert [] == await rows_of(database, mails)


async def test_the_mail_of_a_notice_is_due_at_once(store):
    """It is leased like the mail of an invoice, and wakes the loop."""
    await fails(store)
    (notice,) = await store.receivers.due_notices(START + HOUR)
    store.mails_due.clear()

    await store.receivers.give_notices([(notice, a_mail(notice))])

    assert store.mails_due.is_set()
    (mail,) = (await store.lease_mails(LeaseRound(START, START + LEASE, 9))).mails
    assert ("mail_1", OF_NO_INVOICE) == (mail.id, mail.invoice_key)


async def test_a_notice_has_the_address_of_its_account(store):
    """The address is that of the account at the time; without one there is none."""
    cipher = SecretCipher([new_encryption_key()])
    administration = AccountAdministration(store, cipher, ManualClock())
    issued = await administration.add("acme", "acme@example.com")
    await fails(store, receiver=a_receiver(account_id=issued.account_id))
    seen = []
    for email in ("other@example.com", None):
        seen += [one.email for one in await store.receivers.due_notices(START + HOUR)]
        await administration.set_email("acme", email)
    seen += [one.email for one in await store.receivers.due_notices(START + HOUR)]

    assert ["acme@example.com", "other@example.com", None] == seen


async def test_notices_are_found_in_batches(store):
    """A read finds a bounded number of each kind, those that wait longest first."""
    for number in range(BATCH + 1):
        name = a_receiver(path=f"/{number}")
        await fails(store, at=START + (BATCH - number) * SECOND, receiver=name)

    first = await store.receivers.due_notices(START + HOUR)
    await store.receivers.give_notices([(one, None) for one in first])
    rest = await store.receivers.due_notices(START + HOUR)

    assert (BATCH, 1) == (len(first), len(rest))
    assert START == first[0].since
    assert START + BATCH * SECOND == rest[0].since
