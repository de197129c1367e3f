"""Runs the section "Your first receiver" of docs/receiver.md as printed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.printed import PAGE, printed_code
from tests.processes import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 60


def section():
    """The text of the section."""
    text = PAGE.read_text(encoding="utf-8")
    (found,) = re.findall(r"^## Your first receiver\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    return found


def printed_commands():
    """The commands of the section in order, each with its continuation lines."""
    return re.findall(r"^    \$ ((?:.*\\\n)*.*)$", section(), re.MULTILINE)


@pytest.fixture
def folder(tmp_path):
    """A folder with the printed program."""
    (tmp_path / "receiver.py").write_text(printed_code(), encoding="utf-8")
    return tmp_path


@pytest.fixture
def start(folder):
    """Starts a printed command, on ports that are free on this machine."""
    ports = {"8080": str(free_port()), "9000": str(free_port())}
    program = folder / "receiver.py"
    program.write_text(program.read_text().replace("9000", ports["9000"]))
    environment = {name: text for name, text in os.environ.items() if "INVOICES_" not in name}
    environment |= {
        "INVOICES_PORT": ports["8080"],
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "no_proxy": "127.0.0.1",
    }

    def start(command):
        for port, free in ports.items():
            command = command.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


@contextmanager
def running(process):
    """Keep *process* running; its output is complete at the end."""
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=DEADLINE_SECONDS)


def until_done(start, command, status=0):
    """Run *command* again and again until its exit status is *status*, and return its output."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        process = start(command)
        printed, _ = process.communicate(timeout=DEADLINE_SECONDS)
        if process.returncode == status or time.monotonic() > deadline:
            assert status == process.returncode, printed
            return printed


def test_the_section_runs_as_printed(start):
    """The receiver passes the checks, and the callback of an invoice arrives."""
    receive, check, serve, send = printed_commands()

    with running(start(receive)) as receiver, running(start(serve)):
        checked = until_done(start, check)
        assert '{"msg":"Invoice received"}' in until_done(start, send)
        for line in receiver.stdout:
            if line.startswith("2expen51ve"):
                break

    assert checked.splitlines()[-1] in section()
    assert line.strip() in section()
