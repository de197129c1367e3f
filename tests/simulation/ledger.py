"""The facts of one run that the checks need: leases, requests, and committed rows."""

from __future__ import annotations

from collections import Counter


class Ledger:
    """Facts in the order in which they happened; a lease is known by its row and its token."""

    def __init__(self):
        self.acknowledged = []
        """Account and id of the invoices for which a client got a response: they are stored."""
        self.holders = {}
        """The last lease of a row: table, account and key of the row -> process and token."""
        self.leases = {}
        """The bytes that a process got with a lease, by identity -> process and delivery."""
        self.requests = {}
        """Delivery and token -> the one request that was made under that lease."""
        self.request_counts = Counter()
        self.contents = {}
        """Delivery -> URL and body of its first request."""
        self.settlements = {}
        """Delivery and token -> the attempt that was committed under that lease."""
        self.settled = {}
        """Delivery and number of a committed attempt -> its process and the attempt."""
        self.events = {}
        """Account, key of the invoice and number of each committed event -> the event."""
        self.recorded = Counter()
        """How often a process has committed an event: process, invoice and description -> count."""
        self.swept = {}
        """The deliveries that retention has removed -> account, invoice, callback and event."""
        self.final = set()
        """The deliveries that were delivered or dead at some time."""
        self.failure_counts, self.tried_at = Counter(), {}
        """
        The number of settled failures of a delivery since its last redelivery; delivery and token
        -> when its process last tried to settle it.
        """
        self.cancelled, self.collected = set(), set()
        """
        The deliveries that were cancelled, each with the token of the lease that this has ended;
        account and key of the invoices of which the collection has taken a step.
        """
        self.redelivery_requests, self.paused = set(), set()
        """
        The deliveries for which a redelivery was requested, and the receivers whose pause was
        acknowledged, and whose end nobody has asked for.
        """
