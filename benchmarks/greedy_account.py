"""
A greedy account, in a process of its own: `greedy_account URL KIND`, until it is ended.

It does one thing as often as the service lets it, over a few connections.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping

import aiohttp

CONNECTIONS = 4

READS: Mapping[str, tuple[str, ...]] = {
    "large lists": ("/deliveries?limit=200", "/invoices/?limit=200"),
    "filters that match nothing": (
        "/deliveries?until=2001-01-01T00:00:00Z",
        "/deliveries?origin=https://nobody.example",
        "/invoices/?status=received",
    ),
}
"""What is read again and again."""

UNKNOWN_FIELDS = "unknown fields"
BODY = json.dumps({f"{number:04x}": 1 for number in range(5_000)})
"""Below the limit of a body."""

BODIES_PER_SECOND = 9

KINDS = (*READS, UNKNOWN_FIELDS)


async def read(session: aiohttp.ClientSession, paths: tuple[str, ...]) -> None:
    """Read *paths* in turn, without a pause."""
    while True:
        for path in paths:
            async with session.get(path) as answer:
                await answer.read()


async def send(session: aiohttp.ClientSession) -> None:
    """Send a body of unknown fields, some times a second."""
    headers = {"Content-Type": "application/json"}
    while True:
        async with session.post("/invoices/", data=BODY, headers=headers) as answer:
            await answer.read()
        await asyncio.sleep(CONNECTIONS / BODIES_PER_SECOND)


async def main(url: str, kind: str) -> None:
    """Be greedy in one way."""
    async with aiohttp.ClientSession(url) as session, asyncio.TaskGroup() as tasks:
        for _ in range(CONNECTIONS):
            tasks.create_task(read(session, READS[kind]) if kind in READS else send(session))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
