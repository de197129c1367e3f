"""SECURITY.md names what keeps each promise; what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:service|tests)/[^`]*)`", PAGE)))


@pytest.mark.parametrize("name", NAMED)
def test_what_keeps_a_promise_is_there(name):
    """Code and tests that the page names exist."""
    assert (ROOT / name).is_file()


def test_every_defence_names_its_test():
    """A row without a test is a wish."""
    defended = PAGE.split("## What is defended")[1].split("## What is left")[0]
    rows = [
        row for row in defended.splitlines() if row.startswith("| ") and "| kept by |" not in row
    ]

    assert len(rows) > 15
    assert [] == [row for row in rows if "`tests/" not in row]
