"""What the axe rules of accessibility find on a page, in light mode and in dark mode."""

from __future__ import annotations

from pathlib import Path

from selenium.webdriver import Chrome

AXE = Path(__file__).parents[1] / "documents/node_modules/axe-core/axe.min.js"
MODES = ("light", "dark")
RUN = """
// Colours on their way to another mode are neither the old ones nor the new ones.
for (const one of document.getAnimations()) if (one instanceof CSSTransition) one.finish();
axe.run().then(arguments[0]);
"""


def emulate(browser: Chrome, **features: str) -> None:
    """Set features of the media, such as `prefers_color_scheme`."""
    given = [{"name": name.replace("_", "-"), "value": of} for name, of in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": given})


def found_by_axe(browser: Chrome) -> dict[str, list]:
    """What the rules find on the page of *browser*: violations, passes and the rest."""
    assert AXE.exists(), "`make test` installs what tests/documents/package.json names"
    # The policy of a page would refuse a script element; the driver runs this beside it.
    if not browser.execute_script("return !!window.axe"):
        browser.execute_script(AXE.read_text(encoding="utf-8"))
    found = browser.execute_async_script(RUN)
    assert "color-contrast" in {one["id"] for one in found["passes"]}
    return found


def violations(browser: Chrome) -> list[tuple[str, list]]:
    """Each rule that the page violates, with the elements."""
    return [
        (one["id"], [node["target"] for node in one["nodes"]])
        for one in found_by_axe(browser)["violations"]
    ]


def violations_by_mode(browser: Chrome) -> dict[str, list]:
    """The violations in each of the modes."""
    found = {}
    for mode in MODES:
        emulate(browser, prefers_color_scheme=mode)
        found[mode] = violations(browser)
    return found
