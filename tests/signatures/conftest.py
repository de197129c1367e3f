"""Node, where what it needs is installed."""

from __future__ import annotations

import pytest

from tests.signatures import node as wheel


@pytest.fixture(scope="session")
def node():
    """Node with the packages of package-lock.json; without them, no test may pass or be skipped."""
    if not wheel.is_installed():
        pytest.fail(
            "tests/signatures/node_modules is missing or not what package-lock.json names:"
            " `make test` installs it",
            pytrace=False,
        )
    return wheel
