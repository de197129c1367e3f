"""What an operator sets: `invoices settings` and `invoices encryption-key`."""

import click
import orjson

from service.accounts.encryption import new_encryption_key
from service.settings import declared_settings


@click.command("settings")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def settings_command(as_json: bool) -> None:
    """Print every INVOICES_* variable with its meaning and default."""
    settings = declared_settings().items()
    if as_json:
        rows = [
            {"name": variable, "default": setting.default, "meaning": setting.meaning}
            for variable, setting in settings
        ]
        click.echo(orjson.dumps(rows))
        return
    for variable, setting in settings:
        click.echo(f"{variable}  (default: {setting.default or 'none'})")
        click.echo(click.wrap_text(setting.meaning, 100, "    ", "    "))


@click.command("encryption-key")
def encryption_key_command() -> None:
    """Print a new key for INVOICES_ENCRYPTION_KEY."""
    click.echo(new_encryption_key())
