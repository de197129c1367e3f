import re
from itertools import combinations

import pytest

OF_PROCESSES = ("process_", "python_")


@pytest.fixture(scope="session")
def panels(dashboard):
    """The panels that show something."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_every_panel_says_what_it_shows(panels):
    """A panel has a title, a description and a unit."""
    for panel in panels:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert all(target["expr"] for target in panel["targets"]), panel["title"]


def test_every_panel_has_an_id_and_a_place_of_its_own(dashboard):
    """No panel takes the place of another."""
    ids = [panel["id"] for panel in dashboard["panels"]]

    assert len(ids) == len(set(ids))
    for one, other in combinations([panel["gridPos"] for panel in dashboard["panels"]], 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_above


def test_the_dashboard_asks_for_its_data_source(dashboard, panels):
    """It can be loaded into any Grafana: it names no data source of another one."""
    sources = {panel["datasource"]["uid"] for panel in panels}

    assert {"${datasource}"} == sources
    assert "datasource" in {one["name"] for one in dashboard["templating"]["list"]}


def test_panels_show_what_is_exposed(panels, exposed):
    """Every metric that a panel names exists, and every one of the service is shown."""
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
    """The metric that a sample belongs to."""
    return re.sub(r"_(bucket|sum|count)$", "", name)
