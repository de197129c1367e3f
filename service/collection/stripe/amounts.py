"""
Amounts as Stripe counts them, and which ones it takes.

Stripe's number of decimals of a currency is not always that of ISO 4217, and it has a smallest
amount for many currencies. Both are judged before an invoice is accepted: later, nobody could pay.
"""

from decimal import Decimal

AMOUNT_MAX = 99_999_999
"""Eight digits, in the units of Stripe."""

AMOUNT_MAX_IDR = 999_999_999_999

_ZERO_DECIMALS = "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF"
_TWO_DECIMALS = """
    AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BWP BYN BZD CAD CDF
    CHF CNY COP CRC CVE CZK DKK DOP DZD EGP ETB EUR FJD FKP GBP GEL GIP GMD GTQ GYD HKD HNL HTG HUF
    IDR ILS INR JMD KES KGS KHR KYD KZT LAK LBP LKR LRD LSL MAD MDL MKD MMK MNT MOP MUR MVR MWK MXN
    MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SEK SGD SHP
    SLE SOS SRD STN SZL THB TJS TOP TRY TTD TWD TZS UAH USD UYU UZS WST XCD XCG YER ZAR ZMW
"""

ZERO_DECIMALS = frozenset(_ZERO_DECIMALS.split())
"""Counted in whole units; the Malagasy ariary too, of which ISO 4217 counts hundredths."""

WHOLE_UNITS = frozenset({"ISK", "UGX"})
"""Counted in hundredths, of which only whole units can be charged; ISO 4217 counts whole units."""

TWO_DECIMALS = frozenset(_TWO_DECIMALS.split())
"""Counted in hundredths."""

THREE_DECIMALS = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})
"""Counted in thousandths, of which the last digit must be zero."""

AMOUNTS_MIN = {
    **{"AED": 200, "AUD": 50, "BGN": 100, "BRL": 50, "CAD": 50, "CHF": 50, "CZK": 1500},
    **{"DKK": 250, "EUR": 50, "GBP": 30, "HKD": 400, "HUF": 17_500, "INR": 50, "JPY": 50},
    **{"MXN": 1000, "MYR": 200, "NOK": 300, "NZD": 50, "PLN": 200, "RON": 200, "SEK": 300},
    **{"SGD": 50, "THB": 1000, "USD": 50},
}
"""The smallest charges, in the units of Stripe; others depend on the bank account of the payee."""


def stripe_amount(minor: int, currency: str, decimals: int) -> int:
    """
    *minor* units of a currency with so many *decimals*, in the units of Stripe.

    Raises:
        ValueError: if Stripe cannot count it; the message is shown to the API user.
    """
    if currency in ZERO_DECIMALS:
        return _scaled(minor, currency, decimals, 0)
    if currency in WHOLE_UNITS:
        return _scaled(minor, currency, decimals, 0) * 100
    if currency in THREE_DECIMALS:
        return _scaled(minor, currency, decimals, 2) * 10
    if currency in TWO_DECIMALS:
        return _scaled(minor, currency, decimals, 2)
    raise ValueError(f"Stripe does not take {currency}.")


def minor_amount(amount: int, currency: str, decimals: int) -> int:
    """An *amount* in the units of Stripe, in minor units of a currency with *decimals*."""
    kept = 0 if currency in ZERO_DECIMALS else 3 if currency in THREE_DECIMALS else 2
    return int(Decimal(amount).scaleb(decimals - kept))


def check_chargeable(minor: int, currency: str, decimals: int) -> None:
    """
    Make sure that a customer can pay *minor* units with Stripe.

    Raises:
        ValueError: if not; the message is shown to the API user.
    """
    amount = stripe_amount(minor, currency, decimals)
    least = AMOUNTS_MIN.get(currency, 1)
    if amount < least:
        text = f"{least}" if currency in ZERO_DECIMALS else f"{least / 100:.2f}"
        raise ValueError(f"Stripe takes {text} {currency} or more.")
    if amount > (AMOUNT_MAX_IDR if currency == "IDR" else AMOUNT_MAX):
        raise ValueError(f"Stripe does not take that much {currency} at once.")


def _scaled(minor: int, currency: str, decimals: int, kept: int) -> int:
    """*minor* with *kept* decimals instead of *decimals*."""
    if decimals <= kept:
        return minor * int(10 ** (kept - decimals))
    whole, rest = divmod(minor, int(10 ** (decimals - kept)))
    if rest:
        raise ValueError(
            f"Stripe takes {currency} with {kept} decimals at most; this amount has more."
        )
    return whole
