"""
What another account notices of a greedy one: its answers and callbacks, alone and beside it.

The greedy account is that of the rows; the other one has a key of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from statistics import quantiles

import aiohttp

from benchmarks.bursts import new_run
from benchmarks.errors import BenchmarkError
from benchmarks.folders import temporary_folder
from benchmarks.greedy_account import KINDS
from benchmarks.hanging import hanging_urls
from benchmarks.history import delivered_rows
from benchmarks.load import Order, send
from benchmarks.part import Figures, Setting
from benchmarks.processes import ROOT, python, started
from benchmarks.receiver import Receiver
from benchmarks.services import Running, running

PER_SECOND = 20
WARM_UP_COUNT = 20
COUNT = 100
"""Few enough for a short run; the p99 of so many callbacks is nearly the slowest of them."""

HANGING_COUNT = 8_000
HANGING = "invoices for receivers that hang"
ANSWERING = "invoices for a receiver that answers"
ENCRYPTION_KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
"""Of the databases of this part, which hold nothing secret."""


def greedy(at: Setting) -> Figures:
    """The p99 of another account's answers and callbacks, alone and beside each greedy one."""
    many = max(at.history_counts)
    # The same rows as those of the history: they are made once for both.
    rows = delivered_rows(many, at.receiver)
    with temporary_folder() as folder, at.store.filled(rows, folder) as url:
        service = replace(
            at.service,
            settings={**at.service.settings, "INVOICES_ENCRYPTION_KEY": ENCRYPTION_KEY},
        )
        key = _added_account(url)
        with running(service, folder, url) as target:
            for beside in (None, *KINDS, ANSWERING, HANGING):
                words = f"beside {beside}" if beside else f"alone, {many:,} rows of another"
                with _being_greedy(at, target, beside):
                    answers, callbacks = asyncio.run(_measure(at, target, key))
                yield f"p99 ms of an account's answers, {words}", answers
                yield f"p99 ms of an account's callbacks, {words}", callbacks


def _added_account(database_url: str) -> str:
    """The key of a new account."""
    settings = {
        "INVOICES_DATABASE_URL": database_url,
        "INVOICES_ENCRYPTION_KEY": ENCRYPTION_KEY,
    }
    command = python("service", "accounts", "add", "other", "--json")
    made = subprocess.run(
        command, env={**os.environ, **settings}, cwd=ROOT, capture_output=True, check=False
    )
    if made.returncode:
        raise BenchmarkError(f"no account could be added: {made.stderr.decode()}")
    key: str = json.loads(made.stdout)["key"]
    return key


@contextmanager
def _being_greedy(at: Setting, target: Running, kind: str | None) -> Iterator[None]:
    """The greedy account at work, in the way of *kind*."""
    if kind in KINDS:
        command = python("benchmarks.greedy_account", target.url, kind)
        with started(command, target.folder / "greedy.log"):
            time.sleep(1)
            yield
        return
    with hanging_urls() if kind == HANGING else nullcontext((at.receiver.url,)) as urls:
        if kind:
            count = HANGING_COUNT if kind == HANGING else 10 * HANGING_COUNT
            send(
                Order(target.url, new_run(), min(count, int(400 * at.seconds)), urls), target.folder
            )
        yield


async def _measure(at: Setting, target: Running, key: str) -> tuple[float, float]:
    """The p99 in ms of the answers, and of the callbacks behind the 202."""
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(target.url, headers=headers) as session:
        await _ask(session, at.receiver, WARM_UP_COUNT)
        answers, sent = await _ask(session, at.receiver, COUNT)
    run = next(iter(sent)).rpartition("-")[0]
    arrived = at.receiver.wait_for(run, len(sent), stalled_seconds=60)
    delays = [arrived[name] - answered_at for name, answered_at in sent.items()]
    return _p99_ms(answers), _p99_ms(delays)


async def _ask(
    session: aiohttp.ClientSession, receiver: Receiver, count: int
) -> tuple[list[float], dict[str, float]]:
    """Send *count* invoices, list and check readiness: the seconds of each, and when each 202."""
    run, seconds, sent = new_run(), list[float](), dict[str, float]()
    started_at = time.monotonic()
    for number in range(1, count + 1):
        name = f"{run}-{number}"
        invoice = {"id": name, "customer": "Mr. Richie Rich", "total": "9999"}
        for method, path, body in (
            ("POST", f"/invoices/?callback_url={receiver.url}", invoice),
            ("GET", "/deliveries?limit=50", None),
            ("GET", "/readyz", None),
        ):
            began = time.time()
            async with session.request(method, path, json=body) as answer:
                await answer.read()
                if answer.status >= 400:
                    raise BenchmarkError(f"{method} {path} was answered {answer.status}")
            seconds.append(time.time() - began)
            if method == "POST":
                sent[name] = began + seconds[-1]
        # Answers that take long do not make the measurement longer than it has to be.
        await asyncio.sleep(max(0.0, started_at + number / PER_SECOND - time.monotonic()))
    return seconds, sent


def _p99_ms(seconds: list[float]) -> float:
    return quantiles(seconds, n=100, method="inclusive")[98] * 1000
