"""Temporary folders: one for each measurement, so that none finds what another left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder, readable by servers that give up their privileges; gone after the block."""
    with TemporaryDirectory(prefix="invoices-benchmark-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)
