"""The help of the command line is complete, and names only things that exist."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from service.__main__ import main

SERVICE = Path(__file__).parents[2] / "service"


def commands_in(group, *path):
    """Every command below *group*, itself included, with the words of its call."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands_in(command, *path, name)


COMMANDS = dict(commands_in(main))
OPTIONS = [
    pytest.param(option, id=" ".join((*path, option.opts[0])))
    for path, command in COMMANDS.items()
    for option in command.params
    if isinstance(option, click.Option) and not option.hidden
]


def help_of(*path):
    """What `invoices … --help` prints on a terminal of 80 columns."""
    shown = CliRunner().invoke(main, [*path, "--help"], terminal_width=80)
    assert 0 == shown.exit_code
    return shown.stdout


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "invoices")
def test_no_line_is_cut_off(path):
    """Each command is listed with its whole first sentence, on lines that fit a terminal."""
    text = help_of(*path)
    words = " ".join(text.split())

    assert "..." not in words.replace("[ARGS]...", "")
    assert [] == [line for line in text.splitlines() if len(line) > 80]
    for command in getattr(COMMANDS[path], "commands", {}).values():
        sentence = " ".join(command.help.strip().split("\n\n")[0].split())
        assert sentence.split(". ")[0].rstrip(".") in words


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_has_a_meaning_and_its_default(option):
    """The help of every option has its meaning and its default."""
    assert option.help
    assert option.is_flag or option.required or option.show_default


def test_the_help_names_the_settings_and_the_documentation():
    """The help ends with the command for the settings and the URL of the documentation."""
    text = help_of()

    assert "`invoices settings`" in text
    assert "http://127.0.0.1:8080/api/docs" in text


def test_no_output_names_a_file_of_the_repository():
    """Output names commands and URLs only, because an installed package has no docs/ folder."""
    texts = [(path, path.read_text(encoding="utf-8")) for path in (SERVICE / "cli").rglob("*.py")]

    assert [] == [path.name for path, text in texts if re.search(r"\bdocs/\w+\.md", text)]
    assert [] == [path for path in COMMANDS if re.search(r"\bdocs/\w+\.md", help_of(*path))]
