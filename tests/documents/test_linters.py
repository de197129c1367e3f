"""The document, judged by linters: their one remark is a decision of ours."""

from __future__ import annotations

import json

import pytest

from tests.documents import tools

pytestmark = [pytest.mark.documents, pytest.mark.slow]


def test_redocly_remarks_the_trailing_slash_alone(document_file):
    """Of the recommended rules, `/invoices/` breaks one: it is the path that users were given."""
    lint = [*tools.REDOCLY, "lint", document_file, "--format", "json"]

    remarks = json.loads(tools.run(lint, document_file.parent, status=1))["problems"]

    assert [("no-path-trailing-slash", "#/paths/~1invoices~1")] == [
        (one["ruleId"], one["location"][0]["pointer"]) for one in remarks
    ]


def test_spectral_remarks_the_trailing_slash_alone(document_file, tmp_path):
    """Of the recommended rules, the same path breaks one."""
    rules = tmp_path / "rules.yaml"
    rules.write_text("extends: [spectral:oas]\n", encoding="utf-8")
    lint = [*tools.SPECTRAL, "lint", document_file, "--ruleset", rules, "--format", "json"]

    remarks = json.loads(tools.run(lint, tmp_path))

    assert [("path-keys-no-trailing-slash", ["paths", "/invoices/"])] == [
        (one["code"], one["path"]) for one in remarks
    ]
