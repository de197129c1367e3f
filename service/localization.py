"""
Amounts and dates as people of a locale write them, by the data of CLDR, and texts of API users.

How many decimals an amount has is a matter of its currency, by ISO 4217.
"""

import asyncio
import copy
import re
from datetime import datetime
from decimal import Decimal
from functools import cache

from babel import Locale
from babel.dates import format_date as format_date_of
from iso4217 import Currency

DEFAULT_LOCALE = "en"
"""The locale of an invoice that names none."""


_BIDIRECTIONAL = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def one_line(text: str) -> str:
    """*text* on one line, without the characters that change the direction of others."""
    # Also U+2028 and U+2029, which end a line.
    return " ".join(_BIDIRECTIONAL.sub("", text).split())


async def load(tag: str | None) -> None:
    """Load the data of a locale, which takes some milliseconds once in each process."""
    if (tag or DEFAULT_LOCALE) not in _loaded:
        await asyncio.to_thread(format_amount, 1, 2, "USD", tag)
        _loaded.add(tag or DEFAULT_LOCALE)


_loaded = set[str]()


@cache
def _locale(tag: str) -> Locale:
    return Locale.parse(tag, sep="-")


def decimals_of(currency: str, stored: int | None) -> int:
    """
    How many decimals the amounts of an invoice in *currency* have.

    *stored* is what the invoice was stored with: None if an older version stored it, while
    processes are being upgraded.
    """
    if stored is not None:
        return stored
    try:
        exponent: int | None = Currency(currency).exponent
    except ValueError:
        # ISO 4217 has withdrawn it meanwhile.
        exponent = None
    return 2 if exponent is None else exponent


def format_amount(minor: int, decimals: int, currency: str, tag: str | None) -> str:
    """*minor* units of *currency* with exactly *decimals*, and its symbol: `$9,999.00`."""
    locale = _locale(tag or DEFAULT_LOCALE)
    # CLDR rounds some currencies to fewer decimals than ISO 4217 gives them.
    pattern = copy.copy(locale.currency_formats["standard"])
    pattern.frac_prec = (decimals, decimals)
    amount = Decimal(minor).scaleb(-decimals)
    text: str = pattern.apply(amount, locale, currency=currency, currency_digits=False)
    return text


def format_date(instant: datetime, tag: str | None) -> str:
    """The date of *instant* in UTC, with the name of the month."""
    return format_date_of(instant, format="long", locale=_locale(tag or DEFAULT_LOCALE))
