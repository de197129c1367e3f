"""
The rules between packages that import-linter cannot check.

It knows other libraries only as a whole, and no names inside of modules.
"""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from aiohttp import TCPConnector, web, web_protocol
from aiohttp.http_exceptions import BadHttpMessage

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for top in ("schemas", "service") for path in (ROOT / top).rglob("*.py"))
CALLBACK_URL = "/invoices/{$request.body#/id}"
NAMES_THAT_SAY_NOTHING = {"utils", "helpers", "common", "manager", "base"}

# A dotted name, and the only places that may use it or anything below it.
HOMES = {
    "aiohttp.web": ("service/api/", "service/pages/", "service/receiver/", "service/web/"),
    "aiohttp.ClientSession": (
        "service/collection/stripe/client.py",
        "service/delivery/",
        "service/listener/",
        "service/receiver/",
    ),
    "aiohttp.request": (),
    "stripe": ("service/collection/stripe/client.py",),
    "sqlalchemy": ("service/database/", "service/storage/"),
    "alembic": ("service/storage/",),
    "aiosmtplib": ("service/collection/smtp.py",),
    "babel": ("schemas/locales.py", "service/localization.py"),
    "jinja2": ("service/collection/", "service/pages/", "service/receiver/projects/"),
    "prometheus_client": tuple(
        f"service/telemetry/{name}.py" for name in ("busiest", "counting", "metrics", "workers")
    ),
}


# The only modules that may use names of a library that begin with an underscore.
PRIVATE_NAMES_IN = {
    "service/delivery/connection.py",
    "service/telemetry/counting.py",
    "service/web/server.py",
}
# SQLAlchemy documents this attribute of a row; the underscore separates it from column names. The
# standard library documents `os._exit` for the child of a fork.
PUBLIC_NAMES = {"_exit", "_mapping"}


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(tree: ast.Module) -> dict[str, str]:
    """The dotted name behind each name that an import binds."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                names[alias.asname or alias.name] = alias.name
                names.setdefault(alias.asname or first, alias.name if alias.asname else first)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def used(tree: ast.Module) -> Iterator[str]:
    """Every dotted name that is imported, or reached by attributes of what is imported."""
    names = imported(tree)
    yield from names.values()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            if first in names:
                yield ".".join([names[first], *rest])


@cache
def used_in(path: Path) -> frozenset[str]:
    """The names that a module uses."""
    return frozenset(used(parsed(path)))


def is_below(name: str, parent: str) -> bool:
    """Whether a dotted name is *parent* or something inside of it."""
    return name == parent or name.startswith(f"{parent}.")


@pytest.mark.parametrize("guarded", HOMES)
def test_each_library_stays_in_its_packages(guarded: str) -> None:
    """A library that decides how a package works is used in that package alone."""
    misplaced = {
        str(path.relative_to(ROOT))
        for path in MODULES
        if any(is_below(name, guarded) for name in used_in(path))
        and not str(path.relative_to(ROOT)).startswith(HOMES[guarded] or ("no module",))
    }

    assert set() == misplaced


@pytest.mark.parametrize(
    "source",
    [
        "from aiohttp import web",
        "import aiohttp.web",
        "import aiohttp.web as w",
        "import aiohttp\naiohttp.web.run_app",
        "from aiohttp.web import Response",
        "import aiohttp as a\na.web.Application()",
    ],
)
def test_every_form_of_import_is_recognised(source: str) -> None:
    """Every spelling of an import is found by the rule."""
    assert any(is_below(name, "aiohttp.web") for name in used(ast.parse(source)))


def test_no_import_is_inside_a_function() -> None:
    """All imports of a module are at its top."""
    hidden = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in MODULES
        for function in ast.walk(parsed(path))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]

    assert [] == hidden


def test_no_module_has_a_meaningless_name() -> None:
    """No module is named `utils`, `helpers` or alike."""
    parts = {part for path in MODULES for part in path.relative_to(ROOT).with_suffix("").parts}

    assert set() == parts & NAMES_THAT_SAY_NOTHING


def test_the_callback_url_occurs_once() -> None:
    """Only the declaration contains the expression of the callback URL."""
    spelled = {
        str(path.relative_to(ROOT)): count
        for path in MODULES
        if (count := path.read_text(encoding="utf-8").count(CALLBACK_URL))
    }

    assert [1] == list(spelled.values()), spelled


def test_only_one_module_reads_the_attributes_of_aiohttp_apispec() -> None:
    """All other modules read the declaration of an operation as an `Operation`."""
    readers = {
        str(path.relative_to(ROOT))
        for path in MODULES
        for node in ast.walk(parsed(path))
        if "__apispec__" in {getattr(node, "attr", None), getattr(node, "value", None)}
    }

    assert {"service/api/operations.py"} == readers


def foreign_private_names(tree: ast.Module) -> set[str]:
    """The names with one leading underscore that a module uses and does not define itself."""
    used: set[str] = set()
    defined: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(names=aliases):
                used |= {alias.name for alias in aliases}
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                defined.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                defined.add(name)
            case ast.Attribute(attr=name):
                used.add(name)
    return {name for name in used - defined if name.startswith("_") and not name.startswith("__")}


@cache
def private_names_by_module() -> dict[str, set[str]]:
    """The private names of libraries that are used, by the module that uses them."""
    return {
        str(path.relative_to(ROOT)): names
        for path in MODULES
        if (names := foreign_private_names(parsed(path)) - PUBLIC_NAMES)
    }


def test_private_parts_of_libraries_are_used_in_few_places() -> None:
    """A library may change its private names in any release, so few modules may depend on them."""
    users = private_names_by_module()

    assert users.keys() == PRIVATE_NAMES_IN, users


def test_private_parts_of_libraries_are_documented() -> None:
    """docs/architecture.md has each private name beside its module and a test that covers it."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if "::" in line}

    for module, names in private_names_by_module().items():
        assert [] == [name for name in sorted(names) if f"`{name}`" not in rows[module]], module


async def test_private_parts_of_aiohttp_exist() -> None:
    """The installed release of aiohttp has the private names that the service uses."""
    error = web_protocol._ErrInfo(400, BadHttpMessage("x"), "x")
    async with TCPConnector() as connector:
        connection = connector._factory()

        assert error.exc is not None
        assert web.BaseRequest._read_bytes is None
        assert {"_current_request", "_messages", "_waiter"} <= set(web.RequestHandler.__slots__)
        assert {"_paused", "_reading_paused", "_upgraded"} <= set(dir(connection))
        assert callable(web.BaseRequest._finish)
        assert callable(web.BaseRequest._prepare_hook)
        assert web.Response()._keep_alive is None
        assert connector._loop is asyncio.get_running_loop()
        assert (0, None) == (len(connection._buffer), connection._payload)
        assert (None, None) == (connection._exception, connection._parser)
        assert callable(connector._wrap_create_connection)
        assert callable(connector._wrap_existing_connection)
