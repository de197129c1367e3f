"""
Amounts of money: decimal text in JSON, whole minor units in the service.

An amount is matched as ASCII text before any arithmetic, so that floats, exponents and thousands
of digits are refused before they are rounded, expanded or computed with.
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
AMOUNT_PATTERN = r"^(0|[1-9][0-9]{0,11})(?:\.([0-9]{1,4}))?$"
"""The pattern of an amount as text, in any currency."""

AMOUNT_MAX = 999_999_999_999.9999
"""The largest amount that matches the pattern."""

_AMOUNT = re.compile(AMOUNT_PATTERN, re.ASCII)


def is_amount(text: str) -> bool:
    """Whether *text* matches the pattern of an amount."""
    return _AMOUNT.fullmatch(text) is not None


def to_minor(amount: str, currency: str) -> int:
    """
    The *amount* in whole minor units: `to_minor("12.30", "USD")` is 1230.

    Raises:
        ValueError: if the text is not an amount, is zero, or has more decimals than the
            currency; the message is shown to the API user.
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
