"""
`python -m benchmarks.road`: how much of the code one invoice passes through.

It starts the service in this process (SQLite, `--dev`, no sandbox delay), sends invoices until all
caches are filled, and records one more with a profile function in every thread: from its POST until
its delivery is settled. Several are recorded and the one with the fewest entries is shown, because
the timers of the loops can only add to it. What counts as ours is `service` and `schemas`, without
the migrations.

* An entry is a function of ours that starts, a coroutine of ours that resumes, or a value of ours
  (a dataclass or a named tuple) that is constructed.
* Functions are distinct code objects, comprehensions and lambdas included. Modules are theirs.
* A package is the first component below `service`, so a module at its root is one by itself;
  `schemas` is one package.
* A move is an entry in another package than the entry before it, in the order of execution: what
  a reader sees who steps through the code.
* Calls across borders are entries whose nearest caller of ours, libraries skipped, is in another
  package. Resumed coroutines are not called, so they do not count.
* Shapes are the distinct classes of the values that are constructed.
* Lines are all lines of the Python files, blank ones and comments included.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, is_dataclass
from datetime import timedelta
from ipaddress import ip_network
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import aiohttp
import click
import uvloop
from aiohttp import web

import schemas
import service
from service.app.process import DEVELOPMENT
from service.app.running import running
from service.settings import Settings

OURS = (service.__name__, schemas.__name__)

WARM_UP_COUNT = 20
RECORDED_COUNT = 5

QUIET_SECONDS = 0.2
"""No entry for this long means that the work is done; a commit takes a few milliseconds."""

WAITS_TO_RESUME = 0x20 | 0x80 | 0x200
"""Flags of the code of generators, coroutines and asynchronous generators."""

TARGETS = {
    "functions entered": 140,
    "modules entered": 32,
    "moves across package borders": 55,
    "shapes of the invoice and its delivery": 14,
    "Python files at the root of service/": 9,
    "production lines": 12_000,
}
"""What one person can keep in mind, by judgement; lines are a sum that should only shrink."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A function that starts or resumes, or a value that is constructed."""

    module: str
    name: str
    thread: str
    code: CodeType | None
    """None for a constructed value."""
    caller: tuple[str, str] | None
    """Module and name of the nearest caller of ours; None if only libraries are on the stack."""
    depth: int
    """Package borders between here and the first function of ours on the stack."""
    is_resumption: bool = False

    @property
    def package(self) -> str:
        """The package of ours that is entered."""
        return package_of(self.module)

    @property
    def border(self) -> tuple[str, str] | None:
        """The package of the caller and this one, if this is a call from another package."""
        if self.caller is None or self.is_resumption:
            return None
        border = package_of(self.caller[0]), self.package
        return None if border[0] == border[1] else border

    @property
    def called_by(self) -> str:
        """The nearest caller of ours, to be read; empty if there is none."""
        return _label(*self.caller) if self.caller else ""


class Recorder:
    """Records entries, as the profile function of every thread."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._last_entry_at = 0.0
        self.is_recording = False
        # By identity, and kept alive so that no other frame gets the same one.
        self._started: dict[int, FrameType] = {}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Observe this thread and those that start inside the block; record nothing yet."""
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    @contextmanager
    def recording(self) -> Iterator[list[Entry]]:
        """Record inside the block; the list grows meanwhile."""
        self.entries, self._started = [], {}
        self._last_entry_at = time.monotonic()
        self.is_recording = True
        try:
            yield self.entries
        finally:
            self.is_recording = False
            self._started.clear()

    async def quiet(self) -> None:
        """Return once there was no entry for `QUIET_SECONDS`."""
        while (remaining := self._last_entry_at + QUIET_SECONDS - time.monotonic()) > 0:  # noqa: ASYNC110 -- no event
            await asyncio.sleep(remaining)

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        """Add the entry that *frame* makes, if it makes one."""
        if not self.is_recording or event != "call":
            return
        module, code = _module_of(frame), frame.f_code
        value = _value_of(frame)
        if value is not None:
            self._add(frame, value.__module__, value.__qualname__, None)
        if module is None or code.co_filename == "<string>":
            return
        is_resumption = False
        if code.co_flags & WAITS_TO_RESUME:
            is_resumption = id(frame) in self._started
            self._started[id(frame)] = frame
        self._add(frame, module, code.co_qualname, code, is_resumption=is_resumption)

    def _add(
        self,
        frame: FrameType,
        module: str,
        name: str,
        code: CodeType | None,
        *,
        is_resumption: bool = False,
    ) -> None:
        callers = list(_callers_of(frame))
        packages = [package_of(module), *(package_of(caller) for caller, _ in callers)]
        self._last_entry_at = time.monotonic()
        self.entries.append(
            Entry(
                module=module,
                name=name.replace("<locals>.", ""),
                thread=threading.current_thread().name,
                code=code,
                caller=callers[0] if callers else None,
                depth=sum(a != b for a, b in pairwise(packages)),
                is_resumption=is_resumption,
            )
        )


def package_of(module: str) -> str:
    """The package of ours that *module*, a dotted name, belongs to."""
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == service.__name__ and rest else first


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in OURS and ".migrations" not in module


def _module_of(frame: FrameType) -> str | None:
    name = frame.f_globals.get("__name__") or ""
    return name if _is_ours(name) else None


def _callers_of(frame: FrameType) -> Iterator[tuple[str, str]]:
    """Module and name of each function of ours on the stack below *frame*, nearest first."""
    back = frame.f_back
    while back is not None:
        module = _module_of(back)
        if module is not None and back.f_code.co_filename != "<string>":
            yield module, back.f_code.co_qualname.replace("<locals>.", "")
        back = back.f_back


def _value_of(frame: FrameType) -> type | None:
    """The class of ours whose instance *frame* constructs, if it is a dataclass or named tuple."""
    code, value = frame.f_code, None
    if code.co_name == "__init__" and code.co_varnames:
        value = type(frame.f_locals[code.co_varnames[0]])
    elif code.co_filename.startswith("<string") and code.co_varnames[:1] == ("_cls",):
        value = frame.f_locals["_cls"]
    is_value = value is not None and (is_dataclass(value) or issubclass(value, tuple))
    return value if is_value and _is_ours(value.__module__) else None


def record() -> list[Entry]:
    """The entries of one warm invoice, in the order of execution."""
    recorder = Recorder()
    with recorder.installed(), tempfile.TemporaryDirectory() as folder:
        return uvloop.run(_record(recorder, Path(folder)))


async def _record(recorder: Recorder, folder: Path) -> list[Entry]:
    settings = Settings(
        port=0,
        database_url=f"sqlite:///{folder}/invoices.db",
        sandbox_delay=timedelta(0),
        callback_allow=(ip_network("127.0.0.0/8"),),
        callback_require_https=False,
        rate_limit=0,
    )
    async with (
        _receiver() as callback_url,
        running(settings, DEVELOPMENT) as process,
        aiohttp.ClientSession(f"http://127.0.0.1:{process.port}") as session,
    ):
        for number in range(WARM_UP_COUNT):
            await _send(session, f"warm-up-{number}", callback_url)
            await _settled(session, f"warm-up-{number}")
        recorded: list[list[Entry]] = []
        while len(recorded) < RECORDED_COUNT:
            invoice_id = f"recorded-{time.monotonic_ns()}"
            with recorder.recording() as entries:
                await _send(session, invoice_id, callback_url)
                await recorder.quiet()
            # Where a commit took longer than the quiet time, the entries are not complete.
            if await _is_settled(session, invoice_id):
                recorded.append(entries)
            await _settled(session, invoice_id)
    return min(recorded, key=len)


@asynccontextmanager
async def _receiver() -> AsyncIterator[str]:
    """A receiver that acknowledges every callback; its URL."""

    async def acknowledge(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"ok": True})

    application = web.Application()
    application.router.add_post("/{path:.*}", acknowledge)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _send(session: aiohttp.ClientSession, invoice_id: str, callback_url: str) -> None:
    invoice = {"id": invoice_id, "customer": "Mr. Richie Rich", "total": "9999"}
    query = {"callback_url": callback_url}
    async with session.post("/invoices/", params=query, json=invoice) as response:
        if response.status != 202:
            raise RuntimeError(f"{response.status}: {await response.text()}")


async def _settled(session: aiohttp.ClientSession, invoice_id: str) -> None:
    while not await _is_settled(session, invoice_id):  # noqa: ASYNC110 -- over HTTP
        await asyncio.sleep(0.01)


async def _is_settled(session: aiohttp.ClientSession, invoice_id: str) -> bool:
    async with session.get(f"/invoices/{invoice_id}/deliveries") as response:
        deliveries = (await response.json())["items"]
        return [delivery["status"] for delivery in deliveries] == ["delivered"]


def figures_of(entries: Sequence[Entry]) -> dict[str, int]:
    """The figures of an invoice that made *entries*, and those of the files."""
    folders = [Path(package.__path__[0]) for package in (service, schemas)]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    production = [path.read_bytes() for path in files if "migrations" not in path.parts]
    return {
        "functions entered": len({entry.code for entry in entries if entry.code}),
        "modules entered": len({entry.module for entry in entries if entry.code}),
        "moves across package borders": moves_of(entries).total(),
        "calls across package borders": calls_across(entries).total(),
        "shapes of the invoice and its delivery": len(shapes_of(entries)),
        "Python files at the root of service/": len(list(folders[0].glob("*.py"))),
        "production lines": sum(content.count(b"\n") for content in production),
    }


def moves_of(entries: Sequence[Entry]) -> Counter[tuple[str, str]]:
    """How often each package was entered right after each other one."""
    steps = pairwise(entry.package for entry in entries)
    return Counter((before, after) for before, after in steps if before != after)


def calls_across(entries: Sequence[Entry]) -> Counter[tuple[str, str]]:
    """How often a function in each package called one in each other package."""
    return Counter(entry.border for entry in entries if entry.border)


def shapes_of(entries: Sequence[Entry]) -> dict[tuple[str, str], Entry]:
    """The first entry of each class of values, by its module and name."""
    shapes: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        if entry.code is None:
            shapes.setdefault((entry.module, entry.name), entry)
    return shapes


@click.command()
@click.option("--list", "is_listed", is_flag=True, help="Every function, shape and crossing, too.")
def main(is_listed: bool) -> None:
    """Count what one warm invoice passes through, from its POST to the settled delivery."""
    entries = record()
    click.echo(f"{'one warm invoice on SQLite':<42}{'now':>8}{'target':>8}")
    for name, figure in figures_of(entries).items():
        target = f"{TARGETS[name]:,}" if name in TARGETS else "-"
        click.echo(f"{name:<42}{figure:>8,}{target:>8}")
    if is_listed:
        for title, lines in LISTS.items():
            click.echo("\n".join(["", "", title, "=" * len(title), "", *lines(entries)]))


def _function_lines(entries: Sequence[Entry]) -> Iterator[str]:
    yield "Indented by one step for each package border on the stack; `from` names a caller in"
    yield "another package. x2 means entered twice, resumptions of a coroutine not counted."
    counts = Counter(entry.code for entry in entries if not entry.is_resumption)
    seen: set[CodeType] = set()
    thread = entries[0].thread
    number = 0
    for entry in entries:
        if entry.code is None or entry.code in seen:
            continue
        seen.add(entry.code)
        number += 1
        if entry.thread != thread or entry.caller is None:
            thread = entry.thread
            place = "event loop" if thread == threading.main_thread().name else f"thread {thread}"
            yield f"\n{'':5}[{place}]"
        label = f"{number:>4} {'    ' * entry.depth}{_label(entry.module, entry.name)}"
        times = f" x{counts[entry.code]}" if counts[entry.code] > 1 else ""
        by = f"   from {entry.called_by}" if entry.border else ""
        yield f"{label}{times}{by}"


def _module_lines(entries: Sequence[Entry]) -> Iterator[str]:
    functions = {entry.code: entry.module for entry in entries if entry.code}
    for module, count in Counter(functions.values()).most_common():
        yield f"{count:>5}  {_shortened(module)}"


def _shape_lines(entries: Sequence[Entry]) -> Iterator[str]:
    counts = Counter((entry.module, entry.name) for entry in entries if entry.code is None)
    for shape, entry in shapes_of(entries).items():
        times = f" x{counts[shape]}" if counts[shape] > 1 else ""
        yield f"  {_label(*shape) + times:<44}   by {entry.called_by}"


def _border_lines(entries: Sequence[Entry]) -> Iterator[str]:
    calls, moves = calls_across(entries), moves_of(entries)
    by_pair: dict[tuple[str, str], Counter[str]] = {pair: Counter() for pair in calls}
    for entry in entries:
        if entry.border:
            by_pair[entry.border][f"{entry.called_by} -> {_label(entry.module, entry.name)}"] += 1
    yield f"{'calls':>5} {'moves':>5}"
    for pair in sorted(calls, key=lambda pair: (-calls[pair], -moves[pair], pair)):
        yield f"{calls[pair]:>5} {moves[pair]:>5}  {' -> '.join(pair)}"
        for call, count in by_pair[pair].items():
            yield f"{'':13}   {call}{f' x{count}' if count > 1 else ''}"
    others = sum(count for pair, count in moves.items() if pair not in calls)
    yield f"{0:>5} {others:>5}  between other pairs: where a call has returned or a task resumes"
    yield f"{calls.total():>5} {moves.total():>5}  in all"


def _label(module: str, name: str) -> str:
    return f"{_shortened(module)}:{name}"


def _shortened(module: str) -> str:
    return module.removeprefix(f"{service.__name__}.")


LISTS: dict[str, Callable[[Sequence[Entry]], Iterator[Any]]] = {
    "Functions, in the order in which they are first entered": _function_lines,
    "Modules, by the number of their functions that are entered": _module_lines,
    "Shapes, in the order in which they are first constructed": _shape_lines,
    "Borders between packages, by the number of calls": _border_lines,
}


if __name__ == "__main__":
    main()
