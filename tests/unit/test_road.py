import subprocess
import sys

import pytest

from benchmarks import road
from benchmarks.road import Recorder, calls_across, figures_of, moves_of, package_of, shapes_of

STORAGE = """
from dataclasses import dataclass

@dataclass
class Row:
    name: str

def find(name):
    return Row(name)
"""

API = """
def answer(find):
    return [find("first"), find("second")]

async def wait(pause):
    await pause()
    await pause()
"""


def names_in(source, module):
    """The names that *source* defines, run as the module *module*."""
    names = {"__name__": module}
    exec(compile(source, f"{module}.py", "exec"), names)
    return names


@pytest.fixture
def storage():
    """A module in the package `storage`, with a value."""
    return names_in(STORAGE, "service.storage.sample")


@pytest.fixture
def api():
    """A module in the package `api`."""
    return names_in(API, "service.api.sample")


def recorded(call):
    """The entries of *call*."""
    recorder = Recorder()
    with recorder.installed(), recorder.recording() as entries:
        call()
    return entries


@pytest.mark.parametrize(
    ("package", "module"),
    [
        ("delivery", "service.delivery.sender"),
        ("clock", "service.clock"),
        ("service", "service"),
        ("schemas", "schemas.invoice"),
    ],
)
def test_package_is_the_first_component_below_service(package, module):
    """A module below `service` counts as a package, and `schemas` is one package."""
    assert package == package_of(module)


def test_calls_and_constructed_values_are_entries(api, storage):
    """Entries are in the order of execution; calls between packages are counted."""
    entries = recorded(lambda: api["answer"](storage["find"]))

    assert ["answer", "find", "Row", "find", "Row"] == [
        entry.name for entry in entries if "<" not in entry.name
    ]
    assert {("api", "storage"): 1} == moves_of(entries)
    assert {("api", "storage"): 2} == calls_across(entries)
    assert [("service.storage.sample", "Row")] == list(shapes_of(entries))


def test_resumed_coroutine_is_not_called_again(api):
    """A coroutine that is resumed several times counts as one call."""

    class Pause:
        def __await__(self):
            yield

    entries = recorded(lambda: list(api["wait"](Pause).__await__()))

    assert [False, True, True] == [entry.is_resumption for entry in entries]


def test_libraries_and_tests_are_not_counted():
    """Only functions of `service` and `schemas` are recorded."""
    assert [] == recorded(lambda: package_of("schemas"))


@pytest.mark.slow
def test_one_invoice_is_counted():
    """The command runs the service, and measures every figure that has a target."""
    command = [sys.executable, "-m", road.__name__, "--list"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    assert road.TARGETS.keys() <= figures_of([]).keys()
    assert [] == [name for name in (*figures_of([]), *road.LISTS) if name not in shown]
