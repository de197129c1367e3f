"""Runs the section "By hand" of the README as printed, in a new copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PARTS = ("LICENSE", "README.md", "pyproject.toml", "schemas", "service", "setup.cfg")
DEADLINE_SECONDS = 170


def printed_commands():
    """The commands of the section in order, each with its continuation lines."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^## By hand\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^    \$ ((?:.*\\\n)*.*)$", section, re.MULTILINE)


@pytest.fixture
def project(tmp_path):
    """The files of a checkout, without generated files."""
    for name in PARTS:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def run(project):
    """Run a command in the project to its end, and return its output."""
    ports = {"8080": str(free_port()), "9000": str(free_port())}
    environment = {name: text for name, text in os.environ.items() if "INVOICES_" not in name}
    environment |= {"INVOICES_PORT": ports["8080"], "no_proxy": "127.0.0.1"}
    # Python compiles what it imports; pip would compile every module of every package. It reads
    # PIP_NO_COMPILE=1 as the wish to compile.
    environment |= {"PIP_COMPILE": "0", "PYTHONDONTWRITEBYTECODE": ""}

    def start(command):
        # Other programs may use the ports of the README on this machine, so only the ports change.
        for port, free in ports.items():
            command = command.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
        command = command.replace("invoices receiver", f"invoices receiver --port {ports['9000']}")
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=project,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(command):
        process = start(command)
        printed, _ = process.communicate(timeout=DEADLINE_SECONDS)
        assert 0 == process.returncode, printed
        return printed

    run.start = start
    return run


@contextmanager
def running(process, word):
    """Keep *process*, which has printed *word*, running, and yield the list of its output lines."""
    printed = []
    for line in process.stdout:
        printed.append(line)
        if word in line:
            break
    try:
        assert word in printed[-1], printed
        yield printed
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        printed += process.communicate(timeout=30)[0].splitlines()


def test_the_section_runs_as_printed(run):
    """The printed commands show a paid invoice, and its callback arrives."""
    make, install, receive, serve, send, show = printed_commands()

    run(make)
    run(install)
    with (
        running(run.start(receive), "Receiving") as received,
        running(run.start(serve), "service.started"),
    ):
        assert '{"msg":"Invoice received"}' in run(send)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while '"status":"paid"' not in (shown := run(show)):
            assert time.monotonic() < deadline, shown

    text = "\n".join(received)
    assert "POST /invoices/2expen51ve" in text
    assert "signature   verified" in text
