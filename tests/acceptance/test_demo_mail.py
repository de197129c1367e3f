"""`invoices demo --mail`: an invoice in the outbox, a page to decline it on, and a callback."""

import asyncio
import re
import sys
from contextlib import suppress

import aiohttp

from tests.processes import DEADLINE_SECONDS, ROOT, environment, free_port


async def printed(process, pattern):
    """What *process* prints, up to the first line with *pattern*; all of it if none comes."""
    shown = ""
    with suppress(TimeoutError):
        # The start of an interpreter is among what is waited for.
        async with asyncio.timeout(DEADLINE_SECONDS):
            while line := await process.stdout.readline():
                shown += line.decode()
                if re.search(pattern, line.decode()):
                    return shown
    raise AssertionError(f"{pattern!r} was not printed: {shown}")


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
