"""
Why the file of an SQLite database cannot be used, where the file system is the reason.

SQLite only says that it cannot open or write the file. Usually the folder is missing, or belongs to
another user than the one that runs the process: a folder of the host in a container, for example.
"""

import os
from pathlib import Path

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
