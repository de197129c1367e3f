"""Linters report only the trailing slash of `/invoices/`, which is intended."""

from __future__ import annotations

import json

import pytest

from tests.documents import tools

pytestmark = [pytest.mark.documents, pytest.mark.slow]


def test_redocly_reports_only_the_trailing_slash(document_file):
    """Of the recommended rules, the document breaks only the one about trailing slashes."""
    lint = [*tools.REDOCLY, "lint", document_file, "--format", "json"]

    remarks = json.loads(tools.run(lint, document_file.parent, status=1))["problems"]

    assert [("no-path-trailing-slash", "#/paths/~1invoices~1")] == [
        (one["ruleId"], one["location"][0]["pointer"]) for one in remarks
    ]


def test_spectral_reports_only_the_trailing_slash(document_file, tmp_path):
    """Of the recommended rules, the document breaks only the one about trailing slashes."""
    rules = tmp_path / "rules.yaml"
    rules.write_text("extends: [spectral:oas]\n", encoding="utf-8")
    lint = [*tools.SPECTRAL, "lint", document_file, "--ruleset", rules, "--format", "json"]

    remarks = json.loads(tools.run(lint, tmp_path))

    assert [("path-keys-no-trailing-slash", ["paths", "/invoices/"])] == [
        (one["code"], one["path"]) for one in remarks
    ]
