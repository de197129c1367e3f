"""
A request of an attempt as a command for a terminal.

The signature is not stored, and would be too old: a placeholder stands in its place.
"""

import shlex
from collections.abc import Mapping

SIGNATURE = "webhook-signature"
PLACEHOLDER = "v1,PUT-A-SIGNATURE-HERE"
"""A receiver that verifies refuses it, as it must; `invoices check-receiver` signs."""

NOT_SENT = frozenset({"host", "content-length", "connection", SIGNATURE})
"""Headers that curl writes by itself, and the one that has a placeholder."""


def curl_of(method: str, url: str, headers: Mapping[str, str], body: bytes) -> str:
    """The command that sends a request again, on several lines."""
    lines = [f"curl -i -X {shlex.quote(method)} {shlex.quote(url)}"]
    sent = [(name, text) for name, text in headers.items() if name.lower() not in NOT_SENT]
    for name, text in (*sent, (SIGNATURE, PLACEHOLDER)):
        lines.append("-H " + shlex.quote(f"{name}: {text}"))
    lines.append("--data-binary " + shlex.quote(body.decode("utf-8", "replace")))
    return " \\\n  ".join(lines)
