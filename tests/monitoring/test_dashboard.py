import re
from itertools import combinations

import pytest

OF_PROCESSES = ("process_", "python_")


@pytest.fixture(scope="session")
def panels(dashboard):
    """The panels that show metrics."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_every_panel_has_title_description_and_unit(panels):
    """Each panel has a title, a description and a unit."""
    for panel in panels:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["expr"] for target in panel["targets"]), panel["title"]


def test_every_panel_has_its_own_id_and_position(dashboard):
    """No panel overlaps another."""
    ids = [panel["id"] for panel in dashboard["panels"]]

    assert len(ids) == len(set(ids))
    for one, other in combinations([panel["gridPos"] for panel in dashboard["panels"]], 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_above


def test_the_dashboard_selects_its_data_source(dashboard, panels):
    """The dashboard can be loaded into any Grafana, because it names no fixed data source."""
    sources = {panel["datasource"]["uid"] for panel in panels}

    assert {"${datasource}"} == sources
    assert "datasource" in {one["name"] for one in dashboard["templating"]["list"]}


def test_panels_show_the_exposed_metrics(panels, exposed):
    """Every metric of a panel exists, and every metric of the service is on a panel."""
    shown = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"\b(?:invoices|process|python)_\w+(?=\{)", target["expr"])
    }
    ours = {name for name in exposed if not name.startswith(OF_PROCESSES)}

    assert set() == shown - exposed
    assert set() == {family(name) for name in ours} - {family(name) for name in shown}


def family(name):
    """The metric of a sample."""
    return re.sub(r"_(bucket|sum|count)$", "", name)
