"""SECURITY.md names the code and the test of each defence; both exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:service|tests)/[^`]*)`", PAGE)))


@pytest.mark.parametrize("name", NAMED)
def test_code_and_tests_that_are_named_exist(name):
    """Code and tests that the page names exist."""
    assert (ROOT / name).is_file()


def test_every_defence_names_its_test():
    """Each row of the tables of defences names a test."""
    defended = PAGE.split("## Defences")[1].split("## Duties of the operator")[0]
    rows = [
        row
        for row in defended.splitlines()
        if row.startswith("| ") and "| code and tests |" not in row
    ]

    assert len(rows) > 15
    assert [] == [row for row in rows if "`tests/" not in row]
