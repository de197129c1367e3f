"""
Exports traces to an OpenTelemetry collector, if the environment names one.

The variables are OpenTelemetry's own (`OTEL_EXPORTER_OTLP_ENDPOINT` and others of its kind). The
exporter is installed as an extra, `invoices[otel]`.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service import __version__
from service.errors import ConfigurationError
from service.telemetry.tracing import Tracing

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
except ImportError:
    IS_INSTALLED = False
else:
    IS_INSTALLED = True

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

SHUTDOWN_SECONDS = 5
"""How long a stop waits until spans are sent; a collector that hangs must not delay it."""


@asynccontextmanager
async def exported_traces() -> AsyncIterator[Tracing]:
    """
    Tracing that exports its spans; those that ended within the block are exported at its end.

    Raises:
        ConfigurationError: if a collector is named and the extra is not installed.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        yield Tracing()
        return
    if not IS_INSTALLED:
        raise ConfigurationError(
            f"{ENDPOINTS[0]} is set, and the exporter is not installed: "
            "pip install 'invoices[otel]'."
        )
    name = os.environ.get("OTEL_SERVICE_NAME", "invoices")
    resource = Resource.create({"service.name": name, "service.version": __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield Tracing(provider)
    finally:
        await _shut_down(provider)


async def _shut_down(
    provider: "TracerProvider",
) -> None:  # Without the extra there is no such name.
    """Export what is left, in a thread of its own: a collector that hangs would block the loop."""
    sending = threading.Thread(target=provider.shutdown, name="traces-shutdown", daemon=True)
    sending.start()
    await asyncio.to_thread(sending.join, SHUTDOWN_SECONDS)
