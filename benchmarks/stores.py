"""The databases that the service is measured on: for each name, a new and empty one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def sqlite(folder: Path) -> str:
    """The URL of a file in *folder*."""
    return f"sqlite:///{folder / 'benchmark.db'}"


STORES: dict[str, Callable[[Path], str]] = {"SQLite": sqlite}
"""Every entry is a row of each table. A function makes a database and returns its URL."""
