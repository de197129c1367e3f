"""Prometheus' own tool, which reads rules as Prometheus does."""

from __future__ import annotations

import subprocess
from pathlib import Path

PROMTOOL = Path("/usr/bin/promtool")


def missing():
    """What a machine lacks to run these tests; None where it has everything."""
    return None if PROMTOOL.exists() else f"{PROMTOOL} missing"


def promtool(*arguments):
    """What the tool says, and whether it is content."""
    done = subprocess.run(
        [PROMTOOL, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode == 0, done.stdout + done.stderr
