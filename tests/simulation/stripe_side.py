"""
Stripe in a world with payments: one account of it for each account of the service.

Stripe is the stateful fake of `tests.stripe`, and tells the true time. Calls to it take time, lose
their connection, and are answered with failures that it stores for their keys. Its webhooks come
late, several times, in any order, or never; those without which nothing would be learned, about
disputes and what is given back at the dashboard, come in the end.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from service.accounts.stripe_keys import StripeKeys
from service.collection.stripe.client import StripeHttpCalls, is_signed
from service.collection.stripe.service import Stripe
from tests.simulation.clocks import true_now
from tests.simulation.link import delay
from tests.stripe.fake import SECRET, FakeStripe, Fault
from tests.stripe.transport import Transport

LIFE = timedelta(seconds=40)
"""How long a session can be paid in a world; in the service, a day."""

LIFE_LEFT_MIN, LIFE_MIN = timedelta(seconds=8), timedelta(seconds=5)

LEASE = timedelta(seconds=15)
"""The lease of a checkout and of a payment in a world; that of the service is longer."""

WAIT = timedelta(seconds=3)
"""When a refund on its way, an open dispute or a lost session is asked about again in a world."""

FAULTS = tuple(one for one in Fault if one is not Fault.NONE)

RETRY_SECONDS = 5
"""When Stripe sends a webhook again that was not taken."""

POLLED = "checkout."
"""The events whose webhooks may be lost: sessions are asked about."""


class DrawnFaults:
    """What goes wrong with the next request; implements what the fake needs of a queue."""

    def __init__(self, world):
        self._world = world

    def popleft(self):
        """Draw the fault of one request."""
        chance, plan = self._world.chance, self._world.plan.payments
        if self._world.faults_are_over or chance.random() >= plan.fault_chance:
            return Fault.NONE
        return chance.choice(FAULTS)


class StripeSide:
    """The accounts of Stripe of a world, and what is connected to them."""

    def __init__(self, world):
        self._world = world
        self._number = 0
        self.fakes = {}
        """Each account of Stripe by the id of its account here."""
        self.hidden = set()
        """Account and id of the sessions that another key did not know for a while."""
        self.paid_early = set()
        """The sessions that were paid although perhaps nobody had their URLs."""
        self._sent_counts = {}
        self._sending = set()

    @staticmethod
    def keys_of(number):
        """What the account of a number has from Stripe."""
        return StripeKeys(f"rk_test_{number}", (SECRET,))

    def add(self, account_id, keys):
        """Give an account its account of Stripe."""
        fake = FakeStripe(true_now, api_key=keys.api_key, life_min=LIFE_MIN)
        fake.faults = DrawnFaults(self._world)
        self.fakes[account_id], self._sent_counts[account_id] = fake, 0

    def connected(self, process):
        """The connection of *process* to Stripe."""
        by_key = {key: fake for fake in self.fakes.values() for key in fake.api_keys}

        def calls_with(api_key):
            transport = Transport(by_key[api_key], lambda: self._travel(process))
            return StripeHttpCalls(api_key, "http://stripe", transport)

        return Stripe(calls_with, is_signed)

    async def _travel(self, process):
        """A request or its answer is on its way; what has happened at Stripe is told meanwhile."""
        self._send_webhooks()
        self._world.rules.payments.check_sessions()
        await process.pass_kill_point("call")
        chance, plan = self._world.chance, self._world.plan.payments
        if not self._world.faults_are_over and chance.random() < plan.slow_chance:
            await asyncio.sleep(chance.uniform(5, 25))
        await delay(chance, 0.3)
        await process.pass_kill_point("call")

    def act(self, name, account_id, *args, **options):
        """Somebody does something at Stripe itself."""
        result = getattr(self.fakes[account_id], name)(*args, **options)
        self._send_webhooks()
        return result

    def hide_sessions(self, account_id):
        """
        The sessions of an account are not known any more.

        One whose answer was lost, and that is hidden before anybody asks again, stays unknown for
        ever: in it nobody can have paid.
        """
        fake = self.fakes[account_id]
        fake.hidden = set(fake.sessions) - self.paid_early
        self.hidden |= {(account_id, id_) for id_ in fake.hidden}

    def show_sessions(self, account_id):
        """They are known again."""
        self.fakes[account_id].hidden = set()

    # Webhooks

    async def keep(self):
        """Send webhooks for ever: sessions expire although nobody asks."""
        while True:
            self._send_webhooks()
            await asyncio.sleep(1)

    def are_sent(self):
        """Whether every webhook that is sent at all has come."""
        return not self._sending

    def _send_webhooks(self):
        """Begin to send the webhooks about all that has happened."""
        for account_id, fake in self.fakes.items():
            fake.payable()
            sent_count, self._sent_counts[account_id] = (
                self._sent_counts[account_id],
                len(fake.events),
            )
            for event in fake.events[sent_count:]:
                self._world.log.add("Stripe", "has {} {}", event["type"], event["id"])
                count = self._world.chance.choice(self._world.plan.payments.copies)
                if not count and not event["type"].startswith(POLLED):
                    count = 1
                for _ in range(count):
                    task = self._world._begin(self._send(account_id, event))
                    self._sending.add(task)
                    task.add_done_callback(self._sending.discard)

    async def _send(self, account_id, event):
        """Send one webhook, at once or later, until a process has taken it."""
        chance = self._world.chance
        await asyncio.sleep(chance.choice((0, 0, 0.1, 2, 12)))
        while True:
            process = await self._world._ready_process()
            body, signature = self.fakes[account_id].signed(event)
            task = await self._world._ended(process, process.take(account_id, body, signature))
            if task and task.result():
                return
            await asyncio.sleep(RETRY_SECONDS)
