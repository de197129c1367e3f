"""
The service with a second event: `python -m tests.acceptance.two_events serve`.

The sandbox records only the end of a collection, and a single event is always in order. This
collector also records that the invoice was sent, so that every invoice has two events.
"""

from __future__ import annotations

from dataclasses import replace

from service.__main__ import main
from service.collection.sandbox import Sandbox

SENT = "Invoice sent"
EVENT_COUNT = 2
"""The events of every invoice: it was sent, then it was paid."""

_begin = Sandbox.begin


async def _begin_and_record(sandbox, invoice):
    return replace(await _begin(sandbox, invoice), description=SENT)


if __name__ == "__main__":
    Sandbox.begin = _begin_and_record
    main()
