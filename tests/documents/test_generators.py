"""Code generators accept the document, and their output compiles without changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.documents import tools

pytestmark = [pytest.mark.documents, pytest.mark.slow]

STRICT = ("--strict", "--noEmit", "--target", "es2022", "--module", "esnext")
# The declarations that TypeScript brings along are checked by those who make it.
STRICT = (*STRICT, "--skipDefaultLibCheck")


@pytest.fixture(scope="module")
def go():
    """Skip the test if Go is missing."""
    if reason := tools.missing("go"):
        pytest.skip(reason)


def compiled(folder):
    """Check that every module in *folder* compiles as Python."""
    # In a process of its own: warnings are errors in this one.
    tools.run([sys.executable, "-m", "compileall", "-q", folder], folder)


def imported(folder, module, names):
    """Check that *module* in *folder* can be imported and has *names*."""
    compiled(folder / module.partition(".")[0])
    code = f"from {module} import {', '.join(names)}"
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{tools.PACKAGES}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


def test_openapi_generator_writes_python(generated):
    """The generated client can be imported, and its classes have the names of the document."""
    names = ["InvoicesApi", "DeliveriesApi", "Invoice", "InvoiceRequest", "FieldError"]

    imported(generated / "python", "openapi_client", names)


def test_openapi_generator_writes_typescript(generated):
    """The generated client has no errors under the strict rules of TypeScript."""
    compiler = [*tools.TSC, *STRICT, "--moduleResolution", "bundler"]

    tools.run([*compiler, "index.ts"], generated / "typescript-fetch")


def test_openapi_generator_writes_go(generated, go):
    """The generated client compiles, because no schema has the name of a constructor."""
    tools.run(["go", "build", "./..."], generated / "go")


def test_openapi_generator_writes_java(generated, tmp_path):
    """The generated client compiles with the libraries of its build file."""
    sources = sorted((generated / "java/src/main").rglob("*.java"))
    compiler = ["javac", "-nowarn", "-proc:none", "-d", tmp_path, "-cp", f"{tools.JARS}/*"]

    tools.run([*compiler, *sources], tmp_path)

    assert sources


def test_openapi_generator_writes_a_receiver(generated):
    """The generated server compiles, because the document has no status ranges."""
    compiled(generated / "python-fastapi/src")


def test_oapi_codegen_writes_the_server_of_a_receiver(receiver_file, go, tmp_path):
    """The generated server in Go compiles, and has the route of the callback."""
    for name in ("go.mod", "go.sum"):
        shutil.copy(tools.FOLDER / "go" / name, tmp_path)
    command = [tools.OAPI_CODEGEN, "-generate", "types,std-http,strict-server"]

    tools.run([*command, "-package", "receiver", "-o", "made.go", receiver_file], tmp_path)
    tools.run(["go", "vet", "."], tmp_path)

    made = (tmp_path / "made.go").read_text(encoding="utf-8")
    assert 'options.BaseURL+"/invoices/{id}", wrapper.InvoiceNotification)' in made
    assert "InvoiceNotification410Response" in made


def test_oapi_codegen_writes_a_client_and_a_receiver(document_file, go, tmp_path):
    """The generated types, client and servers in Go compile, the receiver of callbacks included."""
    for name in ("go.mod", "go.sum"):
        shutil.copy(tools.FOLDER / "go" / name, tmp_path)
    wanted = "types,client,std-http"
    command = [tools.OAPI_CODEGEN, "-generate", wanted, "-package", "invoices", "-o", "made.go"]

    tools.run([*command, document_file], tmp_path)
    tools.run(["go", "vet", "."], tmp_path)

    made = (tmp_path / "made.go").read_text(encoding="utf-8")
    assert "HandleInvoiceNotificationCallback(" in made
    assert "type InvoiceRequest struct" in made


def test_openapi_python_client_writes_a_client(document_file, tmp_path):
    """The generator omits nothing, and the client can be imported."""
    command = [*tools.OPENAPI_PYTHON_CLIENT, "generate", "--path", document_file, "--meta", "none"]

    printed = tools.run([*command, "--output-path", tmp_path / "invoices_client"], tmp_path)

    assert "Warning" not in printed
    imported(tmp_path, "invoices_client.models", ["Invoice", "InvoiceRequest", "FieldError"])


def test_openapi_typescript_writes_types(document_file, tmp_path):
    """The generated types have no errors under the strict rules of TypeScript."""
    tools.run([*tools.OPENAPI_TYPESCRIPT, document_file, "-o", "invoices.ts"], tmp_path)
    tools.run([*tools.TSC, *STRICT, "invoices.ts"], tmp_path)

    assert "InvoiceRequest" in (tmp_path / "invoices.ts").read_text(encoding="utf-8")
