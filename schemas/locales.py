"""Locales: the BCP 47 tags of a language and perhaps a script and a region that CLDR knows."""

import re
from functools import lru_cache

from babel import Locale, UnknownLocaleError

DEFAULT_LOCALE = "en"
"""The locale of an invoice that names none."""

LOCALE_PATTERN = r"^[A-Za-z]{2,3}(-[A-Za-z]{4})?(-([A-Za-z]{2}|[0-9]{3}))?$"
"""The pattern of a tag, known or not."""


@lru_cache(maxsize=1024)
def known_locale(tag: str) -> str | None:
    """
    *tag* as it is usually written, such as `de-CH` for `de-ch`; None if CLDR does not know it.

    No data of the locale is loaded: that takes time and memory when the locale is used.
    """
    if not re.fullmatch(LOCALE_PATTERN, tag, re.ASCII):
        return None
    try:
        # This finds zh_Hant_TW for zh-TW, and would find the region of a language that is alone.
        found = Locale.parse(tag, sep="-")
    except (UnknownLocaleError, ValueError):
        return None
    language, *given = tag.lower().split("-")
    parts = [part for part in (found.script, found.territory) if part and part.lower() in given]
    return "-".join([language, *parts]) if len(parts) == len(given) else None
