import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from service.collection import loop as collection_module
from service.collection.collector import Progress
from service.collection.loop import LEASE
from service.collection.sandbox import Sandbox
from service.domain.states import Acceptance, InvoiceStatus
from service.errors import StorageUnavailable
from service.loops import POLL
from service.storage.tables import deliveries, invoices
from service.telemetry.metrics import Metrics
from tests.clock import PATIENCE_SECONDS, START, ManualClock, idle
from tests.fakes import WatchedMemory, WatchedStore, assembled
from tests.memory import Loss
from tests.rows import ONE, SECOND, an_invoice, lease_invoice, rows_of
from tests.samples import samples_of

RECEIVED, SENT = InvoiceStatus.RECEIVED, InvoiceStatus.SENT
PAID, FAILED = InvoiceStatus.PAID, InvoiceStatus.PAYMENT_FAILED
DELAY = SECOND
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def memory():
    """The stored rows; a test can block the writes."""
    return WatchedMemory()


@pytest.fixture
def store(memory):
    """The store of the collection."""
    return WatchedStore(memory)


@pytest.fixture
def elsewhere(memory):
    """The store of another process on the same memory."""
    return WatchedStore(memory)


@pytest.fixture
def clock():
    """The clock of the collection."""
    return ManualClock()


@pytest.fixture
def metrics():
    """The metrics of the collection."""
    return Metrics()


@pytest.fixture
def collecting(store, clock, metrics):
    """Runs the collection of a process, and drains it at the end of the block."""

    @asynccontextmanager
    async def run(collector=None, *, delay=DELAY):
        collector = collector or Sandbox(delay)
        collection = assembled(store, collector=collector, clock=clock, metrics=metrics).collection
        running = asyncio.create_task(collection.run())
        try:
            await clock.parked()
            yield collection, running
        finally:
            collection.drain()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await running

    return run


class FakeCollector:
    """Returns for each invoice what the test has set for its id, and otherwise pays it."""

    name = "fake"

    def __init__(self, **ends):
        self.ends = ends
        self.asked = Counter()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.is_asked = asyncio.Event()

    def begun(self, _invoice):
        """Return nothing: the collector has to ask the test."""

    async def begin(self, invoice):
        """Return the answer of the test, when the test allows it."""
        self.asked[invoice.id] += 1
        self.is_asked.set()
        await self.may_answer.wait()
        end = self.ends.get(invoice.id, Progress(PAID, "Invoice paid"))
        if isinstance(end, Exception) and self.asked[invoice.id] == 1:
            raise end
        return Progress(PAID, "Invoice paid") if isinstance(end, Exception) else end

    async def collect(self, invoice):
        """Do the same as `begin`."""
        return await self.begin(invoice)


async def quiet(clock):
    """Wait until the collection waits and the tasks that it started have begun."""
    await idle()
    await clock.parked()


async def state_of(store, id_="1"):
    """The state of an invoice and its events."""
    found = await store.history.find_invoice("dev", id_)
    return found["status"], [(event["description"], event["paid"]) for event in found["events"]]


def bodies(found):
    """The description and `paid` of the event of each delivery."""
    return [(one["event"]["description"], one["event"]["paid"]) for one in found]


# The results of a collection


async def test_an_invoice_is_sent_and_paid_after_the_delay(collecting, store, clock):
    """An invoice is sent at once, and is paid exactly when the delay is over."""
    async with collecting() as (collection, _):
        await collection.accept(an_invoice())
        await store.taken.reaches(1)
        assert (SENT, []) == await state_of(store)

        await clock.parked()
        clock.advance(DELAY - MICROSECOND)
        await quiet(clock)
        assert (SENT, []) == await state_of(store)

        clock.advance(MICROSECOND)
        await store.taken.reaches(2)

    assert (PAID, [("Invoice paid", True)]) == await state_of(store)


@pytest.mark.parametrize(
    ("description", "tag"),
    [
        ("Payment failed: the card was declined", "declined"),
        ("Payment failed: insufficient funds", "insufficient_funds"),
        ("Payment failed: the card has expired", "expired_card"),
        ("Payment failed: an error occurred while processing the card", "processing_error"),
    ],
)
async def test_a_failed_payment_causes_an_event(collecting, store, clock, description, tag):
    """Every tag of a failure causes `payment_failed` with its own description, after the delay."""
    async with collecting() as (collection, _):
        await collection.accept(an_invoice(customer=f"Acme+{tag}"))
        await store.taken.reaches(1)
        await clock.parked()
        clock.advance(DELAY)
        await store.taken.reaches(2)

    assert (FAILED, [(description, False)]) == await state_of(store)
    assert [(description, False)] == bodies((await store.history.deliveries_of("dev", "1"))[0])


async def test_an_invoice_that_cannot_be_sent_is_undeliverable_at_once(collecting, store):
    """An invoice with `+undeliverable` is never sent."""
    async with collecting() as (collection, _):
        await collection.accept(an_invoice(customer="Acme+undeliverable"))
        await store.taken.reaches(1)

    status, ((description, paid),) = await state_of(store)
    assert (InvoiceStatus.UNDELIVERABLE, False) == (status, paid)
    assert "could not be sent" in description


async def test_pending_takes_ten_times_the_delay(collecting, store, clock):
    """An invoice with `+pending` is paid after ten delays, and not before."""
    async with collecting() as (collection, _):
        await collection.accept(an_invoice(customer="Acme+pending"))
        await store.taken.reaches(1)
        await clock.parked()
        clock.advance(10 * DELAY - MICROSECOND)
        await quiet(clock)
        assert (SENT, []) == await state_of(store)

        clock.advance(MICROSECOND)
        await store.taken.reaches(2)

    assert (PAID, [("Invoice paid", True)]) == await state_of(store)


async def test_never_keeps_an_invoice_sent(collecting, store, clock, memory):
    """An invoice with `+never` is sent, and its state never changes afterwards."""
    async with collecting() as (collection, _):
        await collection.accept(an_invoice(customer="Acme+never"))
        await store.taken.reaches(1)
        for _ in range(3):
            await clock.parked()
            clock.advance(timedelta(days=100))
            await quiet(clock)

    assert (SENT, []) == await state_of(store)
    (row,) = await rows_of(memory, invoices)
    assert (None, None) == (row["due_at"], row["leased_until"])
    assert 1 == len(store.taken)


async def test_without_a_delay_one_step_is_enough(collecting, store, clock):
    """Without a delay an invoice goes from received to paid in one transaction."""
    async with collecting(delay=timedelta(0)) as (collection, _):
        await collection.accept(an_invoice())
        ((step, is_taken),) = await store.taken.reaches(1)

    assert (PAID, True) == (step.status, is_taken)
    assert (PAID, [("Invoice paid", True)]) == await state_of(store)
    assert START == clock.now()


async def test_what_nobody_has_to_be_asked_for_is_stored_with_the_invoice(
    collecting, store, memory
):
    """The first step of the sandbox is in the transaction that stores the invoice."""
    async with collecting() as (collection, _):
        memory.losses.append(Loss.AFTER)
        with pytest.raises(StorageUnavailable):
            await collection.accept(an_invoice())

        assert (SENT, []) == await state_of(store)
        (row,) = await rows_of(memory, invoices)
        assert (START + DELAY, None) == (row["due_at"], row["leased_until"])


async def test_a_mail_is_composed_after_the_invoice_is_stored(collecting, store):
    """An invoice that gets a mail is stored first: the answer does not wait for the mail."""
    async with collecting() as (collection, _):
        await collection.accept(an_invoice(customer_email="richie@example.com"))

        assert (RECEIVED, []) == await state_of(store)
        assert 1 == collection.held_count
        await store.taken.reaches(1)


async def test_an_id_that_is_known_takes_no_first_step(collecting, store):
    """A replay and a conflict change nothing of the invoice that is stored."""
    async with collecting(delay=timedelta(0)) as (collection, _):
        found = [
            await collection.accept(one)
            for one in (an_invoice(), an_invoice(), an_invoice(title="Another"))
        ]

    assert [Acceptance.STORED, Acceptance.REPLAYED, Acceptance.CONFLICT] == found
    assert (PAID, [("Invoice paid", True)]) == await state_of(store)
    assert 1 == len((await store.history.deliveries_of("dev", "1"))[0])


@pytest.mark.parametrize("tag", ["declined", "pending"])
async def test_without_a_delay_every_tag_ends_in_one_step(collecting, store, tag):
    """Failures and `+pending` need no second step either if there is no delay."""
    async with collecting(delay=timedelta(0)) as (collection, _):
        await collection.accept(an_invoice(customer=f"Acme+{tag}"))
        await store.taken.reaches(1)

    assert {"declined": FAILED, "pending": PAID}[tag] == (await state_of(store))[0]


# Events and deliveries


async def test_an_event_becomes_a_delivery(collecting, store, memory):
    """The callback of the invoice renders the event, which becomes the body of its delivery."""
    store.ids.next.append("1")

    async with collecting(delay=timedelta(0)) as (collection, _):
        await collection.accept(an_invoice())
        await store.taken.reaches(1)

    (row,) = await rows_of(memory, deliveries)
    assert b'{"description":"Invoice paid","paid":true,"invoice_id":"1"}' == row["body"]
    assert "invoice_notification" == row["callback"]
    ((delivery,), _) = await store.history.deliveries_of("dev", "1")
    assert ("msg_1", f"{ONE}/invoices/1") == (delivery["id"], delivery["url"])
    assert START == delivery["created_at"]
    assert [("Invoice paid", True)] == bodies([delivery])


async def test_without_a_callback_url_there_is_no_delivery(collecting, store):
    """An event without a callback URL is stored and can be read, but has no delivery."""
    async with collecting(delay=timedelta(0)) as (collection, _):
        await collection.accept(an_invoice(origin=None))
        await store.taken.reaches(1)

    assert ([], None) == await store.history.deliveries_of("dev", "1")
    assert (PAID, [("Invoice paid", True)]) == await state_of(store)


async def test_events_have_the_name_of_their_collector(collecting, store):
    """The collector of an event shows whether the payment was real or simulated."""
    async with collecting(FakeCollector()) as (collection, _):
        await collection.accept(an_invoice())
        await store.taken.reaches(1)

    found = await store.history.find_invoice("dev", "1")
    assert ["fake"] == [event["collector"] for event in found["events"]]


# Errors


async def test_waiting_invoices_are_collected_after_a_start(collecting, elsewhere, store):
    """The first round finds the invoices that another process has accepted."""
    for number in range(3):
        await elsewhere.accept(an_invoice(str(number)))

    async with collecting(delay=timedelta(0)):
        await store.taken.reaches(3)

    assert {PAID} == {(await state_of(store, str(number)))[0] for number in range(3)}


async def test_one_bad_invoice_does_not_stop_the_others(collecting, store, clock, caplog):
    """The error of a collector is logged, and the invoice is collected again after its lease."""
    collector = FakeCollector(bad=LookupError("unexpected"))

    async with collecting(collector) as (collection, running):
        await collection.accept(an_invoice("bad"))
        await collection.accept(an_invoice("good"))
        await store.taken.reaches(1)
        assert (PAID, [("Invoice paid", True)]) == await state_of(store, "good")
        assert (RECEIVED, []) == await state_of(store, "bad")
        assert "step.failed" in caplog.messages
        assert not running.done()

        await clock.parked()
        clock.advance(LEASE - MICROSECOND)
        await quiet(clock)
        assert 1 == collector.asked["bad"]
        clock.advance(POLL)
        await store.taken.reaches(2)

    assert (PAID, [("Invoice paid", True)]) == await state_of(store, "bad")


@pytest.mark.parametrize("method", ["lease_invoices", "take_step"])
async def test_an_outage_of_the_database_does_not_end_the_collection(
    collecting, store, elsewhere, clock, method
):
    """The loop continues, and what failed is repeated."""
    await elsewhere.accept(an_invoice())
    store.failing.append(method)

    async with collecting(delay=timedelta(0)) as (_, running):
        await store.failed.reaches(1)
        while not store.taken.entries:
            assert not running.done()
            await clock.parked()
            clock.advance(LEASE)
            await clock.parked()
            await idle()

    assert (PAID, [("Invoice paid", True)]) == await state_of(store)


async def test_a_step_is_recorded_when_the_database_is_back(collecting, store, memory, clock):
    """A step that an outage kept from being written does not wait for the end of its lease."""
    collector = FakeCollector()
    collector.may_answer.clear()

    async with collecting(collector) as (collection, _):
        await collection.accept(an_invoice())
        await collector.is_asked.wait()
        memory.is_away = True
        collector.may_answer.set()
        await quiet(clock)
        memory.is_away = False
        clock.advance(POLL)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await store.taken.reaches(1)

        assert 1 == collector.asked["1"]
        assert POLL == clock.now() - START

    assert (PAID, [("Invoice paid", True)]) == await state_of(store)


async def test_a_drain_does_not_wait_for_a_database_that_is_away(collecting, store, memory, clock):
    """A step that cannot be written is left to the next process."""
    collector = FakeCollector()
    collector.may_answer.clear()

    async with collecting(collector) as (collection, running):
        await collection.accept(an_invoice())
        await collector.is_asked.wait()
        memory.is_away = True
        collector.may_answer.set()
        await quiet(clock)
        collection.drain()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await running

    memory.is_away = False
    assert (RECEIVED, []) == await state_of(store)


async def test_a_slow_collection_does_not_delay_others(collecting, store):
    """While the collector works on one invoice, other invoices are collected completely."""
    collector = FakeCollector()

    async with collecting(collector) as (collection, _):
        collector.may_answer.clear()
        await collection.accept(an_invoice("slow"))
        await collector.is_asked.wait()
        slow, collector.may_answer = collector.may_answer, asyncio.Event()
        collector.may_answer.set()
        await collection.accept(an_invoice("quick"))
        await store.taken.reaches(1)
        assert (PAID, [("Invoice paid", True)]) == await state_of(store, "quick")
        slow.set()
        await store.taken.reaches(2)

    assert (PAID, [("Invoice paid", True)]) == await state_of(store, "slow")


async def test_a_step_with_a_stale_lease_changes_nothing(collecting, store, clock, caplog):
    """The next holder of the lease collects the invoice, and one event is recorded."""
    collector = FakeCollector(**{"1": Progress(FAILED, "Too late")})

    async with collecting(collector) as (collection, _):
        collector.may_answer.clear()
        await collection.accept(an_invoice())
        await collector.is_asked.wait()
        slow, collector.may_answer = collector.may_answer, asyncio.Event()
        collector.may_answer.set()
        collector.ends.clear()
        await clock.parked()
        clock.advance(LEASE)
        await store.taken.reaches(1)
        collector.ends["1"] = Progress(FAILED, "Too late")
        slow.set()
        taken = await store.taken.reaches(2)

    assert [True, False] == [is_taken for _, is_taken in taken]
    assert (PAID, [("Invoice paid", True)]) == await state_of(store)
    assert "step.outlived_lease" in caplog.messages


async def test_a_collector_may_ask_for_another_call(collecting, store, clock):
    """The collector is called again at the instant that it has returned."""
    collector = FakeCollector(**{"1": Progress(SENT, look_again_after=DELAY)})

    async with collecting(collector) as (collection, _):
        await collection.accept(an_invoice())
        for count in (1, 2, 3):
            await store.taken.reaches(count)
            await clock.parked()
            if count == 3:
                collector.ends.clear()
            clock.advance(DELAY)
        await store.taken.reaches(4)

    assert [True] * 4 == [is_taken for _, is_taken in store.taken.entries]
    assert (PAID, [("Invoice paid", True)]) == await state_of(store)


class EventOnSending(FakeCollector):
    """Has an event for the sending too, and then collects the payment at once."""

    def begun(self, _invoice):
        """Return the event of the sending."""
        return Progress(SENT, "Invoice sent", look_again_after=timedelta(0))

    async def collect(self, invoice):
        """Return the event of the payment."""
        return Progress(PAID, "Invoice paid")


async def test_the_event_of_the_sending_is_recorded(collecting, store):
    """The event of the sending is recorded even if the payment follows at once."""
    async with collecting(EventOnSending()) as (collection, _):
        await collection.accept(an_invoice())
        await store.taken.reaches(2)

    assert (PAID, [("Invoice sent", False), ("Invoice paid", True)]) == await state_of(store)


async def test_a_sent_invoice_is_not_counted_as_collected(collecting, store, metrics):
    """The metric counts only the final states: paid and failed."""
    collector = FakeCollector(**{"1": Progress(SENT), "2": Progress(PAID, "Invoice paid")})

    async with collecting(collector) as (collection, _):
        for id_ in ("1", "2"):
            await collection.accept(an_invoice(id_))
        await store.taken.reaches(2)

    counted = {
        name: value
        for name, value in samples_of(metrics).items()
        if name.startswith("invoices_collected_total") and value
    }
    assert {'invoices_collected_total{status="paid"}': 1} == counted


# Immediate collection


@pytest.fixture
def no_capacity(monkeypatch):
    """Collections without capacity."""
    monkeypatch.setattr(collection_module, "CONCURRENCY", 0)


async def test_an_accepted_invoice_is_collected_without_a_round(collecting, store, memory):
    """An invoice is committed leased, and its collection begins after the commit."""
    collector = FakeCollector()
    collector.may_answer.clear()

    async with collecting(collector) as (collection, _):
        assert Acceptance.STORED is await collection.accept(an_invoice())
        (row,) = await rows_of(memory, invoices)
        assert (START + LEASE, 1) == (row["leased_until"], row["lease_token"])
        assert (1, False) == (collection.held_count, store.invoices_due.is_set())
        collector.may_answer.set()
        await store.taken.reaches(1)

    assert (PAID, [("Invoice paid", True)]) == await state_of(store)


async def test_an_invoice_beyond_the_capacity_waits_in_the_database(
    no_capacity, collecting, store, memory
):
    """Without capacity the invoice is committed unleased, and the loops are signalled."""
    async with collecting() as (collection, _):
        await collection.accept(an_invoice())

        (row,) = await rows_of(memory, invoices)
        assert (None, 0) == (row["leased_until"], row["lease_token"])
        assert (0, True) == (collection.held_count, store.invoices_due.is_set())


async def test_older_invoices_are_collected_before_new_ones(collecting, store, memory, monkeypatch):
    """While invoices wait in the database, a new invoice waits after them."""
    monkeypatch.setattr(collection_module, "CONCURRENCY", 1)
    collector = FakeCollector()
    collector.may_answer.clear()

    async with collecting(collector) as (collection, _):
        for id_ in ("first", "second"):
            await collection.accept(an_invoice(id_))
        assert 1 == collection.held_count
        memory.shut()
        collector.may_answer.set()
        await memory.reached()
        accepting = asyncio.create_task(collection.accept(an_invoice("third")))
        await idle()
        memory.open()
        await accepting
        await store.taken.reaches(3)

    assert ["first", "second", "third"] == [step.invoice.id for step, _ in store.taken.entries]


@pytest.mark.parametrize("title", [None, "Another"], ids=["replay", "conflict"])
async def test_an_invoice_that_is_not_stored_takes_no_capacity(collecting, store, title):
    """A replay and a conflict are not collected, and release their reserved capacity."""
    collector = FakeCollector(**{"1": Progress(SENT)})

    async with collecting(collector) as (collection, _):
        await collection.accept(an_invoice())
        await store.taken.reaches(1)
        await idle()
        expected = Acceptance.CONFLICT if title else Acceptance.REPLAYED

        assert expected is await collection.accept(an_invoice(title=title))
        assert (0, 1) == (collection.held_count, collector.asked["1"])


async def test_an_invoice_that_cannot_be_written_takes_no_capacity(collecting):
    """A failed write releases the reserved capacity, and the caller gets the error."""
    async with collecting(FakeCollector()) as (collection, _):
        with pytest.raises(ValueError, match="customer"):
            await collection.accept(an_invoice(customer=None))

        assert 0 == collection.held_count


async def test_an_invoice_whose_commit_is_unknown_takes_no_capacity(collecting, memory):
    """If a lost connection may have stored it, the capacity is released and the lease runs out."""
    async with collecting(FakeCollector()) as (collection, _):
        memory.losses.append(Loss.AFTER)
        with pytest.raises(StorageUnavailable):
            await collection.accept(an_invoice())

        assert 0 == collection.held_count


async def test_a_cancelled_request_takes_no_capacity(collecting, memory):
    """A cancelled request releases the capacity that was reserved for its invoice."""
    async with collecting(FakeCollector()) as (collection, _):
        memory.shut()
        accepting = asyncio.create_task(collection.accept(an_invoice()))
        await memory.reached()
        assert 1 == collection.held_count
        accepting.cancel()
        await asyncio.wait([accepting])

        assert 0 == collection.held_count
        memory.open()


async def test_a_process_without_a_collector_leaves_invoices_to_others(store, elsewhere, clock):
    """A process without the loop commits invoices unleased and due for every process."""
    collection = assembled(store, clock=clock).collection

    assert Acceptance.STORED is await collection.accept(an_invoice())

    assert 0 == collection.held_count
    assert store.invoices_due.is_set()
    assert "1" == (await lease_invoice(elsewhere)).id


# Draining


async def test_a_drain_finishes_steps_in_progress(collecting, store):
    """After a drain the steps in progress are written, and then the collection ends."""
    collector = FakeCollector()
    collector.may_answer.clear()

    async with collecting(collector) as (collection, running):
        await collection.accept(an_invoice())
        await collector.is_asked.wait()
        collection.drain()
        await idle()
        assert not running.done()
        collector.may_answer.set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await running

    assert (PAID, [("Invoice paid", True)]) == await state_of(store)


async def test_after_a_drain_nothing_is_leased(collecting, store, memory):
    """An invoice that is accepted after a drain is unleased and due for the next process."""
    async with collecting() as (collection, running):
        collection.drain()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await running
        await collection.accept(an_invoice())

    assert (RECEIVED, []) == await state_of(store)
    (row,) = await rows_of(memory, invoices)
    assert (START, None) == (row["due_at"], row["leased_until"])


async def test_an_invoice_that_is_accepted_during_a_drain_is_unleased(collecting, store, memory):
    """An invoice that is being written during a drain does not stay leased afterwards."""
    async with collecting(delay=timedelta(0)) as (collection, _):
        memory.shut()
        accepting = asyncio.create_task(collection.accept(an_invoice()))
        await memory.reached()
        collection.drain()
        await idle()
        memory.open()
        await accepting

    (row,) = await rows_of(memory, invoices)
    assert RECEIVED != row["status"] or row["leased_until"] is None
