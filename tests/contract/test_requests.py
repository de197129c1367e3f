"""The request id and the trace of a request, and of all steps that follow from it."""

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


async def test_every_response_has_a_request_id(api):
    """Every response has a unique request id, errors and pages included."""
    paths = ("/healthz", "/invoices/none", "/none", "/api/docs/openapi.json", "/deliveries")
    named = [(await api.get(path)).headers["X-Request-Id"] for path in (*paths, *paths)]

    assert 2 * len(paths) == len(set(named))
    assert all(32 == len(name) for name in named)


@pytest.mark.parametrize("given", ["a", "0d4c-7:1/x+y=z@w._", "x" * 128])
async def test_a_given_request_id_is_kept(api, store, given):
    """A valid request id of the client or a proxy is kept."""
    answer = await send(api, **{"X-Request-Id": given})

    assert given == answer.headers["X-Request-Id"]
    assert given == (await stored(store))["request_id"]


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb", "a,b", '"a"', "{a}", "ä", "a;b"])
async def test_an_invalid_request_id_is_replaced(api, store, given):
    """An invalid request id is neither stored nor returned."""
    answer = await send(api, **{"X-Request-Id": given})

    assert given != answer.headers["X-Request-Id"]
    assert 32 == len((await stored(store))["request_id"])


async def test_a_replay_does_not_change_the_stored_request_id(api, store, caplog):
    """A replay is logged with its own request id; the invoice keeps the first one."""
    caplog.set_level(logging.INFO, logger="invoices")
    await send(api, **{"X-Request-Id": "first"})
    again = await api.post("/invoices/", json=BODY, headers={"X-Request-Id": "second"})

    assert 200 == again.status
    assert "first" == (await stored(store))["request_id"]
    logged = [
        (record.getMessage(), record.fields["request_id"])
        for record in caplog.records
        if record.name == "invoices.api"
    ]
    assert [("invoice.accepted", "first"), ("invoice.replayed", "second")] == logged


async def test_the_collection_has_the_request_id(api, store):
    """A leased invoice has the id and the trace of its request."""
    await send(api, **{"X-Request-Id": "mine", "traceparent": GIVEN})

    leased = await lease_invoice(store)
    assert ("mine", GIVEN) == (leased.request_id, leased.traceparent)


@pytest.mark.parametrize("given", [None, "", "nonsense", "00-0-0-0"])
async def test_an_invalid_trace_is_not_stored(api, store, given):
    """Without a valid trace of the client, no trace is stored."""
    await send(api, **({} if given is None else {"traceparent": given}))

    assert None is (await stored(store))["traceparent"]


@pytest.fixture
def exporter():
    """The exporter that keeps the ended spans."""
    return InMemorySpanExporter()


@pytest.fixture
async def traced_api(aiohttp_client, assembled, exporter):
    """A client of an application whose traces are recorded."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    service = assembled(tracing=Tracing(provider))
    return await aiohttp_client(make_application(service.dependencies))


async def test_a_request_is_a_span(traced_api, store, exporter):
    """A request becomes a span of the caller's trace, and the parent of the later spans."""
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


async def test_refused_requests_are_spans_and_health_checks_are_not(traced_api, exporter):
    """Requests of accounts become spans with their status; health checks do not."""
    for path in ("/healthz", "/readyz", "/api/docs/openapi.json", "/none", "/invoices/none"):
        await traced_api.get(path)

    (span,) = exporter.get_finished_spans()
    assert ("GET /invoices/{id}", 404) == (
        span.name,
        span.attributes["http.response.status_code"],
    )
