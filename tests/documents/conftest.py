"""The document as a file, and the output of openapi-generator, made once for all tests."""

from __future__ import annotations

import json

import pytest

from service.app import document_of
from service.settings import Settings
from tests.documents import tools

LANGUAGES = ("python", "typescript-fetch", "go", "java")
RECEIVER = "python-fastapi"
"""A generator of servers, used for a receiver of callbacks."""


@pytest.fixture(scope="session")
def document():
    """The document with default settings."""
    return document_of(Settings())


@pytest.fixture(scope="session")
def document_file(document, tmp_path_factory):
    """The file of the document."""
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def receiver_file(document, document_file):
    """The file of a document whose only operation is the callback, in OpenAPI 3.0."""
    callbacks = document["paths"]["/invoices/"]["post"]["callbacks"]
    (item,) = callbacks["invoice_notification"].values()
    id_ = {"in": "path", "name": "id", "required": True, "schema": {"type": "string"}}
    operation = {**item["post"], "parameters": [id_, *item["post"]["parameters"]]}
    receiver = {
        "openapi": "3.0.3",
        "info": {"title": "receiver", "version": "1"},
        "paths": {"/invoices/{id}": {"post": operation}},
        "components": {
            "schemas": {
                name: document["components"]["schemas"][name]
                for name in ("InvoiceNotification", "InvoiceEventReceived")
            }
        },
    }
    path = document_file.with_name("receiver.json")
    path.write_text(json.dumps(receiver), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def generated(document_file, receiver_file, tmp_path_factory):
    """The folder with the output of openapi-generator, one subfolder for each generator."""
    if reason := tools.missing("java"):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("generated")
    sources = {**dict.fromkeys(LANGUAGES, document_file), RECEIVER: receiver_file}
    for name, source in sources.items():
        # JSON is valid YAML.
        wanted = {"generatorName": name, "inputSpec": str(source), "outputDir": str(folder / name)}
        (folder / f"{name}.yaml").write_text(json.dumps(wanted), encoding="utf-8")
    (jar,) = tools.JARS.glob("openapi-generator-cli-*.jar")
    # One start of Java for all of them.
    tools.run(["java", "-jar", jar, "batch", *sorted(folder.glob("*.yaml"))], folder)
    return folder
