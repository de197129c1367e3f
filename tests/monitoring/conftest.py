"""The files that operators load into Prometheus and Grafana."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from service.telemetry.metrics import BACKLOG_GAUGES, Metrics
from tests.monitoring.promtool import missing
from tests.samples import samples_in

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "monitoring"


@pytest.fixture(scope="session")
def folder():
    """The folder of the files."""
    return FOLDER


@pytest.fixture(scope="session")
def rules():
    """The alerts."""
    document = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


@pytest.fixture(scope="session")
def dashboard():
    """The dashboard."""
    return json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def exposed():
    """The name of every sample that a process can expose."""
    metrics = Metrics("1.2.3")
    metrics.answered("create_invoice", 202)
    metrics.accounts.attempt_refused("acc_1")
    metrics.storage_answered(dict.fromkeys(BACKLOG_GAUGES, 0))
    text = metrics.exposition("")[0].decode()
    return {name.partition("{")[0] for name in samples_in(text)}


def pytest_collection_modifyitems(items):
    """Skip the tests that need promtool if it is missing; in CI that is a failure."""
    reason = missing()
    for item in items:
        if reason and item.get_closest_marker("promtool"):
            item.add_marker(pytest.mark.skip(reason=reason))
