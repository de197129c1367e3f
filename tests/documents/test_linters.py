"""
Linters find nothing wrong in the documents.

But the trailing slash of `/invoices/` in that of the API, which is intended.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from service.app.documents import receiver_document_of
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


@pytest.fixture(scope="module")
def spectral(document, tmp_path_factory):
    """The rules that each document breaks, each with its place, by the name of the document."""
    folder = tmp_path_factory.mktemp("spectral")
    documents = {"api": document}
    for openapi in VERSIONS:
        documents[f"receiver-{openapi}"] = receiver_document_of(Settings(), openapi=openapi)
        documents[f"odd-{openapi}"] = document_of_odd_callbacks(openapi)
    paths = {}
    for name, one in documents.items():
        (folder / name).mkdir()
        paths[str(written(one, folder / name))] = name
    rules = folder / "rules.yaml"
    rules.write_text("extends: [spectral:oas]\n", encoding="utf-8")
    # One start for all of them: a start takes two seconds.
    command = [*tools.SPECTRAL, "lint", *paths, "--ruleset", rules, "--format", "json", "--quiet"]
    broken = {name: [] for name in documents}
    for one in json.loads(tools.run(command, folder)):
        broken[paths[one["source"]]].append((one["code"], one["path"]))
    return broken


def written(document, folder):
    """The file of *document*."""
    path = folder / "linted.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def document_of_odd_callbacks(openapi):
    """The document of a receiver of odd callbacks."""
    callbacks = [
        replace(INVOICE_NOTIFICATION, expression=expression, name=f"odd_{number}")
        for number, expression in enumerate(ODD)
    ]
    return build_receiver_document(
        [Promise(one, Exchange("/", "POST", Message())) for one in callbacks],
        version="1",
        timeout=timedelta(seconds=15),
        is_strict=True,
        openapi=openapi,
    )


def test_redocly_reports_only_the_trailing_slash(document, redocly):
    """Of the recommended rules, the document breaks only the one about trailing slashes."""
    assert [("no-path-trailing-slash", "#/paths/~1invoices~1")] == redocly(document, status=1)


def test_spectral_reports_only_the_trailing_slash(document, spectral):
    """Of the recommended rules, the document breaks only the one about trailing slashes."""
    assert [("path-keys-no-trailing-slash", ["paths", "/invoices/"])] == spectral["api"]


@pytest.mark.parametrize("openapi", VERSIONS)
def test_document_of_the_receiver_breaks_no_rule(openapi, redocly, spectral):
    """The document of the receiver breaks none of the recommended rules."""
    document = receiver_document_of(Settings(), openapi=openapi)

    assert [] == redocly(document)
    assert [] == spectral[f"receiver-{openapi}"]


@pytest.mark.parametrize("openapi", VERSIONS)
def test_document_of_odd_callbacks_breaks_no_rule(openapi, redocly, spectral):
    """However odd the expressions are, the document of their receiver breaks no rule."""
    document = document_of_odd_callbacks(openapi)

    assert len(ODD) == len(document["paths"])
    assert [] == redocly(document)
    assert [] == spectral[f"odd-{openapi}"]
