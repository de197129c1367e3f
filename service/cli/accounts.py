"""`invoices accounts …`: the accounts that may send invoices."""

import asyncio
import logging
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import click
import orjson
from marshmallow import ValidationError

from schemas.fields import EmailAddress
from service.accounts.administration import AccountAdministration, IssuedCredentials
from service.accounts.stripe_keys import StripeKeys, parse_stripe_keys
from service.app.databases import administration_of
from service.cli.group import WholeHelpGroup
from service.cli.options import AS_JSON
from service.settings import Settings, parse_duration, read_settings

T = TypeVar("T")

log = logging.getLogger("invoices")

STRIPE_KEYS_MAX = 16 * 1024
"""Characters that are read from standard input."""


def _check_name(_context: click.Context, _option: click.Parameter, text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", text):
        raise click.BadParameter("up to 63 letters, digits, dots, hyphens and underscores.")
    return text


def _check_email(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        address: str = EmailAddress().deserialize(text)
    except ValidationError:
        raise click.BadParameter("this is not an e-mail address.") from None
    return address


def _read_overlap(_context: click.Context, _option: click.Parameter, text: str | None) -> timedelta:
    if text is None:
        return read_settings().rotation_overlap
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


NAME = click.argument("name", callback=_check_name)
OVERLAP = click.option(
    "--overlap",
    callback=_read_overlap,
    show_default="INVOICES_ROTATION_OVERLAP",
    help="How long the old one stays valid, such as 24h; 0s ends it at once.",
)


@click.group("accounts", cls=WholeHelpGroup)
def accounts_group() -> None:
    """Add, list, rotate and disable the accounts that may send invoices."""


@accounts_group.command("add")
@NAME
@click.option(
    "--email",
    callback=_check_email,
    metavar="ADDRESS",
    show_default="nobody",
    help="Where mails go that say that a receiver of the account fails, and that it has recovered.",
)
@AS_JSON
def add_command(name: str, email: str | None, as_json: bool) -> None:
    """Add an account; its key and its signing secret are printed only this once."""
    _print(_administer(lambda accounts: accounts.add(name, email)), as_json=as_json)


@accounts_group.command("email")
@NAME
@click.argument("address", required=False, callback=_check_email)
@AS_JSON
def email_command(name: str, address: str | None, as_json: bool) -> None:
    """Set where notices of an account go; without ADDRESS, it gets no mails any more."""
    _administer(lambda accounts: accounts.set_email(name, address))
    if as_json:
        click.echo(orjson.dumps({"name": name, "email": address}))
    else:
        click.echo(f"Notices of {name} go to {address}." if address else f"{name} gets no mails.")


@accounts_group.command("list")
@AS_JSON
def list_command(as_json: bool) -> None:
    """List the accounts, with the public prefixes of their keys."""
    rows = _administer(lambda accounts: accounts.list())
    if as_json:
        click.echo(orjson.dumps(rows))
        return
    if not rows:
        click.echo("There are no accounts yet: invoices accounts add NAME")
    for row in rows:
        prefixes = ", ".join(f"inv_{prefix}_…" for prefix in row["key_prefixes"]) or "no key"
        state = "disabled" if row["disabled_at"] else prefixes
        email = f"  {row['email']}" if row["email"] else ""
        since = f"since {row['created_at']:%Y-%m-%d}"
        click.echo(f"{row['name']}  {row['id']}  {since}  {state}{email}")


@accounts_group.command("rotate-key")
@NAME
@OVERLAP
@AS_JSON
def rotate_key_command(name: str, overlap: timedelta, as_json: bool) -> None:
    """Give an account a new key; the old one stays valid for the overlap."""
    _print(_administer(lambda accounts: accounts.rotate_key(name, overlap)), as_json=as_json)


@accounts_group.command("rotate-secret")
@NAME
@OVERLAP
@AS_JSON
def rotate_secret_command(name: str, overlap: timedelta, as_json: bool) -> None:
    """Give an account a new signing secret; for the overlap, callbacks are signed with both."""
    _print(_administer(lambda accounts: accounts.rotate_secret(name, overlap)), as_json=as_json)


@accounts_group.command("stripe")
@NAME
@AS_JSON
def stripe_command(name: str, as_json: bool) -> None:
    """
    Store an account's restricted key and webhook secrets of Stripe, in place of earlier ones.

    Both are read as JSON from standard input, {"api_key": "rk_…", "webhook_secrets": ["whsec_…"]},
    or typed at a prompt that does not show them.
    """
    keys = _read_stripe_keys()
    settings = read_settings()
    account_id = _administer(lambda accounts: accounts.set_stripe_keys(name, keys))
    url = f"{settings.public_url}/collectors/stripe/{account_id}"
    if as_json:
        click.echo(orjson.dumps({"name": name, "account_id": account_id, "webhook_url": url}))
        return
    click.echo(f"{name}  {account_id}\n  Stripe sends webhooks to  {url}")
    if not keys.webhook_secrets:
        click.echo("  Without a webhook secret, payments are found by the poll alone.")


def _read_stripe_keys() -> StripeKeys:
    try:
        if not sys.stdin.isatty():
            return parse_stripe_keys(sys.stdin.read(STRIPE_KEYS_MAX))
        api_key = click.prompt("Restricted key (rk_…)", hide_input=True)
        secrets = click.prompt(
            "Webhook secrets (whsec_…), separated by blanks", default="", hide_input=True
        )
        typed = {"api_key": api_key.strip(), "webhook_secrets": secrets.split()}
        return parse_stripe_keys(orjson.dumps(typed))
    except ValueError as error:
        raise click.UsageError(str(error)) from None


@accounts_group.command("re-encrypt")
@AS_JSON
def re_encrypt_command(as_json: bool) -> None:
    """Encrypt all stored secrets anew, with the first key of INVOICES_ENCRYPTION_KEY."""
    count = _administer(lambda accounts: accounts.renew_secrets())
    done = f"{count} stored secrets are encrypted with the first key now."
    click.echo(orjson.dumps({"count": count}) if as_json else done)


@accounts_group.command("disable")
@NAME
@AS_JSON
def disable_command(name: str, as_json: bool) -> None:
    """Refuse every key of an account. Its invoices are still collected and delivered."""
    _administer(lambda accounts: accounts.disable(name))
    click.echo(orjson.dumps({"name": name}) if as_json else f"{name} is disabled.")


async def create_first_account(settings: Settings) -> None:
    """Create an account if there is none, and print its key: once, and not in the log."""
    async with administration_of(settings, log_key) as accounts:
        created = await accounts.add_first()
    if created:
        click.echo(f"This is the first start, so there is an account now: {created.name}")
        _print_credentials(created)


KEY_MADE = (
    "it is new, and encrypts the signing secrets of the database beside it: a copy of the folder "
    "contains both. INVOICES_ENCRYPTION_KEY replaces it"
)


def log_key(file: Path) -> None:
    """Warn that there is a new key file."""
    fields = {"file": str(file), "meaning": KEY_MADE}
    log.warning("encryption_key.made", extra={"fields": fields})


def _print_key(file: Path) -> None:
    click.echo(f"The key in {file}: {KEY_MADE}.", err=True)


def _administer(work: Callable[[AccountAdministration], Awaitable[T]]) -> T:
    async def administer() -> T:
        async with administration_of(read_settings(), _print_key) as accounts:
            return await work(accounts)

    return asyncio.run(administer())


def _print(changed: IssuedCredentials, *, as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps(asdict(changed)))
    else:
        click.echo(f"{changed.name}  {changed.account_id}")
        _print_credentials(changed)


def _print_credentials(created: IssuedCredentials) -> None:
    if created.key:
        click.echo(f"  key     {created.key}")
    if created.secret:
        click.echo(f"  secret  {created.secret}")
    click.echo("Keep them now: they are not shown again.")
