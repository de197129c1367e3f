"""What a person asks about: an id or a URL, perhaps with what was copied together with it."""

import re

URL_BEGINNINGS = ("http://", "https://")

_AROUND = " \t\r\n\"'`,;<>()[]\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb"
"""What stands around an id or a URL in a log, in JSON or in a mail."""

_NEVER_IN_URLS = ' \t\r\n"`<>\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb'

_HEADER = re.compile(r"webhook-id\W+", re.IGNORECASE)
"""The name of the header with the id of a delivery, as a log shows it."""


def is_url(text: str) -> bool:
    """Whether *text* is a URL and no id, whatever the case of its scheme."""
    return text.lower().startswith(URL_BEGINNINGS)


def subjects_of(text: str) -> list[str]:
    """
    What *text* may stand for, the likeliest first.

    An id may have any characters, so *text* itself comes first, unless it is a URL in quotes.
    """
    typed, bare = text.strip(), text.strip(_AROUND)
    if is_url(typed):
        return [typed.rstrip(_NEVER_IN_URLS)]
    if header := _HEADER.match(bare):
        bare = bare[header.end() :].strip(_AROUND)
    if is_url(bare):
        return [bare]
    return [one for one in dict.fromkeys((typed, bare)) if one]
