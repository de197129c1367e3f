"""
The command line: every command, and how a command that fails ends.

A command is imported when it is named, so that `serve` does not keep in memory what others need.
"""

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import click

from service import __version__
from service.cli.group import LazyCommands, WholeHelpGroup
from service.cli.standard_streams import open_standard_streams
from service.cli.statuses import FAILED, WRONG_USAGE
from service.errors import ConfigurationError, InvoicesError

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "serve": "service.cli.serve:serve_command",
        "accounts": "service.cli.accounts:accounts_group",
        "console-link": "service.cli.console_link:console_link_command",
        "migrate": "service.cli.database:migrate_command",
        "receiver": "service.cli.receiver:receiver_group",
        "check-receiver": "service.cli.check_receiver:check_receiver_command",
        "why": "service.cli.why:why_command",
        "listen": "service.cli.listen:listen_command",
        "demo": "service.cli.demo:demo_command",
        "spec": "service.cli.spec:spec_command",
        "settings": "service.cli.configuration:settings_command",
        "encryption-key": "service.cli.configuration:encryption_key_command",
    }
)
"""Where each command is: its module and its name there."""

EPILOG = """\
`invoices COMMAND --help` explains a command, and `invoices settings` lists the INVOICES_* variables
that set everything else.

\b
Start here:             invoices serve --dev
Then documentation is:  http://127.0.0.1:8080/api/docs
"""


class CommandLine(WholeHelpGroup):
    """A group whose commands end with one sentence and a status where a person can act on it."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """
        Run the command that is named; errors of ours become an exit status.

        One of them is a callback whose expression does not parse: it is refused where it is
        declared, while the modules of the command are imported.
        """
        open_standard_streams()
        try:
            return super().main(*args, **extra)
        except ConfigurationError as error:
            message, status = str(error), WRONG_USAGE
        except (InvoicesError, OSError, ValueError) as error:
            message, status = str(error), FAILED
        click.echo(message, err=True)
        sys.exit(status)


@click.group(
    cls=CommandLine,
    commands=LazyCommands(COMMANDS),
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name="invoices")
def main() -> None:
    """Accept invoices, collect them, and call the API user back."""
