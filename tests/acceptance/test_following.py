"""The feed over several processes, and the program of the guide that follows it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

from tests.acceptance.following import follow
from tests.processes import DEADLINE_SECONDS, environment, serving

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

    async def handles(self, count):
        """Run it until it has handled *count* events, and kill it then; returns their ids."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-u", "follow.py"),
            cwd=self._folder,
            env=self._env,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                return [json.loads(await process.stdout.readline())["id"] for _ in range(count)]
        finally:
            process.kill()
            await process.wait()


async def test_the_program_of_the_guide_follows_the_feed(tmp_path):
    """It handles every event once, also after it was stopped and started again."""
    async with serving(tmp_path) as service:
        program = Program(tmp_path, service.url)
        for number in range(3):
            await service.send(f"a{number}")
        await service.at_rest()
        first = await program.handles(3)
        for number in range(2):
            await service.send(f"b{number}")
        await service.at_rest()
        second = await program.handles(2)
        told = [one["id"] for one in (await service.get("/events"))["items"]]

    assert told == first + second
