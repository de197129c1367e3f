"""Idle connections to receivers: bounded, counted, and closed if there are no descriptors left."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

from service.delivery.egress import EgressPolicy
from service.delivery.sender import OutgoingRequest, Sender
from service.development import DEV_NETWORKS
from tests.clock import PATIENCE_SECONDS

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"ok": true}'


class Keeping:
    """A receiver that keeps its connections open, and counts them."""

    def __init__(self):
        self.made = 0
        self.open = 0
        self.has_changed = asyncio.Event()

    @asynccontextmanager
    async def listening(self):
        """Serve on a port."""
        tasks = set()

        async def serve(reader, writer):
            tasks.add(asyncio.current_task())
            self.made += 1
            self.open += 1
            try:
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(2)
                    writer.write(OK)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                self.open -= 1
                self.has_changed.set()
                writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        finally:
            server.close()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def is_closed(self):
        """Wait until no connection is open."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.open:
                self.has_changed.clear()
                await self.has_changed.wait()


@asynccontextmanager
async def sending(count, kept_max):
    """A sender that keeps few connections, and *count* receivers with their URLs."""
    receivers = [Keeping() for _ in range(count)]
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(one.listening()) for one in receivers]
        sender = Sender(EgressPolicy(DEV_NETWORKS), timeout_seconds=5, kept_max=kept_max)
        await stack.enter_async_context(sender)
        yield sender, receivers, urls


async def send(sender, url):
    """Send one request that is acknowledged."""
    answer = await sender.send(OutgoingRequest(url, "POST", {}, b"{}"))
    assert 200 == answer.status_code


async def test_the_longest_idle_connection_is_closed_for_another_one():
    """At the limit, the connection that has been idle longest goes first."""
    async with sending(3, kept_max=2) as (sender, receivers, urls):
        for url in (urls[0], urls[1], urls[0], urls[2]):
            await send(sender, url)
        await receivers[1].is_closed()

        assert [1, 0, 1] == [one.open for one in receivers]
        assert [1, 1, 1] == [one.made for one in receivers]
        assert 2 == sender.kept_count


async def test_a_closed_connection_is_replaced():
    """A receiver whose idle connection was closed gets a new one."""
    async with sending(3, kept_max=2) as (sender, receivers, urls):
        for url in (*urls, *urls):
            await send(sender, url)

        assert [2, 2, 2] == [one.made for one in receivers]


async def test_a_connection_in_use_is_not_kept():
    """What is in use is not counted, and is not closed for another one."""
    async with sending(1, kept_max=4) as (sender, receivers, urls):
        await asyncio.gather(*(send(sender, urls[0]) for _ in range(3)))
        assert receivers[0].made == sender.kept_count
        await send(sender, urls[0])

        assert 3 == receivers[0].made == sender.kept_count


async def test_a_connection_that_its_receiver_closes_is_not_counted():
    """The count is of connections that are open."""
    async with sending(2, kept_max=4) as (sender, receivers, urls):
        await send(sender, urls[0])
        await send(sender, urls[1])
        sender.close_kept()
        await receivers[0].is_closed()

        assert 1 == sender.kept_count
        assert 1 == receivers[1].open
