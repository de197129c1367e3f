"""docs/architecture.md shows the real states, and names code and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.domain.payment import CheckoutStatus
from service.domain.states import DELIVERY_MOVES, INVOICE_MOVES, SETTLED, DeliveryStatus

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
END = "[*]"


def moves_in(diagram):
    """The arrows of a Mermaid state diagram."""
    return set(re.findall(r"^ *(\S+) --> (\S+)", diagram, re.MULTILINE))


def pairs(moves):
    """A table of moves as pairs of states."""
    return {(source.value, target.value) for source, targets in moves.items() for target in targets}


INVOICE, DELIVERY, CHECKOUT = map(
    moves_in, re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", PAGE, re.DOTALL)
)


def test_the_diagram_of_an_invoice_is_the_table():
    """The diagram has every legal move of an invoice, from `received` to a final state."""
    final = {(status.value, END) for status, targets in INVOICE_MOVES.items() if not targets}

    assert pairs(INVOICE_MOVES) | final | {(END, "received")} == INVOICE


def test_the_diagram_of_a_delivery_is_the_table():
    """The diagram has every legal move of a delivery, redelivery and retention included."""
    retention = {(status.value, END) for status in SETTLED}

    assert pairs(DELIVERY_MOVES) | retention | {(END, DeliveryStatus.PENDING.value)} == DELIVERY


def test_the_diagram_of_a_checkout_has_every_status():
    """The diagram shows how each status of a checkout is reached."""
    assert {status.value for status in CheckoutStatus} == {target for _, target in CHECKOUT}


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:service|schemas)/[^`]*)`", PAGE))))
def test_code_that_is_named_exists(path):
    """Modules and packages of the page are in the repository."""
    assert (ROOT / path).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[^`]*::[^`]*)`", PAGE))))
def test_tests_that_are_named_exist(name):
    """A test that proves an invariant is a function of the file that is named."""
    path, _, function = name.partition("::")

    assert f"def {function}(" in (ROOT / path).read_text(encoding="utf-8")


def test_every_package_has_a_row():
    """The table of packages lists each package of the service."""
    packages = {path.parent.name for path in (ROOT / "service").glob("*/__init__.py")}

    assert [] == sorted(name for name in packages if f"| `service/{name}/` |" not in PAGE)
