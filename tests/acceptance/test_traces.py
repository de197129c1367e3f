"""One id connects all log lines of an invoice, and its spans in a trace collector."""

from __future__ import annotations

import signal

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.fakes import Journal
from tests.processes import Receiver, receiving, serving

pytestmark = pytest.mark.usefixtures("migrated")

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01", "X-Request-Id": "the-request"}


class Collector(Receiver):
    """Receives spans over HTTP like an OpenTelemetry collector."""

    def __init__(self):
        super().__init__()
        self.spans = Journal()
        self.services = set()

    async def receive(self, request):
        """Keep the spans of one export."""
        assert ("POST", "/v1/traces") == (request.method, request.path)
        for resource in ExportTraceServiceRequest.FromString(await request.read()).resource_spans:
            named = {one.key: one.value.string_value for one in resource.resource.attributes}
            self.services.add(named["service.name"])
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.add(span)
        return web.Response(content_type="application/x-protobuf")


async def send(service, receiver):
    """Send an invoice with a trace context, and wait until it is delivered."""
    await service.send("1", receiver.url, headers=HEADERS)
    return await service.delivery_of("1", is_settled=True)


async def test_one_id_is_in_every_log_line_of_an_invoice(tmp_path):
    """The log lines of the request, the event and every attempt have the id of the request."""
    async with serving(tmp_path, RETRY_SCHEDULE="0s") as service, receiving() as receiver:
        receiver.answer(status=500, text="")
        await send(service, receiver)
        await service.logged("attempt.settled", 2)

        logged = [line["event"] for line in service.log.entries if "the-request" in line.values()]
    expected = ["invoice.accepted", "event.recorded", "attempt.settled", "attempt.settled"]
    assert expected == logged


async def test_the_trace_context_is_passed_on_without_an_exporter(tmp_path):
    """Without an exporter, the receiver gets the traceparent of the request unchanged."""
    async with serving(tmp_path) as service, receiving() as receiver:
        await send(service, receiver)

    ((_, _, headers, _),) = receiver.arrived.entries
    assert HEADERS["traceparent"] == headers["traceparent"]


async def test_a_trace_connects_the_request_and_the_callback(tmp_path, monkeypatch):
    """The request, the collection, the attempt and the callback belong to the caller's trace."""
    async with receiving(receiver=Collector()) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        async with serving(tmp_path) as service, receiving() as receiver:
            await send(service, receiver)
            ((_, _, headers, _),) = receiver.arrived.entries
            # The last spans are exported before the process ends.
            service.signal(signal.SIGTERM)
            assert 0 == await service.ended()
        spans = {span.name: span for span in collector.spans.entries}

    assert {"POST /invoices/", "collect", "POST invoice_notification"} <= set(spans)
    request, attempt = spans["POST /invoices/"], spans["POST invoice_notification"]
    assert {TRACE_ID} == {
        spans[name].trace_id.hex() for name in ("collect", attempt.name, request.name)
    }
    assert request.span_id == attempt.parent_span_id == spans["collect"].parent_span_id
    assert f"00-{TRACE_ID}-{attempt.span_id.hex()}-01" == headers["traceparent"]
    assert {"invoices"} == collector.services


async def test_the_trace_of_a_replay_tells_of_no_step(tmp_path, monkeypatch):
    """Only the span of the request that stored the invoice has the status that it got."""
    async with receiving(receiver=Collector()) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        async with serving(tmp_path) as service, receiving() as receiver:
            for expected in (202, 200):
                status, _ = await service.send("1", receiver.url, headers=HEADERS)
                assert expected == status
            service.signal(signal.SIGTERM)
            assert 0 == await service.ended()
        names = [
            {one.key for one in span.attributes}
            for span in collector.spans.entries
            if "collect" == span.name
        ]

    assert [False, True] == sorted("invoices.invoice_status" in one for one in names)


@pytest.mark.parametrize("exporter_url", ["http://127.0.0.1:9", "nonsense"])
async def test_an_unavailable_trace_collector_delays_nothing(tmp_path, monkeypatch, exporter_url):
    """Callbacks are delivered, and the process ends normally."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", exporter_url)
    async with serving(tmp_path) as service, receiving() as receiver:
        assert "delivered" == (await send(service, receiver))["status"]
        service.signal(signal.SIGTERM)
        assert 0 == await service.ended()
