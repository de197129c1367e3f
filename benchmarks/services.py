"""The measured services: what each is called, how it is started, and what it needs installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.machine import SERVICE_CORES
from benchmarks.processes import (
    HOST,
    free_port,
    last_lines,
    python,
    started,
    wait_until_listening,
)
from benchmarks.stores import NO_STORE, POSTGRES, STORES


@dataclass(frozen=True, slots=True)
class Service:
    """
    Something that accepts invoices and calls back.

    *store* names what it stores in; *requires* the packages that it cannot be started without.
    *delay_seconds* is how long it waits by design before it delivers.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    store: str = NO_STORE
    requires: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    delay_seconds: float = 0


@dataclass(frozen=True, slots=True)
class Running:
    """A service that takes requests; *folder* is its own."""

    pid: int
    delay_seconds: float
    url: str
    folder: Path


_FASTAPI = ("fastapi", "uvicorn", "httpx")
_AT_ONCE = {"INVOICES_SANDBOX_DELAY": "0ms"}

FLOOR = Service("floor: the same without storage", "benchmarks.rivals.floor")
BARE_FLOOR = Service("bare floor: aiohttp and marshmallow", "benchmarks.rivals.bare_floor")
SHARED_CLIENT = Service(
    "FastAPI, BackgroundTasks, shared httpx.AsyncClient",
    "benchmarks.rivals.fastapi_tasks",
    ("shared",),
    requires=_FASTAPI,
)
POST = Service(
    "FastAPI, BackgroundTasks, httpx.post",
    "benchmarks.rivals.fastapi_tasks",
    ("post",),
    requires=_FASTAPI,
)
OURS = tuple(
    Service(f"invoices, {store}", "service", ("serve", "--dev"), store, settings=_AT_ONCE)
    for store in STORES
)
DEFAULT_DELAY = tuple(
    Service(
        f"invoices, {store}, sandbox delay 500 ms",
        "service",
        ("serve", "--dev"),
        store,
        delay_seconds=0.5,
    )
    for store in STORES
)


DISPATCHER = Service(
    "invoices, PostgreSQL, a dispatcher",
    "service",
    ("serve", "--dev", "--role", "dispatcher"),
    POSTGRES,
)


@contextmanager
def running(service: Service, folder: Path, database_url: str) -> Iterator[Running]:
    """
    *service* in a process of its own on the database of *database_url*.

    Raises:
        BenchmarkError: if something is not installed, or it does not start. One of the block
            says so as well if the process has ended by itself.
    """
    missing = [name for name in service.requires if find_spec(name) is None]
    if missing:
        raise BenchmarkError(f"not installed: {', '.join(missing)} (pip install -e '.[bench]')")
    port = free_port()
    log = folder / f"service-{port}.log"
    env = {
        "INVOICES_PORT": str(port),
        "INVOICES_DATABASE_URL": database_url,
        "INVOICES_DRAIN_TIMEOUT": "1s",
        **service.settings,
    }
    command = python(service.module, *service.arguments)
    with started(command, log, cores=SERVICE_CORES, env=env) as process:
        wait_until_listening(process, port, log)
        try:
            yield Running(process.pid, service.delay_seconds, f"http://{HOST}:{port}", folder)
        except BenchmarkError as error:
            if process.poll() is not None:
                raise BenchmarkError(f"{error}; it has ended: {last_lines(log)}") from error
            raise
