"""
Amounts of money: decimal text in JSON, whole minor units in the service.

An amount is matched as ASCII text before any arithmetic, so that exponents and thousands of digits
are refused before they cost time, and nothing is rounded.
"""

import re
from decimal import Decimal

from iso4217 import Currency

CURRENCIES: dict[str, int] = {
    currency.code: currency.exponent
    for currency in sorted(Currency, key=lambda currency: str(currency.code))
    if currency.exponent is not None
}
"""The ISO 4217 codes that have minor units, each with its number of decimals."""

# With twelve digits before the point, every amount in minor units fits a signed 64-bit integer:
# no currency has more than four decimals.
AMOUNT_PATTERN = r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,4}0*)?$"
"""The pattern of an amount as text, in any currency."""

AMOUNT_MAX = 999_999_999_999.9999
"""The largest amount that matches the pattern."""

AMOUNT_FORMS = (
    {"type": "string", "pattern": AMOUNT_PATTERN},
    {"type": "number", "format": "double", "exclusiveMinimum": 0, "maximum": AMOUNT_MAX},
)
"""What an amount may be in a request, as JSON Schema."""

NOT_AN_AMOUNT = (
    'Must be an amount such as "9999", "9999.00" or 9999.0: digits, with a point before decimals.'
)

_AMOUNT = re.compile(r"(0|[1-9][0-9]{0,11})(?:\.([0-9]+))?", re.ASCII)
_REFUSED = (
    (re.compile(r"-[0-9.]+", re.ASCII), "Must be more than zero."),
    (re.compile(r"0+[0-9]+(\.[0-9]+)?", re.ASCII), "Must not begin with zeros."),
    (
        re.compile(r"[0-9]{13,}(\.[0-9]+)?", re.ASCII),
        "Must be less than 1000000000000: at most twelve digits before the point.",
    ),
    (
        re.compile(r"[0-9.]+[eE][+-]?[0-9]+", re.ASCII),
        "Must be written without an exponent in a string: 1000 instead of 1e3.",
    ),
)
"""Frequent mistakes in amounts, each with the message about it."""


def split_amount(text: str) -> tuple[str, str]:
    """
    The digits of an amount before the point and after it, there without zeros at the end.

    Raises:
        ValueError: if *text* is not an amount; the message is shown to the API user.
    """
    match = _AMOUNT.fullmatch(text)
    if not match:
        reasons = (reason for pattern, reason in _REFUSED if pattern.fullmatch(text))
        raise ValueError(next(reasons, NOT_AN_AMOUNT))
    return match[1], (match[2] or "").rstrip("0")


def to_minor(amount: str, currency: str) -> int:
    """
    The *amount* in whole minor units: `to_minor("12.30", "USD")` is 1230.

    Raises:
        ValueError: if the text is not an amount, is zero, or has more decimals than the
            currency; the message is shown to the API user.
    """
    return minor_of(amount, currency, CURRENCIES[currency])


def minor_of(amount: str, currency: str, decimals: int) -> int:
    """As `to_minor`, of a *currency* that has or had so many *decimals*."""
    whole, fraction = split_amount(amount)
    if len(fraction) > decimals:
        raise ValueError(f"{currency} has {decimals} decimals; this amount has {len(fraction)}.")
    minor = int(whole + fraction.ljust(decimals, "0"))
    if minor == 0:
        raise ValueError("Must be more than zero.")
    return minor


def to_text(minor: int, decimals: int) -> str:
    """*minor* units of a currency with so many *decimals* as decimal text: `"12.30"`."""
    return f"{Decimal(minor).scaleb(-decimals):f}"
