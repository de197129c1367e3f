"""What the invariants remember of one run: who leased, who asked, what was answered and settled."""

from __future__ import annotations

from collections import Counter


class Ledger:
    """Facts, in the order in which they came about; a lease is known by its row and its token."""

    def __init__(self):
        self.acknowledged = []
        """The ids of the invoices of which their sender was told that they are stored."""
        self.holders = {}
        """Who leased a row last: table and key of the row -> process and token."""
        self.requests = {}
        """Delivery and token -> the one request that was made under that lease."""
        self.request_counts = Counter()
        self.contents = {}
        """Delivery -> URL and body of its first request."""
        self.settlements = {}
        """Delivery and token -> the settlement that was committed under that lease."""
        self.steps = set()
        """Invoice and token of each step that was committed."""
        self.final = set()
        """The deliveries that were delivered or dead at some time."""
        self.failure_counts = Counter()
        """Failures of a delivery that were settled, since it was redelivered last."""
        self.tried_at = {}
        """Delivery and token -> when its sender has tried to settle last."""
        self.held_until = {}
        """Process and origin -> until when that process has to leave the origin alone."""
        self.probes = set()
        """Delivery and token of the attempts that say whether an origin is there at all."""
        self.reprieved = set()
        """The deliveries that somebody asked to redeliver."""
