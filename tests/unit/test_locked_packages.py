"""The list of packages that the image is built from."""

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKED = (ROOT / "requirements.lock").read_text(encoding="utf-8")
VERSIONS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==([^ ;\\]+)", LOCKED, re.MULTILINE)
}


def declared():
    """What setup.cfg asks for at run time, with the extras that the image has."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    lines = config["options"]["install_requires"] + extras["otel"] + extras["stripe"]
    return [Requirement(line) for line in lines.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("required", declared(), ids=str)
def test_every_declared_package_is_locked(required):
    """The list has a version of it that setup.cfg permits: after a change there, `make lock`."""
    version = VERSIONS[canonicalize_name(required.name)]

    assert required.specifier.contains(version, prereleases=True)


def test_every_locked_package_has_hashes():
    """The image is installed from files that were known when the list was made."""
    blocks = re.split(r"^(?=[\w.-]+==)", LOCKED, flags=re.MULTILINE)[1:]

    assert len(VERSIONS) == len(blocks)
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_image_accepts_no_other_package():
    """The Dockerfile installs with hashes, and our own package without looking for others."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")

    assert "--require-hashes --requirement requirements.lock" in dockerfile
    assert "--no-deps --no-build-isolation --no-index ." in dockerfile
