import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.telemetry.tracing import Tracing, traceparent_in

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
GIVEN = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


@pytest.fixture
def exporter():
    """Keeps the ended spans."""
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter):
    """Tracing with an exporter."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"traceparent": GIVEN}, GIVEN),
        ({"traceparent": GIVEN, "tracestate": "vendor=secret"}, GIVEN),
        ({"traceparent": ""}, None),
        ({"traceparent": "x" * 10_000}, None),
        ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, None),
        ({"traceparent": f"00-{TRACE_ID}-{'0' * 16}-01"}, None),
        ({"traceparent": f"ff-{TRACE_ID}-00f067aa0ba902b7-01"}, None),
        ({"traceparent": GIVEN.upper()}, None),
        ({"traceparent": f"cc-{TRACE_ID}-00f067aa0ba902b7-01-more"}, GIVEN),
    ],
)
def test_only_a_valid_traceparent_is_continued(headers, expected):
    """A traceparent that is invalid by W3C Trace Context is ignored."""
    assert expected == traceparent_in(headers)


@pytest.mark.parametrize("parent", [None, GIVEN])
def test_without_an_exporter_the_trace_is_passed_on(parent):
    """Nothing is recorded, and the trace of the request, if any, is passed on."""
    for kind in (SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.CLIENT):
        with Tracing().begin(kind, "name", parent) as span:
            span.set_attributes({"name": "value"})
            span.fail("reason")

            assert parent == span.traceparent
            assert not span.is_recorded


def test_a_span_continues_its_parent(tracing, exporter):
    """A span is part of the trace of its parent, and is the parent of the next spans."""
    with tracing.begin(SpanKind.SERVER, "POST /invoices/", GIVEN) as span:
        span.set_attributes({"http.route": "/invoices/", "invoices.account_id": None, "number": 1})

    (ended,) = exporter.get_finished_spans()
    assert "POST /invoices/" == ended.name
    assert f"00-{TRACE_ID}-{ended.context.span_id:016x}-01" == span.traceparent
    assert 0x00F067AA0BA902B7 == ended.parent.span_id
    assert {"http.route": "/invoices/", "number": 1} == dict(ended.attributes)
    assert StatusCode.UNSET is ended.status.status_code


def test_a_span_without_a_parent_begins_a_trace(tracing, exporter):
    """A span without a parent starts a trace, which other processes continue."""
    with tracing.begin(SpanKind.SERVER, "first", None) as first:
        pass
    with tracing.begin(SpanKind.CLIENT, "second", first.traceparent):
        pass

    one, two = exporter.get_finished_spans()
    assert None is one.parent
    assert (one.context.trace_id, one.context.span_id) == (
        two.context.trace_id,
        two.parent.span_id,
    )


def test_each_span_has_its_kind(tracing, exporter):
    """The kind is server for a received request, internal for work, client for a sent request."""
    kinds = [SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.CLIENT]
    for kind in kinds:
        with tracing.begin(kind, "name", None):
            pass

    assert kinds == [span.kind for span in exporter.get_finished_spans()]


def test_a_span_that_raises_has_failed(tracing, exporter):
    """The span ends with the class of the error, without its text, which may contain secrets."""
    with pytest.raises(ValueError, match="s3cret"), tracing.begin(SpanKind.INTERNAL, "name", None):
        raise ValueError("s3cret")

    (ended,) = exporter.get_finished_spans()
    assert (StatusCode.ERROR, "ValueError") == (ended.status.status_code, ended.status.description)
    assert "s3cret" not in ended.to_json()
