"""By what a request and all that follows from it are found: its id and its trace."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.api.application import make_application
from service.storage.tables import invoices
from service.telemetry.tracing import Tracing
from tests.rows import lease_invoice, rows_of

BODY = {"id": "1", "customer": "c", "total": "1"}
GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def send(api, **headers):
    """Send in an invoice."""
    answer = await api.post("/invoices/", json=BODY, headers=headers)
    assert 202 == answer.status, await answer.text()
    return answer


async def stored(store):
    """The one invoice that is stored."""
    (row,) = await rows_of(store._database, invoices)
    return row


async def test_every_answer_names_its_request(api):
    """Refusals, answers and pages alike, each request with a name of its own."""
    paths = ("/healthz", "/invoices/none", "/none", "/api/docs/openapi.json", "/deliveries")
    named = [(await api.get(path)).headers["X-Request-Id"] for path in (*paths, *paths)]

    assert 2 * len(paths) == len(set(named))
    assert all(32 == len(name) for name in named)


@pytest.mark.parametrize("given", ["a", "0d4c-7:1/x+y=z@w._", "x" * 128])
async def test_a_name_that_was_given_is_kept(api, store, given):
    """What stands in front of the service may have named the request already."""
    answer = await send(api, **{"X-Request-Id": given})

    assert given == answer.headers["X-Request-Id"]
    assert given == (await stored(store))["request_id"]


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb", "a,b", '"a"', "{a}", "ä", "a;b"])
async def test_a_name_that_cannot_be_used_is_replaced(api, store, given):
    """It is neither stored, nor logged, nor answered."""
    answer = await send(api, **{"X-Request-Id": given})

    assert given != answer.headers["X-Request-Id"]
    assert 32 == len((await stored(store))["request_id"])


async def test_a_replay_does_not_rename_what_is_stored(api, store, caplog):
    """The log says that the same came again, by which request, and the first one stays."""
    caplog.set_level(logging.INFO, logger="invoices")
    await send(api, **{"X-Request-Id": "first"})
    again = await api.post("/invoices/", json=BODY, headers={"X-Request-Id": "second"})

    assert 200 == again.status
    assert "first" == (await stored(store))["request_id"]
    told = [
        (record.getMessage(), record.fields["request_id"])
        for record in caplog.records
        if record.name == "invoices.api"
    ]
    assert [("invoice.accepted", "first"), ("invoice.replayed", "second")] == told


async def test_the_collection_knows_the_request(api, store):
    """Whoever goes on with the invoice has its request's id and trace."""
    await send(api, **{"X-Request-Id": "mine", "traceparent": GIVEN})

    leased = await lease_invoice(store)
    assert ("mine", GIVEN) == (leased.request_id, leased.traceparent)


@pytest.mark.parametrize("given", [None, "", "nonsense", "00-0-0-0"])
async def test_without_a_trace_there_is_none(api, store, given):
    """Neither is one begun that nobody records, nor is nonsense passed on."""
    await send(api, **({} if given is None else {"traceparent": given}))

    assert None is (await stored(store))["traceparent"]


@pytest.fixture
def exporter():
    """Keeps the spans that have ended."""
    return InMemorySpanExporter()


@pytest.fixture
async def traced_api(aiohttp_client, assembled, exporter):
    """Asks an application whose traces are recorded."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    service = assembled(tracing=Tracing(provider))
    return await aiohttp_client(make_application(service.dependencies))


async def test_a_request_is_a_span(traced_api, store, exporter):
    """Part of the caller's trace, named by its route, and the parent of what follows."""
    await send(traced_api, **{"traceparent": GIVEN, "X-Request-Id": "mine"})

    (span,) = exporter.get_finished_spans()
    assert "POST /invoices/" == span.name
    assert {
        "http.request.method": "POST",
        "http.route": "/invoices/",
        "http.response.status_code": 202,
        "invoices.request_id": "mine",
        "invoices.account_id": "dev",
    } == dict(span.attributes)
    parent = f"00-4bf92f3577b34da6a3ce929d0e0e4736-{span.context.span_id:016x}-01"
    assert parent == (await stored(store))["traceparent"]


async def test_refusals_are_spans_and_health_is_none(traced_api, exporter):
    """What an account asked is told with its status; probes would drown everything else."""
    for path in ("/healthz", "/readyz", "/api/docs/openapi.json", "/none", "/invoices/none"):
        await traced_api.get(path)

    (span,) = exporter.get_finished_spans()
    assert ("GET /invoices/{id}", 404) == (
        span.name,
        span.attributes["http.response.status_code"],
    )
