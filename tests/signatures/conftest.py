"""Node with its installed packages."""

from __future__ import annotations

import pytest

from tests.signatures import node as wheel


@pytest.fixture(scope="session")
def node():
    """Node with the packages of package-lock.json; if they are missing, the tests fail."""
    if not wheel.is_installed():
        pytest.fail(
            "tests/signatures/node_modules is missing or differs from package-lock.json:"
            " `make test` installs it",
            pytrace=False,
        )
    return wheel
