"""
The plan of a world with payments: what customers, API users and people at Stripe do, and when.

Such a world is that of its seed, with Stripe as the collector: all else that happens in it happens
here too. What is drawn for the payments comes from a generator of its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import Enum

from tests.simulation.plan import draw

AMOUNTS = (None, 100, 2_500)
"""What API users ask to give back; None is all that is left."""


class Action(Enum):
    """What somebody does about an invoice."""

    OPEN = "opens the payment"
    PAY = "opens the payment and pays"
    PAY_BEFORE_THE_ANSWER = "pays a session before its creator has the answer"
    PAY_LATE = "opens the payment and pays in a way that takes long"
    PAY_OTHERWISE = "opens the payment and pays another amount"
    PAY_AGAIN = "pays in any tab"
    DECLINE = "is declined"
    VOID = "voids"
    REFUND = "gives back"
    REFUND_BY_HAND = "gives back at the dashboard"
    DISPUTE = "disputes"
    SWAP = "stores the key of another account of Stripe"


WEIGHTS = {
    Action.OPEN: 2,
    Action.PAY: 6,
    Action.PAY_BEFORE_THE_ANSWER: 1,
    Action.PAY_LATE: 2,
    Action.PAY_OTHERWISE: 0.5,
    Action.PAY_AGAIN: 3,
    Action.DECLINE: 2,
    Action.VOID: 1.5,
    Action.REFUND: 3,
    Action.REFUND_BY_HAND: 1,
    Action.DISPUTE: 1,
    Action.SWAP: 0.7,
}
"""How often each of them is drawn."""


@dataclass(frozen=True, slots=True)
class ActionPlan:
    """What somebody does about an invoice, at an instant; *size* is from 0 to 1."""

    at: float
    invoice_id: str
    action: Action
    size: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentsPlan:
    """Everything that is decided about the payments of a world."""

    actions: tuple[ActionPlan, ...]
    fault_chance: float
    """The probability that a call to Stripe goes wrong."""
    slow_chance: float
    """The probability that a call takes about as long as a lease."""
    copies: tuple[int, ...]
    """How often a webhook comes, drawn for each; one that must come comes once at least."""
    kill_chance: float
    """The probability that a process that is to be killed is killed in a call."""


def draw_paying(seed):
    """The plan of the world with payments of *seed*, which is always the same."""
    plan = draw(seed)
    chance = random.Random(f"payments of {seed}")
    is_calm = plan.is_calm
    return replace(
        plan,
        payments=PaymentsPlan(
            actions=tuple(
                one for invoice in plan.invoices for one in _draw_actions(chance, plan, invoice)
            ),
            fault_chance=0 if is_calm else chance.choice((0, 0.1, 0.3)),
            slow_chance=0 if is_calm else chance.choice((0, 0, 0.1)),
            copies=(1, 1, 2) if is_calm else chance.choice(((1,), (0,), (0, 1, 2, 3))),
            kill_chance=chance.choice((0.2, 0.6)),
        ),
    )


def _draw_actions(chance, plan, invoice):
    until = plan.faults_until + 2
    # What was lost by it is found by polling, which calm worlds do not do.
    weights = WEIGHTS | ({Action.SWAP: 0} if plan.is_calm else {})
    return sorted(
        (
            ActionPlan(
                round(chance.uniform(invoice.at, until), 3),
                invoice.id,
                chance.choices(list(weights), list(weights.values()))[0],
                chance.random(),
            )
            for _ in range(chance.randint(1, 6))
        ),
        key=lambda one: one.at,
    )
