"""The command line: every command, and how a command that fails ends."""

import sys
from typing import Any

import click
import orjson

from service import __version__
from service.accounts.encryption import new_encryption_key
from service.api.docs import as_yaml
from service.app import document_of, receiver_document_of
from service.cli.accounts import accounts_group
from service.cli.check_receiver import check_receiver_command
from service.cli.database import migrate_command
from service.cli.demo import demo_command
from service.cli.group import WholeHelpGroup
from service.cli.listen import listen_command
from service.cli.receiver import receiver_group
from service.cli.serve import serve_command
from service.cli.supervisor import WRONG_USAGE
from service.cli.why import why_command
from service.errors import ConfigurationError, InvoicesError
from service.receiver.document import VERSIONS
from service.settings import declared_settings, read_settings

FAILED = 1

EPILOG = """\
`invoices COMMAND --help` explains a command, and `invoices settings` lists the INVOICES_* variables
that set everything else.

\b
Start here:             invoices serve --dev
Then documentation is:  http://127.0.0.1:8080/api/docs
"""


class CommandLine(WholeHelpGroup):
    """A group whose commands end with one sentence and a status where a person can act on it."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named; errors of ours become an exit status."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output has closed it, which click handles without a message.
            raise
        except ConfigurationError as error:
            message, status = str(error), WRONG_USAGE
        except (InvoicesError, OSError, ValueError) as error:
            message, status = str(error), FAILED
        click.echo(message, err=True)
        sys.exit(status)


@click.group(
    cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG
)
@click.version_option(__version__, prog_name="invoices")
def main() -> None:
    """Accept invoices, collect them, and call the API user back."""


for command in (
    serve_command,
    accounts_group,
    migrate_command,
    receiver_group,
    check_receiver_command,
    why_command,
    listen_command,
    demo_command,
):
    main.add_command(command)


@main.command("spec")
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "yaml"]),
    default="json",
    show_default=True,
    help="The format of the document.",
)
@click.option(
    "--receiver",
    "is_of_receiver",
    is_flag=True,
    help="Print the document of the API that receives the callbacks.",
)
@click.option(
    "--openapi",
    type=click.Choice(["3.0", "3.1"]),
    default="3.0",
    show_default=True,
    help="The version of OpenAPI of the receiver's document; that of the API is always 3.1.",
)
def spec_command(form: str, openapi: str, *, is_of_receiver: bool) -> None:
    """
    Print the OpenAPI document, without starting anything.

    A running service has it at http://127.0.0.1:8080/api/docs/openapi.json, and that of the
    receiver at http://127.0.0.1:8080/api/docs/receiver.json.
    """
    settings = read_settings()
    if is_of_receiver:
        (version,) = [one for one in VERSIONS if one.startswith(openapi)]
        document = receiver_document_of(settings, openapi=version)
    else:
        document = document_of(settings)
    if form == "yaml":
        click.echo(as_yaml(document), nl=False)
    else:
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))


@main.command("settings")
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


@main.command("encryption-key")
def encryption_key_command() -> None:
    """Print a new key for INVOICES_ENCRYPTION_KEY."""
    click.echo(new_encryption_key())
