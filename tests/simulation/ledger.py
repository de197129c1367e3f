"""What the invariants remember of one run: leases, requests, and what was committed."""

from __future__ import annotations

from collections import Counter


class Ledger:
    """Facts, in the order in which they came about; a lease is known by its row and its token."""

    def __init__(self):
        self.acknowledged = []
        """Account and id of the invoices that a client was answered for: they are stored."""
        self.holders = {}
        """The last lease of a row: table, account and key of the row -> process and token."""
        self.leases = {}
        """The bytes that a process was given with a lease, by identity -> process and delivery."""
        self.requests = {}
        """Delivery and token -> the one request that was made under that lease."""
        self.request_counts = Counter()
        self.contents = {}
        """Delivery -> URL and body of its first request."""
        self.settlements = {}
        """Delivery and token -> the attempt that was committed under that lease."""
        self.settled = {}
        """Delivery and number of an attempt that was committed -> its process and the attempt."""
        self.events = {}
        """Account, key of the invoice and number of each event that was committed -> the event."""
        self.recorded = Counter()
        """How often a process has committed an event: process, invoice and description."""
        self.swept = {}
        """What retention has removed: delivery -> account, invoice, callback and event."""
        self.final = set()
        """The deliveries that were delivered or dead at some time."""
        self.failure_counts = Counter()
        """Failures of a delivery that were settled, since it was redelivered last."""
        self.tried_at = {}
        """Delivery and token -> when its process has tried to settle last."""
        self.reprieved = set()
        """The deliveries that were asked to be redelivered."""
