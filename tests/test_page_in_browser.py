"""The page in a real browser, at a phone's width, with scripts on and off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import browser
from browser import Browser
from demur import report
from demur.records import Attempt, Message
from worlds import HOSTILE, behaviors, lay, run, world

if browser.PROGRAM is None:
    pytest.skip("no Chromium to look at the page with", allow_module_level=True)

PHONE = {"width": 375, "height": 812, "deviceScaleFactor": 1, "mobile": True}
NASTY = (
    HOSTILE,
    "<script>document.title='taken'</script><img src='http://198.51.100.1/x.png'>",
    "</details></article></section></main><style>body{width:9000px}</style>",
    "Sorry" * 400,
    "\u202e\u2066 turned round \x1b[31mred\x1b[0m",
    "a" * 3000 + "\n" + "https://198.51.100.1/" + "long/" * 300,
    "# | | |\n```\n" + "\t" * 200 + "end",
)


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser.started(tmp_path_factory.mktemp("profile")) as found:
        for domain in ("Page", "Network", "Runtime", "Log"):
            found.ask(f"{domain}.enable")
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    plain = report.build(**world(root / "world"), out=root / "plain", title="Before and after")
    return {"plain": plain, "hostile": hostile(root)}


def hostile(root: Path) -> Path:
    """Every text that a stranger can put on the page is one of the nasty ones."""
    asked = behaviors(len(NASTY))
    by_kind = [b for b in asked if b.kind == "harmful"]
    tried = [
        Attempt(
            behavior=b.id,
            attack="direct",
            messages=(Message(role="system", content=text), Message(role="user", content=text)),
            prefill=text,
        )
        for b, text in zip(by_kind, NASTY, strict=True)
    ]
    folders = {
        name: lay(root / str(n), asked, tried, list(NASTY))
        for n, name in enumerate(("before", "M" * 200))
    }
    return report.build(folders, root / "hostile", {"M" * 200: run(root / "run", "ta_sft", {})})


def opened(chrome: Browser, page: Path, scripts: bool = True) -> None:
    chrome.events.clear()
    chrome.ask("Emulation.setDeviceMetricsOverride", **PHONE)
    chrome.ask("Emulation.setScriptExecutionDisabled", value=not scripts)
    chrome.ask("Page.navigate", url=page.as_uri())
    chrome.wait("Page.loadEventFired")


def value(chrome: Browser, expression: str) -> object:
    return chrome.ask("Runtime.evaluate", expression=expression)["result"].get("value")


@pytest.mark.parametrize("name", ["plain", "hostile"])
def test_a_phone_needs_no_scrolling_sideways(
    chrome: Browser, pages: dict[str, Path], name: str
) -> None:
    """Folded and unfolded alike."""
    opened(chrome, pages[name])
    unfold = "document.querySelectorAll('details').forEach(d => d.open = true)"
    for _ in ("folded", "unfolded"):
        wide = value(chrome, "document.documentElement.scrollWidth")
        assert wide == 375, f"{value(chrome, WIDEST)} reaches beyond the edge"
        value(chrome, unfold)


WIDEST = """[...document.querySelectorAll('body *')]
  .filter(e => e.getBoundingClientRect().right > 376 && !e.closest('.scroll, .text'))
  .slice(0, 5).map(e => e.outerHTML.slice(0, 120)).join(' ||| ')"""


@pytest.mark.parametrize("scripts", [True, False])
@pytest.mark.parametrize("name", ["plain", "hostile"])
def test_nothing_runs_and_nothing_leaves(
    chrome: Browser, pages: dict[str, Path], name: str, scripts: bool
) -> None:
    opened(chrome, pages[name], scripts)
    asked = [event["request"]["url"] for event in chrome.seen("Network.requestWillBeSent")]
    assert asked == [pages[name].as_uri()]
    assert chrome.seen("Log.entryAdded") == []  # where a refusal by the page's policy would be
    assert value(chrome, "document.scripts.length") == 0
    assert value(chrome, "document.title") != "taken"


def test_it_reads_the_same_without_scripts(chrome: Browser, pages: dict[str, Path]) -> None:
    seen = []
    for scripts in (True, False):
        opened(chrome, pages["plain"], scripts)
        seen.append(value(chrome, "document.body.innerText"))
    assert seen[0] == seen[1]
    assert "Numbers" in str(seen[0])


def test_a_count_opens_the_answers_it_counts(chrome: Browser, pages: dict[str, Path]) -> None:
    opened(chrome, pages["plain"])
    value(chrome, "document.querySelector('.lead a.count').click()")
    target = "document.querySelector(':target')"
    assert value(chrome, f"{target}.getBoundingClientRect().height > 0") is True
    assert value(chrome, f"Math.abs({target}.getBoundingClientRect().top) < 812") is True


def test_words_in_drawings_can_be_read_on_a_phone(chrome: Browser, pages: dict[str, Path]) -> None:
    """No text of a drawing is smaller than nine pixels on a screen of 375, none leaves its edge."""
    opened(chrome, pages["plain"])
    small = """Math.min(...[...document.querySelectorAll('svg text')]
      .map(t => t.getBoundingClientRect().height))"""
    assert float(str(value(chrome, small))) >= 9
    out = """[...document.querySelectorAll('svg text')].filter(t => {
      const inner = t.getBoundingClientRect();
      return inner.left < -1 || inner.right > 376 }).map(t => t.textContent).join('; ')"""
    assert value(chrome, out) == ""
