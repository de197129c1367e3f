"""The commands: one for each role, `invoices COMMAND --help` for each."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import click
import orjson

from service import __version__
from service.accounts.administration import Register, Shown
from service.accounts.encryption import new_encryption_key
from service.api.docs import as_yaml
from service.app import NO_ENCRYPTION_KEY, Process, Role, document_of, register_of
from service.cli.database import upgrade
from service.cli.demo import demonstrate
from service.cli.serve import receive, run, serve, show_credentials
from service.cli.supervisor import WRONG_USAGE, supervise
from service.delivery.signing import Signer
from service.development import DEV_SECRET, for_development
from service.errors import ConfigurationError, InvoicesError
from service.parsers import parse_duration
from service.settings import Settings, read_settings
from service.telemetry.logs import configure_logs

T = TypeVar("T")

FAILED = 1


ONE_WRITER = """\
SQLite has one writer, so a second process on the same file would only wait for the first.
Set INVOICES_DATABASE_URL to a PostgreSQL database to run several: docs/operations.md says how."""

WORKERS_MAX = 64


def _account_name(_context: click.Context, _option: click.Parameter, text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", text):
        raise click.BadParameter("up to 63 letters, digits, dots, hyphens and underscores.")
    return text


def _overlap(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> timedelta | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="invoices")
def main() -> None:
    """Accept invoices, collect them, and call the API user back."""


@main.command("serve")
@click.option(
    "--dev",
    is_flag=True,
    help="For a laptop: no key is needed, and receivers may be on this machine or network.",
)
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.ALL.value,
    show_default=True,
    help="api accepts invoices, dispatcher collects and delivers them, all does both.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, WORKERS_MAX),
    default=1,
    show_default=True,
    help="How many processes share the port. More than one needs PostgreSQL.",
)
@click.option("--as-worker", type=int, hidden=True, help="Which worker it is; from 0.")
def serve_command(dev: bool, role: str, workers: int, as_worker: int | None) -> None:
    """
    Run the service until SIGTERM or Ctrl-C, then drain it.

    Everything else is set with INVOICES_* variables; docs/settings.md lists them.
    """
    settings = for_development(_settings()) if dev else _settings()
    if not dev and not settings.encryption_key:
        _stop(NO_ENCRYPTION_KEY, WRONG_USAGE)
    if workers > 1 and settings.is_embedded:
        _stop(ONE_WRITER, WRONG_USAGE)
    configure_logs(settings.log_format)
    if workers > 1:
        arguments = ["serve", *(["--dev"] if dev else []), "--role", role]
        _run(lambda: supervise(settings, arguments, workers, is_development=dev))
    process = Process(Role(role), is_development=dev, worker_number=as_worker)
    _run(lambda: serve(settings, process))


@main.command("spec")
@click.option("--format", "form", type=click.Choice(["json", "yaml"]), default="json")
def spec_command(form: str) -> None:
    """Print the OpenAPI document, without starting anything."""
    document = _or_stop(lambda: document_of(_settings()))
    if form == "yaml":
        click.echo(as_yaml(document), nl=False)
    else:
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))


@main.command("migrate")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def migrate_command(as_json: bool) -> None:
    """Bring the database to the newest schema; on SQLite, `serve` does so by itself."""
    settings = _settings()
    before, now = _or_stop(lambda: asyncio.run(upgrade(settings)))
    if as_json:
        click.echo(orjson.dumps({"before": before, "now": now}))
    elif before == now:
        click.echo(f"The database is on the newest schema already, {now}.")
    else:
        click.echo(f"The database is on schema {now}; it was {before or 'empty'}.")


@main.group("accounts")
def accounts_group() -> None:
    """Who may send invoices: add, list, rotate and disable accounts."""


NAME = click.argument("name", callback=_account_name)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
OVERLAP = click.option(
    "--overlap",
    callback=_overlap,
    help="How long the old one goes on working, such as 24h; 0s ends it at once. "
    "By default INVOICES_ROTATION_OVERLAP.",
)


@accounts_group.command("add")
@NAME
@AS_JSON
def add_account_command(name: str, as_json: bool) -> None:
    """Add an account; its key and its signing secret are shown once."""
    _show(_administer(lambda register: register.add(name)), as_json=as_json)


@accounts_group.command("list")
@AS_JSON
def list_accounts_command(as_json: bool) -> None:
    """List the accounts, with the public prefixes of their keys."""
    rows = _administer(lambda register: register.list())
    if as_json:
        click.echo(orjson.dumps(rows))
        return
    if not rows:
        click.echo("There are no accounts yet: invoices accounts add NAME")
    for row in rows:
        prefixes = ", ".join(f"inv_{prefix}_…" for prefix in row["key_prefixes"]) or "no key"
        state = "disabled" if row["disabled_at"] else prefixes
        click.echo(f"{row['name']}  {row['id']}  since {row['created_at']:%Y-%m-%d}  {state}")


@accounts_group.command("rotate-key")
@NAME
@OVERLAP
@AS_JSON
def rotate_key_command(name: str, overlap: timedelta | None, as_json: bool) -> None:
    """Give an account a new key; the old one goes on working for a while."""
    _rotate(lambda register, until: register.rotate_key(name, until), overlap, as_json=as_json)


@accounts_group.command("rotate-secret")
@NAME
@OVERLAP
@AS_JSON
def rotate_secret_command(name: str, overlap: timedelta | None, as_json: bool) -> None:
    """Give an account a new signing secret; for a while, callbacks are signed with both."""
    _rotate(lambda register, until: register.rotate_secret(name, until), overlap, as_json=as_json)


@accounts_group.command("disable")
@NAME
@AS_JSON
def disable_account_command(name: str, as_json: bool) -> None:
    """Let an account in no more. What it has sent in is collected and delivered all the same."""
    _administer(lambda register: register.disable(name))
    click.echo(orjson.dumps({"name": name}) if as_json else f"{name} is disabled.")


@main.command("encryption-key")
def encryption_key_command() -> None:
    """Print a new key for INVOICES_ENCRYPTION_KEY."""
    click.echo(new_encryption_key())


@main.command("receiver")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=9000, show_default=True)
@click.option(
    "--secret",
    default=DEV_SECRET,
    help="The signing secret, whsec_…; by default the public one of the dev account.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each callback as a line of JSON.")
def receiver_command(host: str, port: int, secret: str, as_json: bool) -> None:
    """Receive callbacks: verify each, show it, and answer what is declared."""
    try:
        Signer((secret,))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--secret") from None
    _run(lambda: receive(host, port, secret, as_json=as_json))


@main.command("demo")
def demo_command() -> None:
    """Run the service and a receiver here: one invoice in, one callback out."""
    settings = for_development(_settings())
    _run(lambda: demonstrate(settings))


def _administer(work: Callable[[Register], Awaitable[T]]) -> T:
    """What *work* does with the accounts of the database."""
    settings = _settings()

    async def administer() -> T:
        async with register_of(settings) as register:
            return await work(register)

    return _or_stop(lambda: asyncio.run(administer()))


def _rotate(
    work: Callable[[Register, timedelta], Awaitable[Shown]],
    overlap: timedelta | None,
    *,
    as_json: bool,
) -> None:
    until = _settings().rotation_overlap if overlap is None else overlap
    _show(_administer(lambda register: work(register, until)), as_json=as_json)


def _show(shown: Shown, *, as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps(asdict(shown)))
        return
    click.echo(f"{shown.name}  {shown.account_id}")
    show_credentials(shown)


def _run(role: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Run *role* until it ends or is told to; its answer becomes the exit status."""
    sys.exit(_or_stop(lambda: run(role())))


def _settings() -> Settings:
    return _or_stop(read_settings)


def _or_stop(work: Callable[[], T]) -> T:
    """What *work* returns; an error that somebody here can act on ends the command instead."""
    try:
        return work()
    except ConfigurationError as error:
        _stop(str(error), WRONG_USAGE)
    except (InvoicesError, OSError, ValueError) as error:
        _stop(str(error), FAILED)


def _stop(message: str, status: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(status)
