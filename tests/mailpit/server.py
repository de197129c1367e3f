"""A mailpit of its own for a test: a real mail server that fails as often as it is told."""

from __future__ import annotations

import subprocess
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from aiohttp import ClientError, ClientSession, ClientTimeout

from tests.processes import free_port, until

MAILPIT = Path(__file__).parent / "go/bin/mailpit"

MISSING = f"{MAILPIT.name} missing: `make test` builds it where Go is"

LIMIT = 500
"""The most messages that it keeps, and that are asked for."""


class Mailpit:
    """A running mailpit; `chaos` tells it how often to fail."""

    def __init__(self, session, smtp_port):
        self.smtp_port = smtp_port
        self._session = session

    async def chaos(self, **triggers):
        """Fail from now on: each of *triggers* is a code and a percentage."""
        body = {
            name: {"ErrorCode": code, "Probability": percentage}
            for name, (code, percentage) in triggers.items()
        }
        async with self._session.put("/api/v1/chaos", json=body) as response:
            assert 200 == response.status, await response.text()

    async def messages(self):
        """What has arrived: the address and the Message-ID of each message."""
        async with self._session.get("/api/v1/messages", params={"limit": LIMIT}) as response:
            found = await response.json()
        return [(one["To"][0]["Address"], f"<{one['MessageID']}>") for one in found["messages"]]

    async def is_ready(self):
        """Whether it answers."""
        try:
            async with self._session.get("/readyz") as response:
                return response.status == 200
        except ClientError:
            return False


@asynccontextmanager
async def mailpit(folder):
    """Run a mailpit, which takes every login, inside the block; its database is in *folder*."""
    http_port, smtp_port = free_port(), free_port()
    command = [
        MAILPIT,
        *("--listen", f"127.0.0.1:{http_port}", "--smtp", f"127.0.0.1:{smtp_port}"),
        *("--database", folder / "mailpit.db", "--max", str(LIMIT), "--quiet"),
        *("--smtp-auth-accept-any", "--smtp-auth-allow-insecure", "--smtp-disable-rdns"),
        *("--enable-chaos", "--disable-version-check"),
    ]
    url, timeout = f"http://127.0.0.1:{http_port}", ClientTimeout(total=20)
    with _running(command):
        async with ClientSession(url, timeout=timeout) as session:
            running = Mailpit(session, smtp_port)
            await until(running.is_ready)
            yield running


@contextmanager
def _running(command):
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()
