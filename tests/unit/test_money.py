"""Amounts: text is converted to minor units and back without rounding."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.money import AMOUNT_MAX, CURRENCIES, split_amount, to_minor, to_text


@pytest.mark.parametrize(
    ("expected", "amount", "currency"),
    [
        (999900, "9999", "USD"),
        (1230, "12.3", "USD"),
        (1, "0.01", "USD"),
        (5, "5", "JPY"),
        (1234, "1.234", "BHD"),
        (12345, "1.2345", "CLF"),
        (99999999999999, "999999999999.99", "USD"),
    ],
)
def test_amount_becomes_whole_minor_units(expected, amount, currency):
    """An amount is converted to whole minor units of its currency."""
    assert expected == to_minor(amount, currency)


@pytest.mark.parametrize(
    ("expected", "amount", "currency"),
    [
        ("more than zero", "0", "USD"),
        ("more than zero", "0.00", "USD"),
        ("USD has 2 decimals; this amount has 3", "1.234", "USD"),
        ("JPY has 0 decimals; this amount has 1", "1.5", "JPY"),
        ("without an exponent", "1e3", "USD"),
        ("more than zero", "-1", "USD"),
        ("an amount such as", "1\n", "USD"),
        ("an amount such as", "١", "USD"),
        ("less than 1000000000000", "9" * 13, "USD"),
    ],
)
def test_an_invalid_amount_is_refused_with_a_reason(expected, amount, currency):
    """The message says which amounts are valid."""
    with pytest.raises(ValueError, match=expected):
        to_minor(amount, currency)


@given(st.integers(1, 10**12 - 1), st.sampled_from(sorted(CURRENCIES)))
def test_text_and_minor_units_are_equal(minor, currency):
    """The text of an amount has all decimals of its currency, and is converted back exactly."""
    text = to_text(minor, CURRENCIES[currency])

    assert minor == to_minor(text, currency)
    assert CURRENCIES[currency] == len(text.partition(".")[2])
    assert Decimal(text).scaleb(CURRENCIES[currency]) == minor


@given(st.integers(1, 10**8))
def test_an_amount_in_a_json_number_is_exact(cents):
    """An amount with two decimals is exact although JSON parsers read it as a double."""
    number = json.loads(f"{cents // 100}.{cents % 100:02}")

    assert cents == to_minor(str(number), "USD")


@given(st.text())
def test_only_ascii_digits_make_an_amount(text):
    """Digits of other scripts and other notations of numbers are refused."""
    try:
        split_amount(text)
    except ValueError:
        return

    assert text.isascii()
    assert text.replace(".", "", 1).isdigit()


def test_largest_amount_fits_64_bits():
    """The largest amount of every currency fits into a 64-bit integer."""
    assert ("9" * 12, "9" * 4) == split_amount(f"{AMOUNT_MAX:.4f}")
    assert all(to_minor("9" * 12, currency) < 2**63 for currency in CURRENCIES)


def test_codes_that_are_not_money_are_refused():
    """ISO 4217 codes of metals, tests and units of account are not accepted as currencies."""
    assert {"USD": 2, "JPY": 0, "BHD": 3, "CLF": 4}.items() <= CURRENCIES.items()
    assert set() == {"XXX", "XTS", "XAU", "XDR"} & set(CURRENCIES)
    assert sorted(CURRENCIES) == list(CURRENCIES)
