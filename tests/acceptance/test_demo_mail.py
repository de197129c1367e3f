"""`invoices demo --mail`: an invoice in the outbox, a page to decline it on, and a callback."""

import asyncio
import re
import sys
from pathlib import Path

import aiohttp

from tests.clock import PATIENCE_SECONDS
from tests.processes import environment, free_port

ROOT = Path(__file__).parents[2]


async def printed(process, pattern):
    """What *process* prints, up to the first line with *pattern*."""
    lines = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (lines and re.search(pattern, lines[-1])):
            line = await process.stdout.readline()
            assert line, "".join(lines)
            lines.append(line.decode())
    return "".join(lines)


async def test_a_mailed_invoice_is_declined_by_hand(tmp_path):
    """The mail is in the outbox, its link opens, and a decline calls back with `paid: false`."""
    settings = {"PORT": str(free_port()), "MAIL_OUTBOX": str(tmp_path / "outbox")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "demo", "--mail"),
        cwd=ROOT,
        env=environment(**settings) | {"PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        shown = await printed(process, "Everything keeps running")
        (mail,) = (tmp_path / "outbox").glob("*.eml")
        url = re.search(r"pays at +(\S+)", shown)[1]
        async with aiohttp.ClientSession() as session:
            async with session.get(url) as page:
                assert "$9,999.00" in await page.text()
            async with session.post(f"{url}/sandbox", data={"ending": "declined"}) as page:
                assert "has failed" in await page.text()
        called = await printed(process, "answered")
    finally:
        process.terminate()
        await process.wait()

    assert str(mail) in shown
    assert '"paid":false' in called
