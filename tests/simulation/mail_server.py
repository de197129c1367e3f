"""
The mail server of a world, and the transport by which each process hands mails over to it.

Its behaviour changes during the faults. Afterwards it takes every mail, but for a customer that it
does not know.
"""

from __future__ import annotations

import asyncio
from bisect import bisect
from collections import Counter
from enum import Enum

from service.collection.sending import Sending
from service.domain.mail import Mail
from service.domain.outcomes import MailOutcome
from service.errors import SendingRefused
from tests.mails import ACCEPTED
from tests.simulation.link import delay
from tests.simulation.plan import MAIL_LEASE, MailBehaviour, Recipient

UNKNOWN_ADDRESS = "nobody@example.com"

ADDRESSES = {Recipient.KNOWN: "richie@example.com", Recipient.UNKNOWN: UNKNOWN_ADDRESS}
"""The addresses of the customers, as their accounts give them."""

HANG_SECONDS = (5, 20)
"""How long the server may be silent: the sender waits shorter, or longer than its lease."""


class MailReaction(Enum):
    """The reaction of the mail server to one mail."""

    TAKE = "takes"
    DEFER = "asks to send later"
    LOSE = "takes, and loses the connection before its answer,"
    HANG = "does not answer in time to"
    LATE = "takes, and the sender is delayed beyond its lease, for"
    CLOSED = "refuses the service itself, with"


REACTIONS = {
    MailBehaviour.WELL: (MailReaction.TAKE,),
    MailBehaviour.FLAKY: (MailReaction.TAKE, MailReaction.TAKE, *MailReaction),
    MailBehaviour.AWAY: (MailReaction.DEFER, MailReaction.HANG),
    MailBehaviour.CLOSED: (MailReaction.CLOSED,),
}
"""The possible reactions for each behaviour, all equally likely."""

TAKEN = {MailReaction.TAKE, MailReaction.LOSE, MailReaction.LATE}
"""Where the mail has arrived, whatever its sender learns."""

_DEFERRED = Sending(MailOutcome.DEFERRED, 451, "later")
_SILENT = Sending(MailOutcome.DEFERRED, None, "no answer")
_REJECTED = Sending(MailOutcome.REJECTED, 550, "unknown here")


class MailServer:
    """Takes the mails of a world, or does not."""

    def __init__(self, world):
        self._world = world
        self._instants = [at for at, _ in world.plan.mail_behaviours]
        self._behaviours = [
            MailBehaviour.WELL,
            *(behaviour for _, behaviour in world.plan.mail_behaviours),
        ]
        self.taken = Counter()
        """How often each mail has arrived."""

    async def answer(self, mail):
        """The result for *mail*, after a delay; SendingRefused if it takes none of the service."""
        chance = self._world.chance
        reaction = chance.choice(REACTIONS[self._behaviour()])
        self._world.log.add("mail server", "{} {}", reaction.value, mail.id)
        if reaction is MailReaction.CLOSED:
            await delay(chance, 0.2)
            raise SendingRefused("535 wrong password")
        if mail.recipient == UNKNOWN_ADDRESS:
            await delay(chance, 0.2)
            return _REJECTED
        if reaction in TAKEN:
            self.taken[mail.id] += 1
        if reaction is MailReaction.LATE:
            await asyncio.sleep(MAIL_LEASE.total_seconds() + 1)
        elif reaction is MailReaction.HANG:
            await asyncio.sleep(chance.choice(HANG_SECONDS))
        else:
            await delay(chance, 0.2)
        results = {MailReaction.DEFER: _DEFERRED, MailReaction.TAKE: ACCEPTED}
        return results.get(reaction, ACCEPTED if reaction is MailReaction.LATE else _SILENT)

    def _behaviour(self):
        if self._world.faults_are_over:
            return MailBehaviour.WELL
        return self._behaviours[bisect(self._instants, asyncio.get_running_loop().time())]


class MailTransport:
    """Implements `service.collection.sending.Transport`, and the composing, for one process."""

    def __init__(self, world, process):
        self._world = world
        self._process = process

    async def compose(self, invoice):
        """The mail of *invoice*; another process may have composed one that was never committed."""
        # A part of the step that asks the collector.
        self._process.collecting_count += 1
        try:
            await delay(self._world.chance, 0.1)
        finally:
            self._process.collecting_count -= 1
        now = self._process.clock.now()
        id_ = f"mail_{self._world.new_id(now)}"
        return Mail(
            account_id=invoice.account_id,
            id=id_,
            invoice_key=invoice.key,
            recipient=invoice.customer_email,
            subject=f"Invoice {invoice.id}",
            message_id=f"<{id_}@example.com>",
            body=f"Message-ID: <{id_}@example.com>".encode(),
            created_at=now,
        )

    async def send(self, mail):
        """Hand *mail* over; the process may be killed before it, and before it has the answer."""
        await self._process.pass_kill_point("mail")
        self._world.rules.mails.handed_over(self._process, mail)
        sending = await self._world.mail_server.answer(mail)
        await self._process.pass_kill_point("mail")
        self._world.rules.mails.answered(mail, sending)
        return sending
