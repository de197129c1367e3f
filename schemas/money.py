"""
Money on the wire: decimal text in the caller's JSON, whole minor units inside.

An amount is matched as ASCII text before any arithmetic, because a float, an exponent or five
thousand digits must be refused rather than rounded, expanded or computed with.
"""

from __future__ import annotations

import re
from decimal import Decimal

from iso4217 import Currency

CURRENCIES: dict[str, int] = {
    currency.code: currency.exponent
    for currency in sorted(Currency, key=lambda currency: str(currency.code))
    if currency.exponent is not None
}
"""ISO 4217 codes that name money, each with its number of decimals."""

# Twelve digits before the point keep every amount in a signed 64-bit count of minor units,
# whatever the currency (four decimals is the most that any has).
AMOUNT_PATTERN = r"^(0|[1-9][0-9]{0,11})(?:\.([0-9]{1,4}))?$"
"""How an amount is written as text, in whatever currency."""

AMOUNT_MAX = 999_999_999_999.9999
"""The largest amount that the pattern lets through."""

_AMOUNT = re.compile(AMOUNT_PATTERN, re.ASCII)


def is_amount(text: str) -> bool:
    """Whether *text* is written like an amount, in whatever currency."""
    return _AMOUNT.fullmatch(text) is not None


def to_minor(amount: str, currency: str) -> int:
    """
    The whole number of minor units that *amount* says: `to_minor("12.30", "USD")` is 1230.

    Raises:
        ValueError: in words for the caller, where the text is not an amount, is not more
            than zero, or has more decimals than the currency.
    """
    decimals = CURRENCIES[currency]
    match = _AMOUNT.fullmatch(amount)
    if not match:
        raise ValueError('Must be an amount such as "9999", "9999.00" or 9999.0.')
    whole, fraction = match[1], match[2] or ""
    if len(fraction) > decimals:
        raise ValueError(f"{currency} has {decimals} decimals; this amount has {len(fraction)}.")
    minor = int(whole + fraction.ljust(decimals, "0"))
    if minor == 0:
        raise ValueError("Must be more than zero.")
    return minor


def to_text(minor: int, currency: str) -> str:
    """*minor* units as decimal text with all of the currency's decimals: `"12.30"`."""
    return f"{Decimal(minor).scaleb(-CURRENCIES[currency]):f}"
