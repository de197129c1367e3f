"""
Follows the feed while several processes write: `python -m tests.acceptance.following`.

Clients send invoices to several services on one PostgreSQL, and void some of them at another one.
Readers follow the feed at any of the services, and begin again at random at an earlier cursor. At
the end each reader has seen every event once, those of an invoice in their order, and was told the
same each time. The exit status is 1 if one has not.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from tempfile import TemporaryDirectory

import aiohttp
import click

from tests.postgres import PostgresServer, new_database
from tests.processes import starting

LIMIT_MAX = 40
WAIT_SECONDS = 2
AGAIN_SHARE = 0.3
"""The share of requests that begin again at an earlier cursor."""

CLIENTS_PER_SERVICE = 2


class Reader:
    """Follows the feed, and keeps what it was told and where."""

    def __init__(self, services, session, chance):
        self._services = services
        self._session = session
        self._chance = chance
        self.items = []
        self.cursors = [(None, 0)]
        self.again_count = 0
        self.wrong = []

    async def follow(self, has_ended):
        """Read pages until *has_ended* is set and nothing comes any more."""
        while True:
            is_last = has_ended.is_set()
            if self._chance.random() < AGAIN_SHARE:
                await self._read_again()
            items, after = await self._page(self.cursors[-1][0])
            if is_last and not items:
                return
            self.items += items
            self.cursors.append((after, len(self.items)))

    async def _read_again(self):
        """What follows an earlier cursor is the same as it was."""
        after, start = self._chance.choice(self.cursors)
        items, _ = await self._page(after)
        known = self.items[start : start + len(items)]
        self.again_count += 1
        if known != items[: len(known)]:
            self.wrong.append(f"behind {after} was {known}, and is {items}")

    async def _page(self, after):
        params = {
            "limit": self._chance.randint(1, LIMIT_MAX),
            "wait": self._chance.randint(0, WAIT_SECONDS),
            **({"after": after} if after else {}),
        }
        url = self._chance.choice(self._services).url
        async with self._session.get(f"{url}/events", params=params) as answer:
            told = await answer.json()
            assert 200 == answer.status, told
            return told["items"], told["next"]


async def write(services, session, chance, name, has_ended):
    """Send invoices to one service after another, and void some at another one."""
    number = 0
    while not has_ended.is_set():
        number += 1
        id_, declined = f"{name}-{number}", "Acme+declined"
        one, other = chance.choices(services, k=2)
        status, _ = await one.send(id_, customer=chance.choice(["Acme", declined, declined]))
        assert 202 == status
        if chance.random() < 0.5:
            async with session.post(f"{other.url}/invoices/{id_}/void") as answer:
                assert answer.status in {200, 409}, await answer.text()


async def stored(service):
    """The descriptions of the events of every invoice, by its id."""
    found, path = {}, "/invoices/?limit=200"
    while path:
        page = await service.get(path)
        for one in page["items"]:
            found[one["id"]] = [event["description"] for event in one["events"]]
        path = page["next"] and f"/invoices/?limit=200&after={page['next']}"
    return {id_: events for id_, events in found.items() if events}


def differences(reader, events):
    """What *reader* was told that differs from the *events* that are stored."""
    told = defaultdict(list)
    for item in reader.items:
        told[item["invoice_id"]].append(item["body"]["description"])
    ids = [item["id"] for item in reader.items]
    wrong = list(reader.wrong)
    if len(ids) != len(set(ids)):
        wrong.append(f"{len(ids) - len(set(ids))} items were told twice")
    for id_ in told.keys() | events.keys():
        if told.get(id_, []) != events.get(id_, []):
            wrong.append(f"{id_} has {events.get(id_)}, and {told.get(id_)} was told")
    return wrong


async def follow(folder, url, *, seconds, services=3, readers=3, seed=0):
    """
    Write for *seconds* with that many services, while that many readers follow.

    Returns the readers, the stored events, and what is wrong.
    """
    chance, written, ended = random.Random(seed), asyncio.Event(), asyncio.Event()
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(starting(folder, database_url=url))
            for _ in range(services)
        ]
        await asyncio.gather(*(one.logged("service.started") for one in running))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        followers = [
            Reader(running, session, random.Random(chance.random())) for _ in range(readers)
        ]
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(one.follow(ended)) for one in followers]
            writing = [
                tasks.create_task(
                    write(running, session, random.Random(chance.random()), f"w{n}", written)
                )
                for n in range(services * CLIENTS_PER_SERVICE)
            ]
            await asyncio.sleep(seconds)
            written.set()
            await asyncio.wait(writing)
            await running[0].at_rest()
            ended.set()
            await asyncio.wait(reading)
        events = await stored(running[0])
    return followers, events, [text for one in followers for text in differences(one, events)]


async def run(seconds, services, readers, seed):
    """Follow on a server of its own; returns the lines to print, and whether all is well."""
    begun = time.monotonic()
    with PostgresServer() as server, new_database(server) as url, TemporaryDirectory() as folder:
        followers, events, wrong = await follow(
            folder, url, seconds=seconds, services=services, readers=readers, seed=seed
        )
    yield f"seed {seed}: {services} services wrote for {seconds} s"
    yield f"{sum(map(len, events.values()))} events of {len(events)} invoices"
    yield f"{len(followers)} readers began again {sum(one.again_count for one in followers)} times"
    yield f"{len(wrong)} differences in {time.monotonic() - begun:.0f} s"
    for text in wrong[:20]:
        yield text
    if wrong:
        raise SystemExit(1)


@click.command()
@click.option("--seconds", default=300.0)
@click.option("--services", default=8)
@click.option("--readers", default=8)
@click.option("--seed", default=0)
def main(seconds, services, readers, seed):
    """Follow the feed while several services write, and compare."""

    async def show():
        async for line in run(seconds, services, readers, seed):
            print(line, file=sys.stdout, flush=True)  # noqa: T201 -- what a person asked for

    asyncio.run(show())


if __name__ == "__main__":
    main()
