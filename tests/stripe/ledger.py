"""
The ledger of callbacks equals the ledger of money: what was told, against what Stripe holds.

Both worlds end with this check: that of `tests.stripe.world`, which interleaves calls on SQLite,
and that of `tests.simulation`, which also has machines, receivers and a memory that fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FAILURES = {"payment_intent.payment_failed", "checkout.session.async_payment_failed"}
"""The events of Stripe after which an invoice may be told as failed."""


@dataclass(frozen=True, slots=True)
class Records:
    """The rows about one invoice."""

    invoice: Mapping
    told: Sequence[Mapping]
    """The events of its collector, in order."""
    payments: Sequence[Mapping]
    refunds: Sequence[Mapping]


def check_ledger(fake, records, trace=""):
    """AssertionError unless the records of an invoice say what *fake* holds."""
    row, told = records.invoice, records.told
    total, paid = row["total_minor"], fake.paid(row["id"])
    matching = [one["id"] for one in paid if one["amount"] == total]
    about = (row["id"], row["status"], [one["description"] for one in told], trace)

    # Every payment was recorded once, and no other.
    received = records.payments
    assert sorted(one["id"] for one in paid) == sorted(one["payment_intent"] for one in received), (
        about
    )
    mismatched = [one["payment_intent"] for one in received if one["kind"] == "mismatch"]
    assert sorted(mismatched) == sorted({one["id"] for one in paid} - {*matching}), about
    assert bool(mismatched) == bool(row["mismatch"]), about
    totals = [one["payment_intent"] for one in received if one["kind"] == "total"]
    assert len(totals) <= 1, about
    assert len(totals) == sum(one["description"] == "Invoice paid" for one in told), about
    assert bool(matching) <= bool(totals or row["status"] == "void"), about

    # Everything that was given back is told, and nothing was given back twice.
    refunded = sum(map(fake.refunded, matching))
    assert refunded == (row["amount_refunded_minor"] or 0), about
    succeeded = [one for one in records.refunds if one["status"] == "succeeded"]
    assert refunded + sum(map(fake.refunded, mismatched)) == sum(
        one["amount_minor"] for one in succeeded
    ), about
    over = [one["payment_intent"] for one in received if one["kind"] == "overpayment"]
    assert total * len(over) - sum(map(fake.refunded, over)) == (row["overpaid_minor"] or 0), about

    # Nothing is told as failed that has not failed, and nothing twice.
    failed = [one for one in told if one["description"].startswith("Payment failed")]
    assert len(failed) <= sum(_is_failure_of(one, row["id"]) for one in fake.events), about

    # The last word is the truth.
    held = [
        id_
        for id_ in totals
        if not fake.intents[id_].get("is_disputed")
        and fake.refunded(id_) < fake.intents[id_]["amount"]
    ]
    assert bool(held) == bool(told and told[-1]["paid"]), about


def _is_failure_of(event, invoice_id):
    metadata = event["data"]["object"].get("metadata") or {}
    return event["type"] in FAILURES and metadata.get("invoice_id") == invoice_id
