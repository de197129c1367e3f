"""
What texts, instants and durations look like on a page.

Texts of API users and receivers are shown as text: every character that is not seen, or that turns
others around, is replaced by its name. Whether markup is escaped is not decided here: all of it is.
"""

import unicodedata
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from markupsafe import Markup, escape

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of Unicode whose characters are not seen: control, format, surrogates, unassigned."""

_LAYOUT = frozenset("\n\t")


def visible(value: object) -> object:
    """*value* as a template shows it: a text without characters that are not seen."""
    if isinstance(value, Markup) or not isinstance(value, str) or value.isprintable():
        return value
    return "".join(one if one.isprintable() else _named(one) for one in value)


def block(text: str) -> Markup:
    """*text* on several lines, as it is but for characters that are not seen."""
    if text.isprintable():
        return escape(text)
    lines = text.replace("\r\n", "\n")
    return escape(
        "".join(one if one.isprintable() or one in _LAYOUT else _named(one) for one in lines)
    )


def _named(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        # The pictures of control characters.
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if unicodedata.category(character) in _HIDDEN:
        return f"\u2039U+{code:04X}\u203a"
    # A blank of some width.
    return " " if code != 0xA0 else character


def instant(at: datetime | None) -> str:
    """An instant in UTC, to the second."""
    return "" if at is None else at.isoformat(" ", "seconds")[:19]


def machine_instant(at: datetime) -> str:
    """An instant as the attribute `datetime` has it."""
    return f"{at.isoformat(timespec='milliseconds')[:23]}Z"


def time_element(at: datetime | None, empty: str = "") -> Markup:
    """An instant as an element of a page; *empty* where there is none."""
    if at is None:
        return escape(empty)
    day, _, time = instant(at).partition(" ")
    # A line may end between both, and not within the date.
    element = f'<time datetime="{machine_instant(at)}"><span>{day}</span> {time}</time>'
    return Markup(element)  # noqa: S704 -- two instants, which have no markup


# There are few of them, and a list has hundreds.
@lru_cache(maxsize=256)
def state(name: str, look: str = "") -> Markup:
    """A state or an outcome in words; *look* is that of the state which it resembles."""
    return Markup('<span class="state {}">{}</span>').format(look or name, words(name))


_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def duration(passed: timedelta) -> str:
    """A duration in its two largest units: `2 h 5 min`."""
    seconds = max(0, int(passed.total_seconds()))
    parts = list[str]()
    for size, unit in _UNITS:
        count, seconds = divmod(seconds, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
        elif parts:
            break
    return " ".join(parts[:2])


def words(name: str) -> str:
    """A name of ours, such as `invalid_answer`, in words."""
    return name.replace("_", " ")


def sentence(text: str) -> str:
    """*text*, such as the detail of an attempt, as a sentence of its own."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def percent(part: float) -> str:
    """A share from 0 to 1; 100 % only where nothing is missing."""
    text = f"{part * 100:.1f}"
    return "99.9 %" if part < 1 and text == "100.0" else f"{text.removesuffix('.0')} %"


FILTERS: Mapping[str, Any] = {
    "block": block,
    "duration": duration,
    "words": words,
    "sentence": sentence,
    "percent": percent,
}

FUNCTIONS: Mapping[str, Any] = {"at": time_element, "state": state}
"""What a list has hundreds of: a function takes a third of the time of a macro."""
