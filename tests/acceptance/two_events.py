"""
The service with a collector that tells of more: `python -m tests.acceptance.telling serve`.

The sandbox tells of the end of a collection alone, and a single event is always in order. Here it
tells that the invoice was sent as well, so that every invoice has two events.
"""

from __future__ import annotations

from dataclasses import replace

from service.__main__ import main
from service.collection.sandbox import Sandbox

SENT = "Invoice sent"
EVENT_COUNT = 2
"""What the receiver is told of every invoice: that it was sent, then that it was paid."""

_send = Sandbox.send


async def _send_and_tell(sandbox, invoice):
    return replace(await _send(sandbox, invoice), description=SENT)


if __name__ == "__main__":
    Sandbox.send = _send_and_tell
    main()
