import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from aiohttp import hdrs

from service.api import exposition as exposition_module
from service.api.application import make_application, make_health_application
from service.api.exposition import BACKLOG_KEPT, TEXT_KEPT
from service.development import for_development
from service.errors import StorageUnavailable
from service.loops import running_loops
from service.settings import Settings
from service.storage import backlog
from tests.clock import PATIENCE_SECONDS, idle
from tests.fakes import answer
from tests.memory import Memory
from tests.rows import SECOND, add_delivery, lease_delivery
from tests.samples import changes, samples_in

BODY = {"id": "1", "customer": "Mr. Richie Rich", "total": "9999"}
RECEIVER = "https://one.example"
COUNTED = ("received", "collected", "attempts_total", "settled", "delivered_seconds_count")


class CountingMemory(Memory):
    """Counts how often its backlog was asked for; *error* and *may_answer* say how that goes."""

    def __init__(self):
        super().__init__()
        self.asked_count = 0
        self.error = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def read(self, work, *args, **options):
        """As it is, but for the backlog."""
        if work is backlog.measure:
            self.asked_count += 1
            await self.may_answer.wait()
            if self.error:
                raise self.error
        return await super().read(work, *args, **options)


@pytest.fixture
def database():
    """A database in memory: nothing waits for a disk."""
    return CountingMemory()


@pytest.fixture
def settings():
    """Receivers may be anywhere, and there are few slots."""
    settings = Settings(
        retry_schedule=(60 * SECOND,),
        callback_concurrency=8,
        origin_concurrency=4,
        callback_timeout=15 * SECOND,
    )
    return for_development(settings)


@pytest.fixture
def working(service):
    """Collects and delivers inside a block."""

    @asynccontextmanager
    async def run():
        loops = (service.collection, service.dispatcher)
        async with running_loops(loops, drain_seconds=PATIENCE_SECONDS):
            yield

    return run


@pytest.fixture
def scrape(api, clock):
    """The samples of now, those of the database included."""

    async def ask():
        clock.advance(BACKLOG_KEPT)
        response = await api.get("/metrics")
        assert 200 == response.status
        return samples_in(await response.text())

    return ask


def counted(before, after):
    """What has changed of the road of an invoice, without the prefix."""
    return {
        name.removeprefix("invoices_"): by
        for name, by in changes(before, after).items()
        if name.startswith("invoices_") and any(part in name for part in COUNTED)
    }


async def send(api, **changed):
    """Send an invoice whose events go to a receiver; the status of the answer."""
    response = await api.post(f"/invoices/?callback_url={RECEIVER}", json={**BODY, **changed})
    return response.status


# The road of an invoice


async def test_an_invoice_that_is_delivered_is_counted_at_each_step(api, working, scrape):
    """Accepted, collected, attempted, settled: one of each."""
    before = await scrape()
    async with working():
        assert 202 == await send(api)
        await idle()

    assert {
        'received_total{acceptance="stored"}': 1,
        'collected_total{status="paid"}': 1,
        'attempts_total{outcome="delivered"}': 1,
        'deliveries_settled_total{reason="",status="delivered"}': 1,
        "accepted_to_delivered_seconds_count": 1,
    } == counted(before, await scrape())


async def test_replays_and_conflicts_are_told_apart(api, scrape):
    """What was sent in again is no new invoice."""
    before = await scrape()

    assert [202, 200, 409] == [await send(api, total=total) for total in ("1", "1", "2")]

    assert {
        'received_total{acceptance="stored"}': 1,
        'received_total{acceptance="replayed"}': 1,
        'received_total{acceptance="conflict"}': 1,
    } == counted(before, await scrape())


async def test_a_failed_attempt_settles_nothing(api, working, receivers, scrape):
    """A delivery that comes again later is an attempt more and no end."""
    receivers.answers[RECEIVER].append(answer(500))
    before = await scrape()
    async with working():
        await send(api)
        await idle()
        after = await scrape()

    assert 1 == after["invoices_deliveries_waiting"]
    assert 'attempts_total{outcome="refused"}' in counted(before, after)
    assert not [name for name in counted(before, after) if "settled" in name]


async def test_a_dead_delivery_is_counted_with_its_reason(api, working, receivers, scrape):
    """Why no more attempts are made can be seen without looking at the delivery."""
    receivers.answers[RECEIVER].append(answer(410))
    before = await scrape()
    async with working():
        await send(api)
        await idle()
    found = counted(before, await scrape())

    assert 1 == found['deliveries_settled_total{reason="gone",status="dead"}']
    assert "accepted_to_delivered_seconds_count" not in found


async def test_a_payment_that_failed_is_told_apart(api, working, scrape):
    """Collections that end without money are not among the paid."""
    before = await scrape()
    async with working():
        await send(api, customer="Acme+declined")
        await idle()

    assert 1 == counted(before, await scrape())['collected_total{status="payment_failed"}']


async def test_an_attempt_whose_process_ended_is_counted_as_lost(store, working, scrape, clock):
    """
    What nobody came back from is told by whoever finds its lease run out.

    How long it took after that is said of nothing: a redelivery looks the same.
    """
    await add_delivery(store)
    await lease_delivery(store, until=clock.now() + SECOND)
    before = await scrape()
    async with working():
        await idle()

    assert {
        'attempts_total{outcome="lost"}': 1,
        'attempts_total{outcome="delivered"}': 1,
        'deliveries_settled_total{reason="",status="delivered"}': 1,
    } == counted(before, await scrape())


async def test_attempts_in_flight_are_seen(api, working, receivers, scrape):
    """While a receiver keeps us waiting, the attempt is in flight, of so many slots."""
    receivers.hang(RECEIVER)
    async with working():
        await send(api)
        await receivers.requests.reaches(1)
        during = await scrape()
        receivers.let_all_go()
        await idle()
        after = await scrape()

    assert [1, 8] == [during[f"invoices_attempts_{name}"] for name in ("in_flight", "slots")]
    assert 0 == after["invoices_attempts_in_flight"]


async def test_an_attempt_that_outlived_its_lease_is_no_attempt_more(
    api, working, receivers, scrape, clock
):
    """What comes too late is told as lost by whoever leased next, and counted apart."""
    receivers.hang(RECEIVER)
    before = await scrape()
    async with working():
        await send(api)
        await receivers.requests.reaches(1)
        clock.advance(60 * SECOND)
        await idle()
        receivers.let_all_go()
        await idle()
    after = await scrape()

    assert 1 == after["invoices_attempts_outlived_lease_total"]
    assert [1, 1] == [
        counted(before, after)[f'attempts_total{{outcome="{name}"}}']
        for name in ("lost", "delivered")
    ]


# Requests


async def test_requests_are_counted_by_operation_and_status(api, scrape):
    """Everything that is answered is counted; what is none of our operations is `other`."""
    before = await scrape()
    for method, path in (
        ("GET", "/healthz"),
        ("HEAD", "/healthz/"),
        ("GET", "/invoices/nobody"),
        ("GET", "/invoices/?limit=0"),
        ("GET", "/no/such/path"),
        ("PUT", "/healthz"),
        ("GET", "/api/docs"),
    ):
        await api.request(method, path)
    await api.post("/invoices/", json={}, headers={hdrs.EXPECT: "a miracle"})
    after = changes(before, await scrape())

    prefix = "invoices_http_requests_total"
    assert {
        '{code="200",operation="is_alive"}': 2,
        '{code="404",operation="get_invoice"}': 1,
        '{code="422",operation="list_invoices"}': 1,
        '{code="404",operation="other"}': 1,
        '{code="405",operation="other"}': 1,
        '{code="200",operation="other"}': 1,
        '{code="417",operation="create_invoice"}': 1,
        '{code="200",operation="get_metrics"}': 1,
    } == {name.removeprefix(prefix): by for name, by in after.items() if prefix in name}


# How it is asked for


@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
@pytest.mark.parametrize("make", [make_application, make_health_application])
async def test_every_process_tells_its_figures(aiohttp_client, dependencies, make, path):
    """Whatever a process does, it is asked at the same place, with and without the slash."""
    client = await aiohttp_client(make(dependencies))

    response = await client.get(path)

    assert 200 == response.status
    assert "text/plain; version=0.0.4; charset=utf-8" == response.headers[hdrs.CONTENT_TYPE]
    assert 1 == samples_in(await response.text())['invoices_build_info{version="1.2.3"}']


async def test_head_tells_the_headers_alone(api):
    """HEAD is answered as GET would be, without the text."""
    response = await api.head("/metrics")

    assert (200, b"") == (response.status, await response.read())
    assert response.headers[hdrs.CONTENT_TYPE].startswith("text/plain")


@pytest.mark.parametrize(
    ("expected", "accept"),
    [
        ("text/plain; version=0.0.4; charset=utf-8", "*/*"),
        ("text/plain; version=0.0.4; charset=utf-8", "application/json"),
        (
            "text/plain; version=1.0.0; charset=utf-8; escaping=underscores",
            "text/plain;version=1.0.0",
        ),
        (
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.3",
        ),
    ],
)
async def test_the_format_is_the_one_that_is_preferred(api, expected, accept):
    """The content type says which of the formats it is."""
    response = await api.get("/metrics", headers={hdrs.ACCEPT: accept})

    assert expected == response.headers[hdrs.CONTENT_TYPE]


@pytest.mark.parametrize(
    "accept",
    [
        "text/plain;version=x",
        "text/plain;version=1.0.x",
        "text/plain; version=1..0; escaping=nonsense",
        "application/openmetrics-text;version=a.b.c",
        "application/openmetrics-text;version==;q=;escaping==",
        "application/openmetrics-text;version=\u00b2",
        "text/plain;;version",
        ",;=,;;",
        "\u00fc/*",
        "text/" * 1000,
    ],
)
async def test_whatever_is_preferred_is_answered(api, accept):
    """Nobody can ask in a way that breaks anything: who asks for nonsense gets the plainest."""
    response = await api.get("/metrics", headers={hdrs.ACCEPT: accept})

    assert 200 == response.status
    assert "text/plain; version=0.0.4; charset=utf-8" == response.headers[hdrs.CONTENT_TYPE]


# The database behind it


@pytest.fixture
def exposition(dependencies):
    """The exposition without HTTP."""
    return dependencies.exposition


@pytest.fixture
def made(metrics, monkeypatch):
    """For which formats a text was made, one after another."""
    accepts = []
    make = metrics.exposition
    monkeypatch.setattr(
        metrics, "exposition", lambda accept: accepts.append(accept) or make(accept)
    )
    return accepts


async def up(api):
    """Whether the figures say that the database answers."""
    return samples_in(await (await api.get("/metrics")).text())["invoices_storage_up"]


async def test_the_database_is_not_asked_again_and_again(api, database, clock):
    """However often anybody scrapes, the database is asked once in ten seconds."""
    await asyncio.gather(*(up(api) for _ in range(20)))
    clock.advance(BACKLOG_KEPT - SECOND)
    await up(api)

    assert 1 == database.asked_count

    clock.advance(SECOND)
    await up(api)

    assert 2 == database.asked_count


async def test_a_clock_that_is_set_back_stops_no_figure(api, store, clock):
    """How old a text is goes by the time that has passed, and not by what the clock shows."""
    before = samples_in(await (await api.get("/metrics")).text())
    clock.jump(-timedelta(days=1))
    clock.advance(BACKLOG_KEPT)
    await add_delivery(store, at=clock.now())
    after = samples_in(await (await api.get("/metrics")).text())

    assert [0, 1] == [one["invoices_deliveries_due"] for one in (before, after)]
    assert changes(before, after)[
        'invoices_http_requests_total{code="200",operation="get_metrics"}'
    ]


@pytest.mark.parametrize("is_answering", [True, False], ids=["slow", "hanging"])
async def test_beside_a_slow_database_too_the_text_is_made_once_a_second_at_most(
    exposition, database, made, clock, monkeypatch, is_answering
):
    """However many wait for the same look, one text is made for all of them."""
    if not is_answering:
        monkeypatch.setattr(exposition_module, "BACKLOG_TIMEOUT_SECONDS", 0)
    for count in (1, 2, 3):
        database.may_answer.clear()
        waiting = [asyncio.create_task(exposition.text("")) for _ in range(300)]
        await idle()
        if is_answering:
            database.may_answer.set()
        await asyncio.gather(*waiting)
        assert count == len(made)
        clock.advance(BACKLOG_KEPT)
    await exposition.close()


async def test_the_text_is_made_once_a_second_at_most(api, clock):
    """Scrapes at the same time are told the same; a second later, what is new."""
    texts = [await (await api.get("/metrics")).text() for _ in range(3)]
    clock.advance(TEXT_KEPT)
    later = await (await api.get("/metrics")).text()

    assert 1 == len(set(texts))
    assert later not in texts


async def test_no_more_than_some_formats_are_made_at_a_time(api, made):
    """Whoever asks for one format after the other soon gets the plain one."""
    for number in range(50):
        accept = f"application/openmetrics-text;version=1.0.{number}"
        assert 200 == (await api.get("/metrics", headers={hdrs.ACCEPT: accept})).status

    assert 9 == len(made)


async def test_a_database_that_is_away_leaves_the_other_figures(database, scrape):
    """Nothing but the backlog is missing, and a figure says why."""
    assert 1 == (await scrape())["invoices_storage_up"]
    database.is_away = True
    away = await scrape()
    database.is_away = False

    assert 0 == away["invoices_storage_up"]
    assert "invoices_deliveries_due" not in away
    assert 'invoices_received_total{acceptance="stored"}' in away
    assert 1 == (await scrape())["invoices_storage_up"]


@pytest.mark.parametrize("error", [StorageUnavailable("away"), ZeroDivisionError("a defect")])
async def test_whatever_goes_wrong_with_the_backlog_is_no_500(api, database, error, caplog):
    """A defect is logged, and takes nothing else along."""
    database.error = error

    assert 0 == await up(api)
    assert (["backlog.failed"] if isinstance(error, ZeroDivisionError) else []) == [
        record.message for record in caplog.records if record.message == "backlog.failed"
    ]


async def test_a_database_that_does_not_answer_holds_up_no_scrape(
    api, database, clock, monkeypatch
):
    """After a moment the scrape is answered without; nobody asks a second time meanwhile."""
    monkeypatch.setattr(exposition_module, "BACKLOG_TIMEOUT_SECONDS", 0)
    database.may_answer.clear()

    assert 0 == await up(api)
    clock.advance(BACKLOG_KEPT)
    assert 0 == await up(api)
    assert 1 == database.asked_count

    database.may_answer.set()
    await idle()
    clock.advance(TEXT_KEPT)

    assert 1 == await up(api)


async def test_a_stop_while_the_database_is_asked_is_silent(api, database, monkeypatch, caplog):
    """A look that is being taken is given up before the database is closed."""
    monkeypatch.setattr(exposition_module, "BACKLOG_TIMEOUT_SECONDS", 0)
    database.error = RuntimeError("cannot schedule new futures after shutdown")
    database.may_answer.clear()
    await up(api)

    await api.close()
    database.may_answer.set()
    await idle()

    assert [] == [record.message for record in caplog.records]
