"""
What was sent in an attempt and what came back, as one text of its row.

It is written for every attempt, and read for few of them: what people see is made when it is read.
"""

from typing import Any

import orjson
from sqlalchemy import RowMapping

from service.domain.delivery import Attempt

HEAD_BYTES = 4096
"""A head of so many bytes may have been cut: its last line is not told."""

PHASES = ("name", "connect", "tls", "send", "wait")
"""The names of the phases, in the order in which they are stored."""

UNKNOWN = dict.fromkeys(("request", "address", "phases_ms", "response_headers", "rule"))
"""What is told where nothing is known."""


def encoded(attempt: Attempt) -> str | None:
    """The text that stands for the transmission of *attempt*, if that is known."""
    made = attempt.transmission
    if made is None:
        return None
    return orjson.dumps(
        (made.method, made.headers, made.address, made.phases, made.answer_head, made.rule)
    ).decode()


def told(row: RowMapping, url: str) -> dict[str, Any]:
    """The *row* of an attempt at *url*, with its transmission as it is told; None is not known."""
    text = row["transmission"]
    if text is None:
        return {**row, **UNKNOWN}
    method, headers, address, phases, head, rule = orjson.loads(text)
    tenths = dict(zip(PHASES, phases or (), strict=False))
    return {
        **row,
        "request": {"method": method, "url": url, "headers": headers},
        "address": address,
        "phases_ms": {name: of if of is None else of / 10 for name, of in tenths.items()} or None,
        "response_headers": None if head is None else headers_in(head),
        "rule": rule,
    }


def headers_in(head: str) -> dict[str, str]:
    """
    The headers in the lines of *head*, as text that can be shown.

    What cannot be printed is replaced; the values of a repeated header are separated by commas.
    """
    lines = head.split("\n")
    if len(head.encode()) >= HEAD_BYTES:
        del lines[-1]
    found = dict[str, str]()
    for line in lines:
        name, _, stated = line.partition(": ")
        text = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in stated)
        found[name] = f"{found[name]}, {text}" if name in found else text
    return found
