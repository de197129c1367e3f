"""Amounts as Stripe counts them."""

from __future__ import annotations

import pytest

from schemas.money import CURRENCIES
from service.collection.stripe.amounts import check_chargeable, minor_amount, stripe_amount
from service.collection.stripe.sessions import amount_of
from tests.rows import an_invoice


@pytest.mark.parametrize(
    ("minor", "currency", "expected"),
    [
        (999_900, "USD", 999_900),
        (500, "JPY", 500),
        (12_300, "MGA", 123),
        (5, "ISK", 500),
        (5, "UGX", 500),
        (5_120, "KWD", 5_120),
    ],
)
def test_amounts_are_in_the_units_of_stripe(minor, currency, expected):
    """Stripe's decimals are not always those of ISO 4217; an amount can be read back."""
    decimals = CURRENCIES[currency]

    assert expected == stripe_amount(minor, currency, decimals)
    assert minor == minor_amount(expected, currency, decimals)


@pytest.mark.parametrize(
    ("currency", "expected"), [("JPY", 9_990), ("KWD", 9_990), ("ISK", 999_000)]
)
def test_without_stored_decimals_those_of_the_currency_count(currency, expected):
    """An older version stores none while processes are upgraded; Stripe asks for the total."""
    assert expected == amount_of(an_invoice(currency=currency, total_minor=9_990, decimals=None))


@pytest.mark.parametrize(
    ("minor", "currency", "reason"),
    [
        (12_345, "MGA", "0 decimals"),
        (5_124, "KWD", "2 decimals"),
        (49, "USD", "0.50 USD or more"),
        (49, "JPY", "50 JPY or more"),
        (17_499, "HUF", "175.00 HUF or more"),
        (100_000_000, "USD", "that much"),
        (1_000_000, "IQD", "does not take IQD"),
        (10_000, "CLF", "does not take CLF"),
        (10_000, "KPW", "does not take KPW"),
    ],
)
def test_what_stripe_does_not_take_is_refused_with_the_reason(minor, currency, reason):
    """An amount that nobody could pay is refused, in words for the API user."""
    with pytest.raises(ValueError, match=reason):
        check_chargeable(minor, currency, CURRENCIES[currency])


@pytest.mark.parametrize(
    ("minor", "currency"), [(50, "USD"), (99_999_999, "EUR"), (1, "ZMW"), (10**11, "IDR")]
)
def test_what_stripe_takes_is_accepted(minor, currency):
    """The smallest and largest amounts are chargeable."""
    check_chargeable(minor, currency, CURRENCIES[currency])
