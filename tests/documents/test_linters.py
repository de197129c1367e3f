"""
Linters find nothing wrong in the documents.

But the trailing slash of `/invoices/` in that of the API, which is intended.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from service.app import receiver_document_of
from service.callbacks.exchange import Exchange, Message
from service.callbacks.invoices import INVOICE_NOTIFICATION
from service.receiver.document import VERSIONS, Promise, build_receiver_document
from service.settings import Settings
from tests.documents import tools

pytestmark = [pytest.mark.documents, pytest.mark.slow]


ODD = (
    "{$request.query.url}",
    "{$request.query.url}/a?id={$request.body#/id}&kind=paid&tag=a&tag={$request.body#/tag}",
    "{$request.query.url}{$request.body#/id}/{$request.body#/id}",
    "{$request.query.url}/{$request.body#/a}-{$request.body#/b}/{$request.path.c}.json",
    "https://{$request.body#/id}.a.example:{$request.query.port}/{$method}/{$request.body#/0}",
    "https://a.example/hook",
)
"""Expressions that differ as much as they can."""


@pytest.fixture
def redocly(tmp_path):
    """Lints a document, and returns the rules that it breaks, each with its place."""

    def lint(document, status=0):
        command = [*tools.REDOCLY, "lint", written(document, tmp_path), "--format", "json"]
        remarks = json.loads(tools.run(command, tmp_path, status=status))["problems"]
        return [(one["ruleId"], one["location"][0]["pointer"]) for one in remarks]

    return lint


@pytest.fixture
def spectral(tmp_path):
    """Lints a document, and returns the rules that it breaks, each with its place."""

    def lint(document):
        rules = tmp_path / "rules.yaml"
        rules.write_text("extends: [spectral:oas]\n", encoding="utf-8")
        command = [*tools.SPECTRAL, "lint", written(document, tmp_path), "--ruleset", rules]
        remarks = json.loads(tools.run([*command, "--format", "json", "--quiet"], tmp_path))
        return [(one["code"], one["path"]) for one in remarks]

    return lint


def written(document, folder):
    """The file of *document*."""
    path = folder / "linted.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.fixture(params=VERSIONS)
def odd_document(request):
    """The document of a receiver of odd callbacks, in each version of OpenAPI."""
    callbacks = [
        replace(INVOICE_NOTIFICATION, expression=expression, name=f"odd_{number}")
        for number, expression in enumerate(ODD)
    ]
    return build_receiver_document(
        [Promise(one, Exchange("/", "POST", Message())) for one in callbacks],
        version="1",
        timeout=timedelta(seconds=15),
        is_strict=True,
        openapi=request.param,
    )


def test_redocly_reports_only_the_trailing_slash(document, redocly):
    """Of the recommended rules, the document breaks only the one about trailing slashes."""
    assert [("no-path-trailing-slash", "#/paths/~1invoices~1")] == redocly(document, status=1)


def test_spectral_reports_only_the_trailing_slash(document, spectral):
    """Of the recommended rules, the document breaks only the one about trailing slashes."""
    assert [("path-keys-no-trailing-slash", ["paths", "/invoices/"])] == spectral(document)


@pytest.mark.parametrize("openapi", VERSIONS)
def test_document_of_the_receiver_breaks_no_rule(openapi, redocly, spectral):
    """The document of the receiver breaks none of the recommended rules."""
    document = receiver_document_of(Settings(), openapi=openapi)

    assert [] == redocly(document)
    assert [] == spectral(document)


def test_document_of_odd_callbacks_breaks_no_rule(odd_document, redocly, spectral):
    """However odd the expressions are, the document of their receiver breaks no rule."""
    assert len(ODD) == len(odd_document["paths"])
    assert [] == redocly(odd_document)
    assert [] == spectral(odd_document)
