"""The service as a process, like users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from click.testing import CliRunner

from service.__main__ import main
from tests.processes import free_port

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 30


@contextmanager
def in_a_new_interpreter(*arguments: str, env: dict[str, str]) -> Iterator[IO[str]]:
    """Run a module, as `python -m` does, and stop it at the end; its standard error."""
    with subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr
            yield process.stderr
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_SECONDS)


@contextmanager
def served(
    folder: Path,
    *,
    encryption_key: str = "",
    public_url: str = "",
    running: Callable[..., AbstractContextManager[IO[str]]] = in_a_new_interpreter,
) -> Iterator[str]:
    """
    The URL of a service with its database in *folder*, and a *public_url* if it has one.

    It requires keys if there is an *encryption_key*, and is in development mode otherwise.
    *running* starts it: a new interpreter takes a second, `Warm.running` does not.
    """
    port = free_port()
    environment = environment_of(folder, encryption_key) | {"INVOICES_PORT": str(port)}
    if public_url:
        environment["INVOICES_PUBLIC_URL"] = public_url
    mode = [] if encryption_key else ["--dev"]
    with running("service", "serve", *mode, env=environment) as log:
        _await_start(log)
        yield f"http://127.0.0.1:{port}"


def added_account(folder: Path, *, encryption_key: str, name: str = "acme") -> str:
    """The key of a new account in the database in *folder*."""
    shown = printed(folder, encryption_key, "accounts", "add", name, "--json")
    return str(json.loads(shown)["key"])


def printed(folder: Path, encryption_key: str, *arguments: str, **more: str) -> str:
    """The output of a command on the database in *folder*, run in this process."""
    environment = {**environment_of(folder, encryption_key), **more}
    done = CliRunner().invoke(main, arguments, env=environment)
    assert done.exit_code == 0, done.output
    return done.stdout


def environment_of(folder: Path, encryption_key: str) -> dict[str, str]:
    """The environment of a service, or of a command, with its database in *folder*."""
    environment = {name: value for name, value in os.environ.items() if "INVOICES_" not in name}
    return environment | {
        "INVOICES_DATABASE_URL": f"sqlite:///{folder / 'invoices.db'}",
        "INVOICES_MAIL_OUTBOX": str(folder / "outbox"),
        "INVOICES_LOG_FORMAT": "json",
        "INVOICES_ENCRYPTION_KEY": encryption_key,
    }


def _await_start(log: IO[str]) -> None:
    printed = []
    for line in log:
        printed.append(line)
        if "service.started" in line:
            return
    raise AssertionError("The service did not start:\n" + "".join(printed))
