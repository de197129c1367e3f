"""Why a callback came or did not, as a page shows it: the same explanation that the API gives."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service.domain.explanation import Explanation, Verdict, explain_delivery, explain_invoice
from service.pages.console.texts import instant, words
from service.pages.console.visits import Visit
from service.pages.console.wiring import Console

GOOD = frozenset({Verdict.DELIVERED})
BAD = frozenset(
    {
        Verdict.REFUSED,
        Verdict.INVALID_ANSWER,
        Verdict.REDIRECTED,
        Verdict.UNREACHABLE,
        Verdict.TIMEOUT,
        Verdict.MALFORMED,
        Verdict.LOST,
        Verdict.BLOCKED,
        Verdict.GONE,
        Verdict.EXHAUSTED,
    }
)

SHOWN_ELSEWHERE = frozenset({"attempt", "delivery_id", "invoice_id", "url", "event"})
"""Evidence that the rest of the page shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownVerdict:
    """An explanation in the words of a page; *evidence* are names and texts."""

    verdict: str
    sentence: str
    look: str
    next: str
    do: str
    evidence: list[tuple[str, str]]
    earlier_url: str
    """The page of the delivery that goes first, if that is what it waits for."""
    delivery_url: str


async def why_delivery(console: Console, visit: Visit, delivery_id: str) -> ShownVerdict:
    """Why a delivery has come or not; NotFound if the account has none of that id."""
    facts = await console.store.history.facts_of_delivery(visit.account_id, delivery_id)
    return _shown(explain_delivery(facts, visit.now), visit)


async def why_invoice(console: Console, visit: Visit, invoice_id: str) -> ShownVerdict:
    """Why the callback of an invoice has come or not; NotFound as above."""
    facts = await console.store.history.facts_of_invoice(visit.account_id, invoice_id)
    return _shown(explain_invoice(facts, visit.now), visit)


def _shown(explanation: Explanation, visit: Visit) -> ShownVerdict:
    step, evidence = explanation.next, explanation.evidence
    at = _text(step.at) if step and step.at else "a time that is not known"
    earlier, own = evidence.get("earlier_delivery_id"), evidence.get("delivery_id")
    return ShownVerdict(
        verdict=words(explanation.verdict),
        sentence=explanation.sentence,
        look="good"
        if explanation.verdict in GOOD
        else "bad"
        if explanation.verdict in BAD
        else "waits",
        next=step.what.meaning.replace("`at`", at) if step else "",
        do=explanation.do or "",
        evidence=[
            (words(name), _text(fact))
            for name, fact in evidence.items()
            if name not in SHOWN_ELSEWHERE and fact is not None
        ],
        earlier_url=visit.url("deliveries", earlier) if earlier else "",
        delivery_url=visit.url("deliveries", own) if own else "",
    )


def _text(fact: Any) -> str:
    return f"{instant(fact)} UTC" if isinstance(fact, datetime) else str(fact)
