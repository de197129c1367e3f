import re

import pytest


@pytest.fixture(scope="session")
def page(folder):
    """What operators read."""
    return (folder.parent / "operations.md").read_text(encoding="utf-8")


def test_every_figure_is_explained(page, told):
    """A row of the operations page says what each figure is, and what to do about it."""
    named = set(re.findall(r"^\| `(invoices_\w+)` \|", page, re.MULTILINE))
    ours = {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in told if name.startswith("invoices_")
    }

    assert named == ours


def test_figures_that_the_page_mentions_exist(page, told):
    """No figure of a process or its garbage collector is promised that nobody tells."""
    mentioned = set(re.findall(r"`((?:process|python)_[a-z_]+[a-z])`", page))

    assert mentioned
    assert set() == mentioned - told


def test_the_files_are_led_to(page, folder):
    """Whoever reads the page finds every file."""
    assert [] == [path.name for path in folder.iterdir() if f"monitoring/{path.name}" not in page]
