"""The tool of Prometheus, which reads rules like Prometheus does."""

from __future__ import annotations

import subprocess
from pathlib import Path

PROMTOOL = Path("/usr/bin/promtool")


def missing():
    """The program that is missing on this machine; None if it is there."""
    return None if PROMTOOL.exists() else f"{PROMTOOL} missing"


def promtool(*arguments):
    """Whether the tool accepts its input, and its output."""
    done = subprocess.run(
        [PROMTOOL, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode == 0, done.stdout + done.stderr
