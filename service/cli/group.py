"""A group of commands that shows the help of its commands without cutting it."""

import click

LONGEST = 1000
"""More characters than the first sentence of any command has; click's own limit is 45."""


class WholeHelpGroup(click.Group):
    """Shows the whole first sentence of each command, on several lines where it needs them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names of the commands, each with its first sentence."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, command.get_short_help_str(LONGEST))
            for name, command in commands
            if command and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
