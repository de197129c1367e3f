"""The command line: what it prints, and with which exit status it ends."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service import __version__
from service.__main__ import main
from service.app.documents import document_of
from service.settings import Settings, declared_settings

ROOT = Path(__file__).parents[2]
POSTGRES = "postgresql://none@127.0.0.1:1/none"
"""A server that does not exist, for commands that end before they connect to it."""

COMMANDS = {
    "accounts",
    "demo",
    "encryption-key",
    "migrate",
    "receiver",
    "serve",
    "settings",
    "spec",
}


@pytest.fixture
def run(run_command):
    """Run a command with only the given variables set."""
    return run_command


def test_every_command_is_listed(run):
    """The help of the program names its commands."""
    shown = run("--help")

    assert 0 == shown.exit_code
    assert [] == [name for name in COMMANDS if name not in shown.stdout]
    assert set(main.commands) >= COMMANDS


@pytest.mark.parametrize("name", sorted(main.commands))
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_a_help(run, name, option):
    """The help of each command describes it."""
    shown = run(name, option)

    assert 0 == shown.exit_code
    assert shown.stdout.startswith(f"Usage: main {name}")
    assert len(shown.stdout.splitlines()) > 3


def test_version_is_printed(run):
    """`--version` prints the version of the package."""
    assert f"invoices, version {__version__}\n" == run("--version").stdout


@pytest.mark.parametrize(
    "arguments", [[], ["none"], ["spec", "--format", "xml"], ["receiver", "--port", "70000"]]
)
def test_wrong_usage_is_reported(run, arguments):
    """An unknown command, or wrong arguments, end with exit status 2."""
    refusal = run(*arguments)

    assert 2 == refusal.exit_code
    assert "Usage: " in refusal.stderr


class TestSpec:
    def test_json_is_the_default(self, run):
        """The output is the document as JSON, and nothing else."""
        assert document_of(Settings()) == json.loads(run("spec").stdout)

    def test_yaml_is_the_same_document(self, run):
        """With the option the document is printed as YAML."""
        assert document_of(Settings()) == yaml.safe_load(run("spec", "--format", "yaml").stdout)

    def test_the_document_has_the_public_url(self, run):
        """The `servers` entry is the public URL."""
        shown = run("spec", INVOICES_PUBLIC_URL="https://invoices.example.net/")

        assert "https://invoices.example.net" == json.loads(shown.stdout)["servers"][1]["url"]

    def test_nothing_is_started(self, run, tmp_path):
        """Printing the document creates no database."""
        assert 0 == run("spec").exit_code
        assert [] == list(tmp_path.iterdir())


class TestSettings:
    def test_every_variable_is_printed_with_its_meaning_and_default(self, run):
        """The list has each variable, its default and its meaning."""
        printed = " ".join(run("settings").stdout.split())

        for variable, setting in declared_settings().items():
            assert f"{variable} (default: {setting.default or 'none'}) {setting.meaning}" in printed

    def test_list_is_available_as_json(self, run):
        """The JSON has the same settings in the same order."""
        rows = json.loads(run("settings", "--json").stdout)

        assert [
            {"name": variable, "default": setting.default, "meaning": setting.meaning}
            for variable, setting in declared_settings().items()
        ] == rows

    def test_wrong_settings_do_not_matter(self, run):
        """The list reads no variable, so that it works with wrong settings."""
        assert 0 == run("settings", INVOICES_PORT="many").exit_code

    def test_help_of_serve_names_the_command(self, run):
        """The help of `serve` names the command that lists the settings."""
        assert "`invoices settings`" in run("serve", "--help").stdout


class TestMigrate:
    def test_empty_database_gets_the_newest_schema(self, run, tmp_path):
        """The first run migrates the empty database; the second reports that nothing is to do."""
        first, second = run("migrate"), run("migrate")

        assert (0, 0) == (first.exit_code, second.exit_code)
        assert "it was empty" in first.stdout
        assert "already" in second.stdout
        assert (tmp_path / "invoices.db").exists()

    def test_result_is_available_as_json(self, run):
        """The JSON has the revisions before and after."""
        first, second = (json.loads(run("migrate", "--json").stdout) for _ in range(2))

        assert None is first["before"]
        assert first["now"] == second["before"] == second["now"]

    def test_database_that_cannot_be_opened_is_reported(self, run, tmp_path):
        """A missing database ends with exit status 1 and a message, without a traceback."""
        failure = run("migrate", INVOICES_DATABASE_URL=f"sqlite:///{tmp_path}/none/invoices.db")

        assert 1 == failure.exit_code
        assert "unable to open database file" in failure.stderr
        assert "Traceback" not in failure.stderr


class TestServe:
    @pytest.mark.parametrize("option", [[], ["--role", "api"], ["--workers", "2"]])
    def test_without_an_encryption_key_the_error_names_the_setting(self, run, tmp_path, option):
        """A server database needs an encryption key; without one nothing is created."""
        refusal = run("serve", *option, INVOICES_DATABASE_URL=POSTGRES)

        assert 2 == refusal.exit_code
        assert "INVOICES_ENCRYPTION_KEY is not set" in refusal.stderr
        assert "invoices encryption-key" in refusal.stderr
        assert "invoices serve --dev" in refusal.stderr
        assert [] == list(tmp_path.iterdir())

    def test_all_wrong_settings_are_reported_at_once(self, run):
        """One start shows every error, a misspelled name included."""
        refusal = run(
            "serve",
            "--dev",
            INVOICES_PORT="many",
            INVOICES_CURRENCY="dollars",
            INVOICES_RETRY_SCHEDULE="5 minutes",
            INVOICES_DATABSE_URL="sqlite:///x.db",
        )
        names = ["PORT", "CURRENCY", "RETRY_SCHEDULE", "DATABSE_URL"]

        assert 2 == refusal.exit_code
        assert [] == [name for name in names if f"INVOICES_{name}: " not in refusal.stderr]
        assert "did you mean INVOICES_DATABASE_URL?" in refusal.stderr

    @pytest.mark.parametrize(
        ("option", "values"), [("--role", ["api", "dispatcher", "all"]), ("--workers", ["1", "64"])]
    )
    def test_help_names_the_values_of_an_option(self, run, option, values):
        """The help explains the values of an option and its default."""
        shown = run("serve", "--help").stdout
        explained = shown[shown.index(f"  {option} ") :].partition("\n  -")[0]

        assert [] == [value for value in values if value not in explained]
        assert "default: " in explained

    def test_help_hides_the_internal_option(self, run):
        """The option with which the service starts its workers is not listed."""
        assert "--as-worker" not in run("serve", "--help").stdout

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--role", "worker"), ("--workers", "0"), ("--workers", "65"), ("--workers", "two")],
    )
    def test_invalid_option_is_refused(self, run, option, value):
        """An unknown role, or a number of workers out of bounds, ends with exit status 2."""
        refusal = run("serve", "--dev", option, value)

        assert 2 == refusal.exit_code
        assert f"Invalid value for '{option}': " in refusal.stderr

    def test_several_workers_on_sqlite_are_refused(self, run, tmp_path):
        """Several workers need PostgreSQL; with SQLite there is an error, and no database."""
        refusal = run("serve", "--dev", "--workers", "2")

        assert 2 == refusal.exit_code
        assert "SQLite has one writer" in refusal.stderr
        assert "INVOICES_DATABASE_URL" in refusal.stderr
        assert [] == list(tmp_path.iterdir())

    def test_wrong_settings_are_reported_once_for_all_workers(self, run):
        """Wrong settings are reported before any worker is started."""
        refusal = run(
            "serve", "--dev", "--workers", "3", INVOICES_DATABASE_URL=POSTGRES, INVOICES_PORT="many"
        )

        assert 2 == refusal.exit_code
        assert 1 == refusal.stderr.count("INVOICES_PORT: ")

    @pytest.mark.parametrize(
        "command",
        [
            ["serve", "--dev"],
            ["serve", "--dev", "--workers", "2"],
            ["receiver", "--port"],
        ],
        ids=["serve", "workers", "receiver"],
    )
    def test_port_in_use_is_reported(self, tmp_path, command):
        """A port that is in use ends with exit status 1 and a message, without a traceback."""
        with socket.socket() as taken:
            # Workers share a port like this; even so, the port of another program is not shared.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            arguments = [*command, port] if command[-1] == "--port" else command
            database = {"INVOICES_DATABASE_URL": POSTGRES} if "--workers" in command else {}
            failure = in_a_process(tmp_path, *arguments, INVOICES_PORT=port, **database)

        assert 1 == failure.returncode
        assert "is in use by another program" in failure.stderr
        assert port in failure.stderr
        assert "Traceback" not in failure.stderr


def test_module_can_be_run(tmp_path):
    """`python -m service` is the same program."""
    shown = in_a_process(tmp_path, "--version")

    assert (0, f"invoices, version {__version__}\n") == (shown.returncode, shown.stdout)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_opened(tmp_path, closed):
    """A command does its work where a supervisor has closed the standard streams."""
    command = f"{sys.executable} -m service migrate {closed}"
    variables = {"PYTHONPATH": str(ROOT), "INVOICES_DATABASE_URL": "sqlite:///new.db"}
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=tmp_path, env=variables, timeout=60, check=False
    )

    assert 0 == done.returncode
    assert (tmp_path / "new.db").read_bytes().startswith(b"SQLite format 3")


def in_a_process(folder, *arguments, **variables):
    """Run a command as a user does, in *folder*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("INVOICES_")}
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env={**kept, "PYTHONPATH": str(ROOT), **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_commands_close_their_loop(run):
    """A command that ran asynchronous code leaves no event loop open."""
    run("migrate")

    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
