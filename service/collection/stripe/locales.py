"""The language of the page of Stripe, from the locale of an invoice."""

_LOCALES = """
    bg cs da de el en en-GB es es-419 et fi fil fr fr-CA hr hu id it ja ko lt lv ms mt nb nl pl pt
    pt-BR ro ru sk sl sv th tr vi zh zh-HK zh-TW
"""

LOCALES = frozenset(_LOCALES.split())
"""What Stripe knows."""

OTHERS = {"no": "nb", "nn": "nb", "zh-Hant": "zh-TW", "zh-Hant-HK": "zh-HK", "zh-Hans": "zh"}
"""Locales that Stripe knows by another name."""

DEFAULT = "auto"
"""That of the browser."""


def stripe_locale(locale: str | None) -> str:
    """The locale of Stripe that is nearest to a BCP 47 tag; None is English."""
    parts = (locale or "en").replace("_", "-").split("-")
    while parts:
        tag = "-".join(parts)
        if tag in LOCALES or tag in OTHERS:
            return OTHERS.get(tag, tag)
        parts.pop()
    return DEFAULT
