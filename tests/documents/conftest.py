"""The document as a file, and the output of openapi-generator, made once for all tests."""

from __future__ import annotations

import json

import pytest

from service.app.documents import document_of, receiver_document_of
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
def receiver_file(document_file):
    """The file of the document of the receiver, as generators read it."""
    path = document_file.with_name("receiver.json")
    path.write_text(json.dumps(receiver_document_of(Settings())), encoding="utf-8")
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
