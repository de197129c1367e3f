"""
Why the file of an SQLite database cannot be used, where the file system is the reason.

SQLite only says that it cannot open or write the file. Usually the folder is missing, or belongs to
another user than the one that runs the process: a folder of the host in a container, for example.
Of a file that was deleted or moved it says nothing: with a write-ahead log it goes on writing to
what no path leads to, and all of that is gone when the process ends.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

LOOK_SECONDS = 1
"""How often is looked where the path of an open file leads to."""

BESIDE = ("", "-wal", "-shm", "-serving")
"""What the names of the files of a database end with."""


def obstacle(database: str) -> str:
    """What keeps this process from the file *database*, as the end of a sentence; often nothing."""
    path = Path(database).absolute()
    folder = path.parent
    if not folder.is_dir():
        return f"; there is no folder {folder}, which INVOICES_DATABASE_URL names"
    if path.is_dir():
        return "; INVOICES_DATABASE_URL must name a file, and this is a folder"
    is_effective = os.access in os.supports_effective_ids
    refused = [
        one
        for one in (folder, *(path.with_name(path.name + end) for end in BESIDE))
        if one.exists() and not os.access(one, os.R_OK | os.W_OK, effective_ids=is_effective)
    ]
    if refused:
        return f"; user {os.geteuid()}, who runs this process, must be able to write {refused[0]}"
    return ""


_REPAIR = "Nothing is written until it is back; to go on with another file, restart the service."


class OpenFile:
    """
    The file *path* while it is open elsewhere in this process, until `close`.

    It is opened in a way that neither reads nor writes, and that leaves the locks of SQLite alone:
    no other file gets its number meanwhile. Where the system has no such way, nothing is noticed.

    Any thread may ask for the `obstacle`, also while another one closes.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._opened: os.stat_result | None = None
        self._look_at = 0.0
        if way := getattr(os, "O_PATH", None):
            with suppress(OSError):
                self._descriptor = os.open(path, way)
                self._opened = os.fstat(self._descriptor)

    def obstacle(self) -> str:
        """
        What has happened to the path, as a sentence; empty while it leads to the file.

        It is looked at after `LOOK_SECONDS` again, or at every call while something has happened.
        """
        now, opened = time.monotonic(), self._opened
        if now < self._look_at or opened is None:
            return ""
        try:
            found = Path(self._path).stat()
        except OSError:
            return f"{self._path} was deleted or moved. {_REPAIR}"
        if not os.path.samestat(found, opened):
            return f"{self._path} was replaced by another file. {_REPAIR}"
        self._look_at = now + LOOK_SECONDS
        return ""

    def close(self) -> None:
        """Forget the file."""
        self._opened = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
