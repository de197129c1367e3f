"""
The service with a second event: `python -m tests.acceptance.two_events serve`.

The sandbox records only the end of a collection, and a single event is always in order. This
collector also records that the invoice was sent, so that every invoice has two events. It has to be
asked for every other invoice: those are accepted before their first step.
"""

from __future__ import annotations

from zlib import crc32

from service.__main__ import main
from service.collection.collector import Progress
from service.collection.sandbox import Sandbox
from service.domain.states import InvoiceStatus

SENT = "Invoice sent"
EVENT_COUNT = 2
"""The events of every invoice: it was sent, then it was paid."""


def _sent(sandbox):
    return Progress(InvoiceStatus.SENT, SENT, look_again_after=sandbox._delays[""])


def _begun(sandbox, invoice):
    return None if crc32(invoice.id.encode()) % 2 else _sent(sandbox)


async def _begin(sandbox, _invoice):
    return _sent(sandbox)


if __name__ == "__main__":
    Sandbox.begun, Sandbox.begin = _begun, _begin
    main()
