"""The page as one stands before it: alone, linked, drawn, and safe from hostile text."""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib as mpl

from demur import records, report, terms
from demur.metrics import Estimate
from demur.records import Attempt, Behavior, Message
from demur.report import along, figures, runs
from worlds import (
    ANSWER,
    HOSTILE,
    REFUSAL,
    attempts,
    behaviors,
    lay,
    parsed,
    results,
    run,
)


def test_the_page_stands_alone(large):
    page, _ = large
    found = parsed(page)
    assert not found.open
    assert not {"script", "link", "img", "iframe", "object", "use", "image"} & {
        tag for tag, _ in found.tags
    }
    assert not found.all("src")
    assert all(link.startswith("#") for link in found.all("href"))
    assert not re.search(r"https?://|url\(|@import|<style>\*", page)
    assert len(page.encode()) < 3_000_000


def test_every_number_leads_to_its_answers(large):
    page, _ = large
    found = parsed(page)
    ids = found.all("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in found.all("href")} <= set(ids)
    assert all("open" not in has for tag, has in found.tags if tag == "details")
    folded = [has for tag, has in found.tags if tag == "details" and "id" in has]
    assert len(folded) == 5 * 48


def test_a_count_names_its_transcripts(small, tmp_path):
    page = report.build(small, tmp_path / "out").read_text(encoding="utf-8")
    after = page[page.index('id="t0-1-declined"') :]
    named = re.findall(r'href="#t0\.(\d)"', after[: after.index("</dd>")])
    assert named == ["1", "2"]
    item = page[page.index('id="t0.3"') :]
    item = item[: item.index("</details>")]
    assert item.index("First look") < item.index("la la la")  # before stands beside after
    assert '<b>broken</b> broken: <span dir="auto">a loop</span>' in item


def test_same_input_same_bytes(large):
    _, root = large
    folders = {
        "evaluations": {"before": root / "before", "TA-SFT": root / "ta", "DeRTa": root / "derta"},
        "training": {"TA-SFT": root / "train-ta", "DeRTa": root / "train-derta"},
    }
    again = report.build(**folders, out=root / "again", title="Before and after")
    for name in ("index.html", "report.md", "results.json"):
        assert again.with_name(name).read_bytes() == (root / "report" / name).read_bytes()
    assert sorted(p.name for p in again.parent.iterdir()) == [
        "index.html",
        "report.md",
        "results.json",
    ]


def test_hostile_text_stays_text(tmp_path):
    """Whatever a person, a model, a judge or a file name says is shown, never obeyed."""
    asked = [
        Behavior(prompt=f"{HOSTILE} {kind}", kind=kind, unsafe="x")
        for kind in ("harmful", "lookalike", "everyday")
    ]
    tried = [
        Attempt(
            behavior=b.id,
            attack=HOSTILE,
            variant=HOSTILE,
            prefill=HOSTILE,
            messages=(Message(role="system", content=HOSTILE), *b_messages),
        )
        for b in asked
        for b_messages in [(Message(role="user", content=b.prompt),)]
    ]
    nats = {"harmful": 1.0}
    one = lay(tmp_path / "one", asked, tried, [HOSTILE] * 3, nats=nats, judge=HOSTILE)
    two = lay(tmp_path / "two", asked, tried, [HOSTILE] * 3, nats=nats, judge=HOSTILE)
    records.replace(
        two / "manifest.json", json.dumps({HOSTILE: {HOSTILE: [HOSTILE]}, "chat_template": None})
    )
    training = run(tmp_path / "training", "ta_sft", {HOSTILE: 3})
    name = f"$x${HOSTILE} 安全"
    page = report.build({"first": one, name: two}, tmp_path / "out", {name: training}, HOSTILE)
    html = page.read_text(encoding="utf-8")
    found = parsed(html)
    assert not found.open
    assert not {"script", "img"} & {tag for tag, _ in found.tags}
    assert not [key for _, has in found.tags for key in has if key.startswith("on")]
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069\u2028]", html)
    assert not [note for note in results(page)["notes"] if "across versions" in note]
    assert "⟨U+202E⟩gnp.exe⟨U+202C⟩ ⟨U+001B⟩[2J⟨U+0000⟩" in found.text
    assert "{{ 7 * 7 }}" in found.text
    assert re.search(r"<text[^>]*>\$x\$&lt;sc…", html)  # a drawing takes it for no formula

    markdown = page.with_name("report.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<(script|img)", markdown)
    table = [line for line in markdown.split("\n") if line.startswith("| ")]
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
    assert columns <= {3, 4, 6, 13}  # a pipe inside a cell would add one


def test_curves_leave_a_gap_where_a_value_is_not_finite(large):
    page, _ = large
    norm = page[page.index("<figcaption>Gradient norm") :]
    lines = re.findall(r'<path d="([^"]*)" style="fill: none; stroke: var\(--model1\)', norm)
    assert lines[0].count("M ") == 2


def test_drawings_take_the_colours_of_the_page(large):
    page, _ = large
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert "var(--model2)" in drawings
    assert "var(--outcome1)" in drawings
    assert not re.search("#[0-9a-f]{6}", drawings)


def test_a_readers_matplotlib_settings_change_nothing():
    line = {1: ([1.0, 2.0], [3.0, 4.0])}
    drawn = figures.curve("loss", line)
    with mpl.rc_context({"lines.linewidth": 9, "axes.grid": True, "font.size": 30}):
        assert figures.curve("loss", line) == drawn


def test_lookalikes_trained_on_are_told(large):
    page, _ = large
    assert "TA-SFT: no look-alikes were trained on" in page
    assert "DeRTa: 40 look-alikes were trained on" in page
    told = "Training of TA-SFT (ta_sft): 60 steps on 199 examples (120 everyday, 79 harmful)."
    assert told in page


def test_every_logged_term_has_a_curve(large):
    page, _ = large
    assert set(terms.TERMS) <= set(runs.CURVES)
    assert all(runs.CURVES[term] in page for term in terms.TERMS)


def lonely_harm(tmp_path: Path) -> Path:
    asked = [b for b in behaviors(2) if b.kind == "harmful"]
    tried = [a for a in attempts(asked) if not a.variant]
    return lay(tmp_path / "lonely", asked, tried, [ANSWER, REFUSAL])


def test_every_model_is_a_point_of_the_plane(large, tmp_path):
    html, root = large
    drawing = html[html.index("Told apart, or declined alike") :]
    drawing = drawing[: drawing.index("</svg>")]
    assert f'aria-label="{along.PLANE}"' in drawing
    for name in ("before", "TA-SFT", "DeRTa"):
        assert f">{name}<" in drawing
    # A dot of no length for each, and two lines of an interval.
    dots = re.findall(r"stroke-linecap: round[^>]*", drawing)
    assert len(dots) == 3 and len(re.findall(r"opacity: 0\.55", drawing)) == 6
    one = report.side_by_side([root / "before", root / "ta"], force=True)
    both = one.write(tmp_path / "both").read_text("utf-8")
    assert "Told apart, or declined alike" in both
    lonely = {"before": lonely_harm(tmp_path)}
    assert "Told apart" not in report.build(lonely, tmp_path / "out").read_text("utf-8")


def test_the_drift_is_drawn_along_with_its_intervals():
    moved = [(0, 0.0), (4, 0.2), (8, 0.9)]
    points = [
        along.Point(x, {}, {"direct/everyday/kl": Estimate(kl, kl / 2, 2 * kl)}) for x, kl in moved
    ]
    [(title, drawing)] = along.drawings({1: points}).items()
    assert title == "KL from the starting model, nats a token (everyday, direct)"
    assert len(re.findall(r"stroke-linecap: round", drawing)) == 3
    told = along.plain({"after": points})["after"]
    assert [point["drift"]["direct/everyday/kl"]["high"] for point in told] == [0, 0.4, 1.8]
    assert "drift" not in along.plain({"after": [along.Point(0, {})]})["after"][0]
