"""The feed over several processes, and the program of the guide that follows it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

from tests.acceptance.following import follow
from tests.processes import DEADLINE_SECONDS, environment, serving, until

GUIDE = Path(__file__).parents[2] / "docs/guide.md"


async def test_readers_skip_nothing_while_several_processes_write(tmp_path, postgres_url):
    """Each reader is told every event once and in order, wherever it begins again."""
    readers, events, wrong = await follow(tmp_path, postgres_url, seconds=4)

    assert [] == wrong
    assert len(events) > 20
    assert all(reader.again_count for reader in readers)


def printed_program():
    """The program that the guide prints."""
    page = GUIDE.read_text(encoding="utf-8")
    (code,) = re.findall(r"^## Catching up.*?^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return code


class Program:
    """The program of the guide, run in a folder of its own."""

    def __init__(self, folder, url):
        self._folder = folder
        self._env = environment() | {"API_URL": url, "API_KEY": "none"}
        (folder / "follow.py").write_text(printed_program(), encoding="utf-8")

    async def handles(self, count, cursor):
        """Run it until it has handled *count* events and stored *cursor*; returns their ids."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-u", "follow.py"),
            cwd=self._folder,
            env=self._env,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                lines = [await process.stdout.readline() for _ in range(count)]
            await until(lambda: self._has_stored(cursor))
            return [json.loads(line)["id"] for line in lines]
        finally:
            process.kill()
            await process.wait()

    async def _has_stored(self, cursor):
        state = self._folder / "follow.json"
        return state.exists() and state.read_text(encoding="utf-8") == json.dumps(cursor)


async def test_the_program_of_the_guide_follows_the_feed(tmp_path):
    """It handles every event once, also after it was stopped and started again."""
    async with serving(tmp_path) as service:
        program, handled = Program(tmp_path, service.url), []
        for name, count in {"a": 3, "b": 2}.items():
            for number in range(count):
                await service.send(f"{name}{number}")
            await service.at_rest()
            page = await service.get("/events")
            handled += await program.handles(count, page["next"])

    assert [one["id"] for one in page["items"]] == handled
