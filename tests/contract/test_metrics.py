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
    """Counts the queries for its backlog; *error* and *may_answer* control their results."""

    def __init__(self):
        super().__init__()
        self.asked_count = 0
        self.error = None
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def read(self, work, *args, **options):
        """Read as usual, except for the backlog."""
        if work is backlog.measure:
            self.asked_count += 1
            await self.may_answer.wait()
            if self.error:
                raise self.error
        return await super().read(work, *args, **options)


@pytest.fixture
def database():
    """A database in memory, which never waits for a disk."""
    return CountingMemory()


@pytest.fixture
def settings():
    """Settings that permit receivers at any address, with few slots."""
    settings = Settings(
        retry_schedule=(60 * SECOND,),
        callback_concurrency=8,
        origin_concurrency=4,
        callback_timeout=15 * SECOND,
    )
    return for_development(settings)


@pytest.fixture
def working(service):
    """Runs the collection and the dispatcher inside a `with` block."""

    @asynccontextmanager
    async def run():
        loops = (service.collection, service.dispatcher)
        async with running_loops(loops, drain_seconds=PATIENCE_SECONDS):
            yield

    return run


@pytest.fixture
def scrape(api, clock):
    """Gets the current samples, those of the database included."""

    async def ask():
        clock.advance(BACKLOG_KEPT)
        response = await api.get("/metrics")
        assert 200 == response.status
        return samples_in(await response.text())

    return ask


def counted(before, after):
    """The changes of the metrics about invoices, without the prefix."""
    return {
        name.removeprefix("invoices_"): by
        for name, by in changes(before, after).items()
        if name.startswith("invoices_") and any(part in name for part in COUNTED)
    }


async def send(api, **changed):
    """Send an invoice whose events go to a receiver; the status of the answer."""
    response = await api.post(f"/invoices/?callback_url={RECEIVER}", json={**BODY, **changed})
    return response.status


# From the invoice to the callback


async def test_an_invoice_that_is_delivered_is_counted_at_each_step(api, working, scrape):
    """A delivered invoice is counted once as accepted, collected, attempted and settled."""
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


async def test_replays_and_conflicts_are_counted_apart(api, scrape):
    """A replay and a conflict are not counted as new invoices."""
    before = await scrape()

    assert [202, 200, 409] == [await send(api, total=total) for total in ("1", "1", "2")]

    assert {
        'received_total{acceptance="stored"}': 1,
        'received_total{acceptance="replayed"}': 1,
        'received_total{acceptance="conflict"}': 1,
    } == counted(before, await scrape())


async def test_a_failed_attempt_settles_nothing(api, working, receivers, scrape):
    """A failed attempt with a later retry is counted as an attempt, not as settled."""
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
    """A dead delivery is counted under its reason."""
    receivers.answers[RECEIVER].append(answer(410))
    before = await scrape()
    async with working():
        await send(api)
        await idle()
    found = counted(before, await scrape())

    assert 1 == found['deliveries_settled_total{reason="gone",status="dead"}']
    assert "accepted_to_delivered_seconds_count" not in found


async def test_a_payment_that_failed_is_counted_apart(api, working, scrape):
    """A failed payment is not counted as paid."""
    before = await scrape()
    async with working():
        await send(api, customer="Acme+declined")
        await idle()

    assert 1 == counted(before, await scrape())['collected_total{status="payment_failed"}']


async def test_an_attempt_whose_process_ended_is_counted_as_lost(store, working, scrape, clock):
    """
    An attempt whose lease has run out is counted by the process that leases next.

    The time until delivery is not observed, because it could include a redelivery.
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
    """An attempt that waits for its receiver is counted as in flight, next to the slot count."""
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


async def test_attempts_are_counted_by_account(api, working, receivers, scrape):
    """The attempts of an account that are in flight, wait for a slot or were refused are seen."""
    receivers.answers[RECEIVER].append(answer(410))
    async with working():
        await send(api)
        await idle()
        refused = await scrape()
        await send(api, id="answered")
        await idle()
        receivers.hang(RECEIVER)
        for number in range(12):
            await send(api, id=f"hanging{number}")
        await idle()
        during = await scrape()
        receivers.let_all_go()
        await idle()

    labels = '{account="dev"}'
    assert 1 == refused[f"invoices_account_attempts_refused{labels}"]
    in_flight, waiting = (
        during[f"invoices_account_attempts_{name}{labels}"] for name in ("in_flight", "waiting")
    )
    assert during["invoices_attempts_in_flight"] == in_flight
    assert in_flight + waiting == 12
    assert waiting > 0


async def test_an_attempt_that_outlived_its_lease_is_counted_separately(
    api, working, receivers, scrape, clock
):
    """An attempt that settles too late is counted as lost by the next lease, and separately."""
    async with working():
        # A receiver that has not answered yet would get no second attempt beside the first.
        await send(api)
        await idle()
        before = await scrape()
        receivers.hang(RECEIVER)
        await send(api, id="late")
        await receivers.requests.reaches(2)
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
    """Every request is counted; requests outside the operations are counted as `other`."""
    before = await scrape()
    for method, path in (
        ("GET", "/healthz"),
        ("HEAD", "/healthz/"),
        ("GET", "/invoices/unknown"),
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


# The request for the metrics


@pytest.mark.parametrize("path", ["/metrics", "/metrics/"])
@pytest.mark.parametrize("make", [make_application, make_health_application])
async def test_every_process_serves_its_metrics(aiohttp_client, dependencies, make, path):
    """Every kind of process serves its metrics at /metrics, with and without the slash."""
    client = await aiohttp_client(make(dependencies))

    response = await client.get(path)

    assert 200 == response.status
    assert "text/plain; version=0.0.4; charset=utf-8" == response.headers[hdrs.CONTENT_TYPE]
    assert 1 == samples_in(await response.text())['invoices_build_info{version="1.2.3"}']


async def test_head_has_no_body(api):
    """HEAD has the status and headers of GET, without the text."""
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
    """The content type is the preferred format of the Accept header."""
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
async def test_an_invalid_accept_header_gets_the_default_format(api, accept):
    """An invalid or unknown Accept header gets the default format."""
    response = await api.get("/metrics", headers={hdrs.ACCEPT: accept})

    assert 200 == response.status
    assert "text/plain; version=0.0.4; charset=utf-8" == response.headers[hdrs.CONTENT_TYPE]


# The figures of the database


@pytest.fixture
def exposition(dependencies):
    """The exposition without HTTP."""
    return dependencies.exposition


@pytest.fixture
def made(metrics, monkeypatch):
    """The Accept header of each text that was rendered, in order."""
    accepts = []
    make = metrics.exposition
    monkeypatch.setattr(
        metrics, "exposition", lambda accept: accepts.append(accept) or make(accept)
    )
    return accepts


async def up(api):
    """The metric that says whether the database answers."""
    return samples_in(await (await api.get("/metrics")).text())["invoices_storage_up"]


async def test_the_database_is_queried_once_in_ten_seconds(api, database, clock):
    """The database is queried once in ten seconds at most, however many scrapes there are."""
    await asyncio.gather(*(up(api) for _ in range(20)))
    clock.advance(BACKLOG_KEPT - SECOND)
    await up(api)

    assert 1 == database.asked_count

    clock.advance(SECOND)
    await up(api)

    assert 2 == database.asked_count


async def test_metrics_are_updated_after_the_clock_is_set_back(api, store, clock):
    """The age of a text is elapsed time, and does not depend on the wall clock."""
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
async def test_the_text_is_rendered_once_for_all_scrapes_that_wait_for_the_database(
    exposition, database, made, clock, monkeypatch, is_answering
):
    """All scrapes that wait for the same query get one text."""
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


async def test_the_text_is_rendered_once_a_second_at_most(api, clock):
    """Scrapes within one second get the same text; a later one gets a new text."""
    texts = [await (await api.get("/metrics")).text() for _ in range(3)]
    clock.advance(TEXT_KEPT)
    later = await (await api.get("/metrics")).text()

    assert 1 == len(set(texts))
    assert later not in texts


async def test_the_number_of_formats_is_limited(api, made):
    """Within one second, further formats beyond a limit get the default format."""
    for number in range(50):
        accept = f"application/openmetrics-text;version=1.0.{number}"
        assert 200 == (await api.get("/metrics", headers={hdrs.ACCEPT: accept})).status

    assert 9 == len(made)


async def test_an_unavailable_database_affects_only_the_backlog(database, scrape):
    """If the database is unavailable, only the backlog is missing, and a metric says why."""
    assert 1 == (await scrape())["invoices_storage_up"]
    database.is_away = True
    away = await scrape()
    database.is_away = False

    assert 0 == away["invoices_storage_up"]
    assert "invoices_deliveries_due" not in away
    assert 'invoices_received_total{acceptance="stored"}' in away
    assert 1 == (await scrape())["invoices_storage_up"]


@pytest.mark.parametrize("error", [StorageUnavailable("away"), ZeroDivisionError("a defect")])
async def test_an_error_in_the_backlog_is_not_a_500(api, database, error, caplog):
    """An error in the query of the backlog is logged, and the other metrics are served."""
    database.error = error

    assert 0 == await up(api)
    assert (["backlog.failed"] if isinstance(error, ZeroDivisionError) else []) == [
        record.message for record in caplog.records if record.message == "backlog.failed"
    ]


async def test_a_database_that_does_not_answer_delays_no_scrape(api, database, clock, monkeypatch):
    """After a timeout the scrape is answered without the backlog, and no second query starts."""
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


async def test_a_stop_during_a_query_logs_nothing(api, database, monkeypatch, caplog):
    """A running query is cancelled before the database is closed."""
    monkeypatch.setattr(exposition_module, "BACKLOG_TIMEOUT_SECONDS", 0)
    database.error = RuntimeError("cannot schedule new futures after shutdown")
    database.may_answer.clear()
    await up(api)

    await api.close()
    database.may_answer.set()
    await idle()

    assert [] == [record.message for record in caplog.records]
