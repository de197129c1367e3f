"""A group that imports a command when it is named, and shows the help of all without cutting it."""

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module

import click

LONGEST = 1000
"""More characters than the first sentence of any command has; click's own limit is 45."""


class LazyCommands(MutableMapping[str, click.Command]):
    """Commands by name; each is imported from its place, `module:name`, when it is read."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places
        self._commands: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._commands:
            module, _, attribute = self._places[name].partition(":")
            self._commands[name] = getattr(import_module(module), attribute)
        return self._commands[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._commands[name] = command

    def __delitem__(self, name: str) -> None:
        del self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._places, **self._commands})

    def __len__(self) -> int:
        return len({**self._places, **self._commands})


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
