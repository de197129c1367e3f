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
from importlib import import_module
from typing import Protocol

from service.errors import ConfigurationError
from service.telemetry.tracing import Tracing

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
    try:
        spans = import_module("service.telemetry.spans")
    except ImportError as error:
        raise ConfigurationError(
            f"{ENDPOINTS[0]} is set, and the exporter is not installed: "
            "pip install 'invoices[otel]'."
        ) from error
    provider = spans.sending_provider()
    try:
        yield Tracing(provider)
    finally:
        await _shut_down(provider)


class _Provider(Protocol):
    """What is known of the provider here, without its library."""

    def shutdown(self) -> None:
        """Export what is left."""
        ...


async def _shut_down(provider: _Provider) -> None:
    """Export what is left, in a thread of its own: a collector that hangs would block the loop."""
    sending = threading.Thread(target=provider.shutdown, name="traces-shutdown", daemon=True)
    sending.start()
    await asyncio.to_thread(sending.join, SHUTDOWN_SECONDS)
