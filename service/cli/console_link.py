"""`invoices console-link`: a one-time link to the console."""

import asyncio

import click
import orjson

from service.accounts.console_sessions import new_link
from service.app.databases import database_of
from service.cli.options import AS_JSON
from service.clock import SystemClock
from service.errors import AccountDisabled, UnknownAccount
from service.settings import Settings, read_settings
from service.storage.schema import prepare
from service.storage.sessions import Link
from service.storage.store import Store


@click.command("console-link")
@click.argument("name", required=False)
@click.option(
    "--operator", "is_operator", is_flag=True, help="Open the console of every account instead."
)
@AS_JSON
def console_link_command(name: str | None, *, is_operator: bool, as_json: bool) -> None:
    """
    Print a one-time link to the console of the account NAME; it is valid for ten minutes.

    Whoever opens it first and presses the button is signed in for twelve hours.
    """
    if bool(name) is is_operator:
        raise click.UsageError("Give the NAME of an account, or --operator.")
    url, link = asyncio.run(_make(read_settings(), name))
    if as_json:
        expires_at = link.expires_at.isoformat()
        click.echo(orjson.dumps({"url": url, "name": name, "expires_at": expires_at}))
    else:
        click.echo(url)


async def _make(settings: Settings, name: str | None) -> tuple[str, Link]:
    async with database_of(settings) as database:
        await prepare(database)
        store = Store(database)
        account_id = await _account_id_of(store, name) if name else None
        token, link = await new_link(store.console, account_id, SystemClock())
        return f"{settings.public_url}/console/link/{token}", link


async def _account_id_of(store: Store, name: str) -> str:
    account = await store.accounts.find(name)
    if account is None:
        raise UnknownAccount(f"There is no account {name!r}.")
    if account.disabled_at:
        raise AccountDisabled(f"The account {name!r} is disabled: nobody can sign in to it.")
    return account.id
