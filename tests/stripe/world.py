"""
A world for the money: the service, Stripe, customers and API users, interleaved by a seed.

Everything that may happen between two awaits happens in one: calls lose their connection, Stripe
stores failures, webhooks come twice, late or never, the clock jumps, and the process is killed at
any await and started again on the same rows. `run` plays one seed, lets all come to an end, and
compares what the API users were told with the money that Stripe holds.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import timedelta
from functools import cache

from sqlalchemy import StaticPool, create_engine, event, select

from service.accounts.encryption import SecretCipher, new_encryption_key
from service.accounts.stripe_keys import StripeKeys, encrypt_stripe_keys
from service.app.assembling import assemble
from service.app.edges import Edges
from service.app.process import DEVELOPMENT
from service.collection.payments import Payments
from service.collection.sandbox import Sandbox
from service.collection.stripe.client import StripeHttpCalls, is_signed
from service.collection.stripe.service import Stripe
from service.collection.stripe.watch import CheckoutWatch
from service.domain.payment import NothingLeft
from service.errors import CollectorUnavailable, Conflict
from service.settings import Settings
from service.storage import stripe_keys
from service.storage.invoices import as_invoice
from service.storage.tables import deliveries, events, invoices, metadata, payments, refunds
from tests.clock import ManualClock
from tests.fakes import SILENT, FakeReceivers, FakeTransport
from tests.rows import an_invoice
from tests.stripe.fake import API_KEY, SECRET, FakeStripe, Fault
from tests.stripe.ledger import Records, check_ledger
from tests.stripe.transport import Transport

ENCRYPTION_KEY = new_encryption_key()
TOTAL = 10_000
MINUTE = timedelta(minutes=1)


class Killed(BaseException):
    """The process was killed at this await."""


@cache
def _engine():
    engine = create_engine(
        "sqlite+pysqlite://", poolclass=StaticPool, connect_args={"isolation_level": None}
    )
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with engine.begin() as tx:
        metadata.create_all(tx)
    return engine


class Inline:
    """Implements `service.database.engine.Database` without threads; *pause* is an await."""

    product = "SQLite"
    has_one_writer = True
    writes_at_once = False
    is_shared = False

    def __init__(self, pause):
        self._pause = pause

    async def write(self, work, *args, **options):
        """Run *work* as a transaction; the process may be killed before and after."""
        await self._pause()
        with _engine().begin() as tx:
            result = work(tx, *args, **options)
        await self._pause()
        return result

    async def read(self, work, *args, **options):
        """Run *work* on what is committed."""
        await self._pause()
        with _engine().connect() as tx:
            return work(tx, *args, **options)

    browse = read

    def listen(self, signals):
        """Nobody notifies."""

    def notify(self, name, details=()):
        """Nobody listens."""


class Process:
    """One process of the service; after it was killed, each of its tasks ends at its next await."""

    def __init__(self, world):
        self.is_dead = False
        self._world = world
        clock, fake = world.clock, world.fake
        transport = Transport(fake, self.pause)
        stripe = Stripe(lambda key: StripeHttpCalls(key, "http://stripe", transport), is_signed)
        edges = Edges(
            database=Inline(self.pause),
            sender=FakeReceivers(),
            collector=Sandbox(timedelta(seconds=1)),
            mail_transport=FakeTransport(),
            stripe=stripe,
            clock=clock,
            new_id=lambda: f"{random.getrandbits(64):016x}",
            tracing=SILENT,
        )
        settings = Settings(encryption_key=(ENCRYPTION_KEY,), collector="stripe")
        self.service = assemble(settings, DEVELOPMENT, edges)
        self.dependencies = self.service.dependencies
        self.store = self.service.store
        (self.watch,) = [one for one in self.service.loops if isinstance(one, CheckoutWatch)]
        (self.payments,) = [one for one in self.service.loops if isinstance(one, Payments)]

    async def pause(self):
        """An await: others go on, and the process may be killed."""
        world = self._world
        for _ in range(world.rng.randrange(3)):
            await asyncio.sleep(0)
        if not self.is_dead and world.rng.random() < world.kill_chance:
            self.is_dead = True
        if self.is_dead:
            raise Killed

    async def invoice(self, id_):
        """The invoice as it is stored."""
        return as_invoice(await self.store.history.find_invoice("dev", id_))


class World:
    """One seed: *invoice_count* invoices, and everything that happens to them."""

    def __init__(self, seed, *, invoice_count=2):
        self.rng = random.Random(seed)
        self.clock = ManualClock()
        self.fake = FakeStripe(self.clock.now)
        self.kill_chance = 0
        self.ids = [f"i{number}" for number in range(invoice_count)]
        self.process = None
        self.tabs = []
        """The sessions that customers have seen."""
        self.swapped = set()
        """The sessions that another key did not know for a while."""
        self.trace = []
        self.kill_count = 0

    async def begin(self):
        """Store the invoices and the keys of the account."""
        keys = StripeKeys(API_KEY, (SECRET,))
        ciphertext = encrypt_stripe_keys(keys, SecretCipher([ENCRYPTION_KEY]))
        with _engine().begin() as tx:
            for table in metadata.tables.values():
                tx.execute(table.delete())
            stripe_keys.put(tx, "dev", ciphertext, self.clock.now())
        self.process = Process(self)
        for id_ in self.ids:
            await self.process.store.accept(an_invoice(id=id_, total_minor=TOTAL, currency="USD"))

    async def step(self):
        """One to three things happen at the same time; the process may be killed meanwhile."""
        process = self.process
        names = self.rng.choices(list(ACTIONS), list(ACTIONS.values()), k=self.rng.randrange(1, 4))
        self.trace.append(names)
        done = await asyncio.gather(
            *(self._act(getattr(self, name)(process)) for name in names), return_exceptions=True
        )
        for one in done:
            if isinstance(one, BaseException) and not isinstance(one, Killed):
                raise one
        if process.is_dead:
            self.kill_count += 1
            self.process = Process(self)
        self.check_sessions()

    @staticmethod
    async def _act(action):
        with suppress(CollectorUnavailable, Conflict, NothingLeft):
            await action

    def check_sessions(self):
        """
        No invoice has two sessions that can be paid.

        A session whose answer was lost, and whose account of Stripe was replaced before anybody
        asked again, is known to nobody: no customer has its URL.
        """
        unknown = self.swapped - set(self.tabs)
        payable = [one for one in self.fake.payable() if one["id"] not in unknown]
        for id_ in self.ids:
            open_ = [one for one in payable if one["metadata"]["invoice_id"] == id_]
            assert len(open_) <= 1, (id_, open_)

    # --- What happens.

    async def click(self, process):
        """A customer wants to pay."""
        invoice = await process.invoice(self.rng.choice(self.ids))
        url = await process.dependencies.stripe.collector.checkout(invoice, "")
        self.tabs.append(url.rpartition("/")[2])

    async def pay(self, _process):
        """A customer pays in any tab that was ever opened."""
        if self.tabs:
            session_id = self.rng.choice(self.tabs)
            self.fake.pay(session_id, is_late=self.rng.random() < 0.3)

    async def decline(self, _process):
        """A card is declined."""
        if self.tabs:
            self.fake.decline(self.rng.choice(self.tabs))

    async def settle(self, _process):
        """A late payment arrives, or does not."""
        late = self._late()
        if late:
            self.fake.settle(self.rng.choice(late), is_paid=self.rng.random() < 0.5)

    def _late(self):
        intents = self.fake.intents
        return [
            one["id"]
            for one in self.fake.sessions.values()
            if one["status"] == "complete"
            and intents[one["payment_intent"]]["status"] == "processing"
        ]

    async def webhook(self, process):
        """Any webhook comes, perhaps again."""
        if self.fake.events:
            # It is refused if the clock jumps between its signature and its arrival.
            await self._deliver(process, self.rng.choice(self.fake.events))

    async def _deliver(self, process, one):
        body, signature = self.fake.signed(one)
        return await process.dependencies.stripe.take("dev", body, signature)

    async def poll(self, process):
        """What is due is looked at."""
        now = self.clock.now()
        for due in await process.store.money.lease_checkouts(now, now + MINUTE, 10):
            await process.watch.look(due)

    async def look(self, process):
        """Payments that are due are looked at."""
        now = self.clock.now()
        for due in await process.store.money.lease_payments(now, now + MINUTE, 10):
            await process.payments.look(due)

    async def void(self, process):
        """An API user voids."""
        await process.dependencies.reversals.void(await process.invoice(self.rng.choice(self.ids)))

    async def refund(self, process):
        """An API user asks for a refund, perhaps again."""
        invoice = await process.invoice(self.rng.choice(self.ids))
        minor = self.rng.choice([None, TOTAL, 100, 2_500])
        key = f"key-{minor}-{self.rng.randrange(3)}"
        await process.dependencies.reversals.refund(invoice, minor, key)

    async def dispute(self, _process):
        """A customer disputes a payment, or a bank decides."""
        disputes = [
            one for one in self.fake.disputes.values() if one["status"] not in {"won", "lost"}
        ]
        if disputes and self.rng.random() < 0.6:
            dispute = self.rng.choice(disputes)
            self.fake.close_dispute(dispute["id"], is_won=self.rng.random() < 0.5)
        elif self.fake.intents:
            self.fake.dispute(self.rng.choice(list(self.fake.intents)))

    async def refund_by_hand(self, _process):
        """Somebody gives a little back at the dashboard."""
        paid = [one for one in self.fake.intents.values() if one["status"] == "succeeded"]
        if paid:
            intent = self.rng.choice(paid)
            left = intent["amount"] - self.fake.refunded(intent["id"])
            if left >= 50 and not intent.get("is_disputed"):
                self.fake.refund_by_hand(intent["id"], 50)

    async def swap(self, _process):
        """The key of another account of Stripe is stored, and later the first one again."""
        if self.fake.hidden:
            self.fake.hidden = set()
        elif self.rng.random() < 0.4:
            self.fake.hidden = set(self.fake.sessions)
            self.swapped |= self.fake.hidden

    async def fault(self, _process):
        """Some of the next calls go wrong."""
        faults = [one for one in Fault if one is not Fault.NONE]
        self.fake.faults.extend(self.rng.choices([*faults, Fault.NONE], k=self.rng.randrange(1, 4)))

    async def time(self, _process):
        """Time passes: seconds, minutes, hours or a day."""
        self.clock.advance(MINUTE * self.rng.choice([0.1, 1, 1, 10, 60, 700, 1500]))

    # --- The end.

    async def come_to_an_end(self):
        """Nothing more goes wrong, and all that is under way ends."""
        self.kill_chance = 0
        self.fake.faults.clear()
        self.fake.hidden = set()
        for session_id in self._late():
            self.fake.settle(session_id, is_paid=self.rng.random() < 0.5)
        # Sessions are found by the poll alone, unless they were given up. Refunds at the dashboard
        # and disputes are not.
        for round_ in range(40):
            self.clock.advance(timedelta(hours=1))
            await self.poll(self.process)
            await self.look(self.process)
            if round_ in {1, 20, 30}:
                for one in self.fake.events:
                    is_poll_enough = one["type"].startswith("checkout.")
                    if not is_poll_enough or one["data"]["object"]["id"] in self.swapped:
                        assert await self._deliver(self.process, one)

    def check_ledgers(self):
        """What was told is what Stripe holds."""
        self.check_sessions()
        with _engine().connect() as tx:
            for id_ in self.ids:
                self._check_ledger(tx, id_)

    @staticmethod
    def seen():
        """The kinds of payments, and the states of invoices, that there are."""
        with _engine().connect() as tx:
            return {*tx.scalars(select(payments.c.kind)), *tx.scalars(select(invoices.c.status))}

    def _check_ledger(self, tx, id_):
        row = tx.execute(select(invoices).where(invoices.c.id == id_)).mappings().one()
        of_invoice = lambda table: tx.execute(  # noqa: E731
            select(table).where(table.c.invoice_key == row["key"])
        ).mappings()
        told = sorted(of_invoice(events), key=lambda one: one["sequence"])
        received, given_back = list(of_invoice(payments)), list(of_invoice(refunds))
        assert [*range(1, len(told) + 1)] == [one["sequence"] for one in told], (id_, self.trace)
        assert len(told) == len(list(of_invoice(deliveries))), (id_, self.trace)
        check_ledger(self.fake, Records(row, told, received, given_back), self.trace)


ACTIONS = {
    "click": 6,
    "pay": 6,
    "decline": 1,
    "settle": 3,
    "webhook": 5,
    "poll": 5,
    "look": 5,
    "void": 1,
    "refund": 3,
    "dispute": 1,
    "refund_by_hand": 1,
    "swap": 1,
    "fault": 2,
    "time": 6,
}
"""What may happen, and how often."""


async def run(seed, *, step_count=25):
    """Play *seed*; AssertionError if the ledgers differ, with what has happened."""
    random.seed(seed)
    world = World(seed)
    await world.begin()
    world.kill_chance = world.rng.choice([0, 0.02, 0.1])
    for _ in range(step_count):
        await world.step()
    await world.come_to_an_end()
    world.check_ledgers()
    return world
