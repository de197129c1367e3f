"""
Traces: what happens to an invoice, from its POST to its receiver's answer, as spans.

A span's parent is named by its `traceparent` (W3C Trace Context, section 3.2), a text that is
stored with the invoice: the trace continues in any process and after any time. Without an exporter
nothing is recorded, and receivers get the traceparent of the request.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import ProxyTracerProvider, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = ["TRACEPARENT", "Span", "SpanKind", "Tracing", "traceparent_in"]

TRACEPARENT = "traceparent"

_propagator = TraceContextTextMapPropagator()


class _TraceparentGetter(Getter[Mapping[str, str]]):
    """Reads the `traceparent` header alone: `tracestate` and baggage are not stored."""

    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        value = carrier.get(key) if key == TRACEPARENT else None
        return None if value is None else [value]

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return [TRACEPARENT]


_getter = _TraceparentGetter()


class Span:
    """
    A part of a trace, from the beginning of a `with` block to its end.

    *traceparent* is the parent of what follows; None without a trace. Where nothing is recorded,
    it is that of the span's own parent, and the other methods do nothing.
    """

    __slots__ = ("_recorded", "is_recorded", "traceparent")

    def __init__(self, traceparent: str | None, recorded: trace.Span | None = None) -> None:
        self.traceparent = traceparent
        self.is_recorded = recorded is not None
        """Whether attributes are kept; if not, they need not be computed."""
        self._recorded = recorded

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._recorded:
            if failure is not None:
                self.fail(type(failure).__name__)
            self._recorded.end()

    def set_attributes(self, attributes: Mapping[str, str | int | None]) -> None:
        """Add *attributes*, without those that are None."""
        if self._recorded:
            self._recorded.set_attributes(
                {name: value for name, value in attributes.items() if value is not None}
            )

    def fail(self, reason: str) -> None:
        """Mark it as failed, for *reason*."""
        if self._recorded:
            self._recorded.set_status(Status(StatusCode.ERROR, reason))


_NO_SPAN = Span(None)


class Tracing:
    """
    Begins spans with *provider*, or with the global one of the process, if any.

    No span becomes the current one: the parent is always given, as its traceparent.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        provider = provider or trace.get_tracer_provider()
        is_missing = isinstance(provider, ProxyTracerProvider)
        self._tracer = None if is_missing else provider.get_tracer("invoices")
        self.is_on = not is_missing
        """Whether spans are recorded; if not, their names need not be made."""

    def begin(self, kind: SpanKind, name: str, parent: str | None) -> Span:
        """
        Begin a span.

        *kind* is SERVER for a request that is answered here, CLIENT for one that is sent from
        here, and INTERNAL for other work.
        """
        if self._tracer is None:
            # Nothing of it changes, so one serves all that have no parent.
            return Span(parent) if parent else _NO_SPAN
        span = self._tracer.start_span(name, context=_context_of(parent), kind=kind)
        return Span(_traceparent_of(span), span)


def traceparent_in(headers: Mapping[str, str]) -> str | None:
    """The traceparent among *headers*; None if there is none, or none that is valid."""
    if TRACEPARENT not in headers:
        return None
    return _traceparent_of(trace.get_current_span(_context_of(headers[TRACEPARENT])))


def _context_of(traceparent: str | None) -> Context:
    carrier = {TRACEPARENT: traceparent} if traceparent else {}
    return _propagator.extract(carrier, Context(), _getter)


def _traceparent_of(span: trace.Span) -> str | None:
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier.get(TRACEPARENT)
