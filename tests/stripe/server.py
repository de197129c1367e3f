"""
The fake of Stripe over HTTP, behind Stripe's own judge of parameters.

`stripe-mock` refuses what Stripe's schema does not allow; it keeps nothing, so that the answer
comes from the fake. `make test` builds it where the machine has Go.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import threading
from collections import deque
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from aiohttp import ClientSession, web

from tests.stripe.fake import Cut

STRIPE_MOCK = Path(__file__).parent / "go/bin/stripe-mock"
START_SECONDS = 20

MISSING = f"{STRIPE_MOCK.name} missing: `make test` builds it where Go is"


@contextmanager
def stripe_mock():
    """The URL of a running stripe-mock."""
    # Without an address for HTTPS it takes a port of its own, which another one may have.
    command = [STRIPE_MOCK, "-http-addr", "127.0.0.1:0", "-https-addr", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        try:
            for line in process.stdout:
                if match := re.search(r"HTTP at .*127\.0\.0\.1:(\d+)", line):
                    # It writes a line for each request, and stops when the pipe is full.
                    reading = threading.Thread(target=deque, args=(process.stdout, 0))
                    reading.start()
                    try:
                        yield f"http://127.0.0.1:{match[1]}"
                    finally:
                        process.kill()
                        reading.join()
                    return
            raise AssertionError("stripe-mock ended without a port")
        finally:
            process.kill()


@asynccontextmanager
async def served(fake, judge=None, *, stalls=False):
    """
    The URL of *fake*; requests go to *judge* first, the URL of a stripe-mock.

    With *stalls*, the body of an answer never ends.
    """
    async with ClientSession() as session:

        async def answer(request):
            body = await request.read()
            if judge:
                refusal = await judged(session, judge, request, body)
                if refusal:
                    return refusal
            text = body.decode() if request.method == "POST" else request.query_string
            try:
                status, content = fake.answer(request.method, request.path, text, request.headers)
            except Cut:
                request.transport.abort()
                raise
            if stalls:
                response = web.StreamResponse(headers={"Content-Length": "10000"})
                await response.prepare(request)
                await response.write(b"{")
                await asyncio.Event().wait()
            return web.json_response(content, status=status)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            ((_, port),) = runner.addresses
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()


async def judged(session, judge, request, body):
    """What stripe-mock has against a request, as a response; None if nothing."""
    headers = {
        name: request.headers[name]
        for name in ("Authorization", "Content-Type", "Idempotency-Key")
        if name in request.headers
    }
    # stripe-mock wants the key of a test account, and an object of every id.
    headers["Authorization"] = "Bearer sk_test_123"
    url = f"{judge}{request.rel_url}"
    async with session.request(request.method, url, data=body, headers=headers) as found:
        if found.status == 200:
            return None
        return web.Response(status=found.status, body=await found.read())
