"""Runs coroutines on the loops of the service, and its commands."""

from __future__ import annotations

import asyncio
import os

import pytest
import uvloop
from click.testing import CliRunner

from service.__main__ import main


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Runs a coroutine on each of the two loops that the service runs on."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


@pytest.fixture
def run_command(monkeypatch, tmp_path):
    """Run a command in a folder of this test, with only the given variables set."""
    for name in [name for name in os.environ if name.startswith("INVOICES_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments, **variables):
        return CliRunner().invoke(main, arguments, env=variables)

    return invoke
