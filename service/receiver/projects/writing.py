"""A project for a receiver: its templates, rendered from the receiver's document into a folder."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from service.receiver.projects.identifiers import pascal
from service.receiver.projects.inbound import inbound_callbacks
from service.receiver.projects.languages import (
    LANGUAGES,
    Language,
    is_json,
    placeholders,
    sql_type,
)
from service.receiver.projects.literals import literal, python_literal
from service.receiver.projects.routes import example_path, path_literals

TEMPLATES = Path(__file__).parent
SUFFIX = ".jinja"
COMMENT_COLUMNS = 96

PORT = 9000
"""Where a project listens unless it is told otherwise."""


class FolderNotEmpty(ValueError):
    """A project is written into an empty folder only."""


def write_project(
    language: str,
    folder: Path,
    document: Mapping[str, Any],
    vectors: Mapping[str, Any],
    development_secret: str,
) -> None:
    """
    Write a project in *language*, a name of `LANGUAGES`, into *folder*, which is made if missing.

    *development_secret* is used on a laptop where no secret is set.

    Raises:
        FolderNotEmpty: *folder* has something in it, or is no folder.
        DeclarationError: *document* has a callback that *language* cannot receive.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FolderNotEmpty(f"{folder} exists and is not an empty folder.")
    # Everything is rendered before anything is written.
    files = dict(rendered_project(language, document, vectors, development_secret))
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if text.startswith("#!"):
            path.chmod(0o755)


def rendered_project(
    language: str,
    document: Mapping[str, Any],
    vectors: Mapping[str, Any],
    development_secret: str,
) -> Iterator[tuple[str, str]]:
    """The files of a project: the path below its folder, and the text."""
    environment = _environment(LANGUAGES[language])
    callbacks = inbound_callbacks(document)
    values = {
        "callbacks": callbacks,
        # Several callbacks may send the same event.
        "events": [*{one.event: one for one in reversed(callbacks)}.values()][::-1],
        "fields": [field for one in callbacks for field in one.fields],
        "port": PORT,
        "development_secret": development_secret,
    }
    for name in environment.list_templates(extensions=[SUFFIX.strip(".")]):
        yield name.removesuffix(SUFFIX), environment.get_template(name).render(values)
    yield "openapi.json", _as_json(document)
    yield "vectors.json", _as_json(vectors)


def _environment(language: Language) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([TEMPLATES / folder for folder in reversed(language.folders)]),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 -- programs are written, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "comment": _comment,
        "example_path": example_path,
        "is_json": is_json,
        "literal": literal,
        "pascal": pascal,
        "path_literals": path_literals,
        "placeholders": placeholders,
        "python_literal": python_literal,
        "sql_type": sql_type,
        **language.filters,
    }
    return environment


def _comment(text: str, prefix: str) -> str:
    """*text* as lines that begin with *prefix*; no text ends a comment of any language."""
    plain = " ".join(text.split()).replace("\\", "/").replace("*/", "* /").replace('"""', "'")
    return textwrap.fill(plain, COMMENT_COLUMNS, initial_indent=prefix, subsequent_indent=prefix)


def _as_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
