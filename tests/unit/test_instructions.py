"""The benchmark of instructions: what it needs, and how it reads what callgrind has counted."""

import subprocess
import sys

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.instructions import PROGRAMS, counted_in, missing_programs

DUMP = """# callgrind format
version: 1
creator: callgrind-3.19.0
part: {part}
thread: {thread}
events: Ir

fn=(1) main
1 {total}

totals: {total}
"""


def write_dump(folder, part, thread, total):
    """Write what callgrind writes for one thread and one part."""
    text = DUMP.format(part=part, thread=thread, total=total)
    (folder / f"callgrind.{part}-{thread:02}").write_text(text)


def test_the_threads_of_a_part_are_added(tmp_path):
    """A part has the instructions of all its threads, and of no other part."""
    write_dump(tmp_path, 1, 1, 700)
    write_dump(tmp_path, 1, 2, 42)
    write_dump(tmp_path, 2, 1, 5)

    assert 742 == counted_in(tmp_path, 1)
    assert 5 == counted_in(tmp_path, 2)


def test_a_part_that_was_not_written_is_an_error(tmp_path):
    """Where callgrind has counted nothing, there is no figure: not a 0."""
    with pytest.raises(BenchmarkError, match="no part 2"):
        counted_in(tmp_path, 2)


def test_missing_programs_are_named(tmp_path, monkeypatch):
    """Only the programs that are not installed are named."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(PROGRAMS) == missing_programs()

    (tmp_path / "valgrind").write_text("#!/bin/sh\n")
    (tmp_path / "valgrind").chmod(0o755)
    assert ["callgrind_control"] == missing_programs()


def test_without_its_programs_it_says_what_to_install(tmp_path):
    """Without valgrind it ends at once, and names the package."""
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.instructions"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert 1 == ended.returncode
    assert "not installed: valgrind, callgrind_control (apt-get install valgrind)\n" == ended.stderr
