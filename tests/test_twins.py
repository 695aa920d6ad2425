"""What stands apart on a page: each source of requests, and look-alikes beside their twins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from demur import records, report
from demur.metrics import Rate
from demur.records import Behavior
from worlds import (
    parsed,
    results,
)


def test_every_source_of_a_kind_has_its_own_rate(small, tmp_path):
    """Requests 1 and 2 are of one benchmark, 3 and 4 of another; look-alikes of one alone."""
    for folder in small.values():
        asked = records.read(folder / "behaviors.jsonl", Behavior)
        of = [("Q-Harm|" if int(b.prompt[-2]) <= 2 else "<i>CoNa") for b in asked]
        named = [replace(b, source=source) for b, source in zip(asked, of, strict=True)]
        records.write(folder / "behaviors.jsonl", named)
    page = report.build(small, tmp_path / "out")
    before, after = (results(page)["models"][name]["sources"] for name in small)
    assert before.keys() == after.keys() == {"Q-Harm|", "<i>CoNa"}
    counts = {
        (model, source, key.rpartition("/")[2]): (figure["k"], figure["n"])
        for model, of in (("before", before), ("after", after))
        for source, told in of.items()
        for key, figure in told["figures"].items()
        if key.startswith("direct/harmful")
    }
    assert counts["before", "Q-Harm|", "complied"] == (2, 2)
    assert counts["before", "<i>CoNa", "complied"] == (1, 2)
    assert counts["after", "Q-Harm|", "refused"] == (2, 2)
    assert counts["after", "<i>CoNa", "refused"] == (0, 1)
    assert all(key.startswith("direct/harmful") for key in before["Q-Harm|"]["figures"])
    told = report.figures_of(small["before"])
    assert told.pop("sources") == {source: of["figures"] for source, of in before.items()}
    assert told == results(page)["models"]["before"]["figures"]
    against = after["Q-Harm|"]["against_first"]["direct/harmful/complied"]
    assert (against["n"], against["mcnemar"]["b"], before["Q-Harm|"]["against_first"]) == (2, 2, {})
    html, text = page.read_text("utf-8"), page.with_name("report.md").read_text("utf-8")
    assert "<h4>&lt;i&gt;CoNa</h4>" in html and not parsed(html).open
    assert "## By source" in text and "### Q-Harm\\|" in text
    below = text[text.index("### Q-Harm") : text.index("### \\<i")]
    assert "| Harmful requests answered (direct) | lower | refusal | 100.0 % (" in below
    assert "look-alike" not in below.lower()


def test_one_source_is_not_told_again(small, tmp_path):
    page = report.build(small, tmp_path / "out")
    assert results(page)["models"]["after"]["sources"] == {}
    assert "By source" not in page.read_text("utf-8")
    assert "By source" not in page.with_name("report.md").read_text("utf-8")


def paired(folders: dict[str, Path]) -> None:
    """Look-alikes 1 and 2 are the twins of the harmful requests 1 and 4; 2 and 3 have none."""
    for folder in folders.values():
        names = {"lookalike": {1: "one", 2: "two"}, "harmful": {1: "one", 4: "two", 3: "alone"}}
        asked = [
            replace(b, pair=names.get(b.kind, {}).get(int(b.prompt[-2]), ""))
            for b in records.read(folder / "behaviors.jsonl", Behavior)
        ]
        records.write(folder / "behaviors.jsonl", asked)


def test_lookalikes_are_held_beside_their_unsafe_twins(small, tmp_path):
    """Before: both look-alikes answered, twin 4 declined. After: one declined, twin 4 unscored."""
    paired(small)
    page = report.build(small, tmp_path / "out")
    models = results(page)["models"]
    counts = {
        (name, key.rpartition("/")[2]): (figure["k"], figure["n"], figure["unscored"])
        for name, told in models.items()
        for key, figure in told["figures"].items()
        if "/pairs/" in key
    }
    assert counts == {
        ("before", "lookalike_refused"): (0, 2, 0),
        ("before", "twin_refused"): (1, 2, 0),
        ("before", "told_apart"): (1, 2, 0),
        ("after", "lookalike_refused"): (1, 2, 0),
        ("after", "twin_refused"): (1, 1, 1),
        ("after", "told_apart"): (0, 1, 1),
    }
    figure = models["before"]["figures"]["direct/pairs/told_apart"]
    assert (figure["low"], figure["high"]) == (Rate(1, 2).low, Rate(1, 2).high)
    against = models["after"]["against_first"]
    apart, twin = against["direct/pairs/told_apart"], against["direct/pairs/twin_refused"]
    assert (apart["n"], apart["mcnemar"]["b"], apart["mcnemar"]["c"]) == (1, 0, 0)
    assert (twin["n"], twin["mcnemar"]["b"], twin["mcnemar"]["c"]) == (1, 0, 1)
    html, twin_page = page.read_text("utf-8"), page.with_name("report.md").read_text("utf-8")
    assert "Look-alikes and their unsafe twins" in html
    assert "| Pairs told apart: look-alike answered, twin declined (direct) | higher |" in twin_page
    told = report.figures_of(small["before"])
    assert "direct/pairs/told_apart" in told and "sources" not in told


def test_without_twins_nothing_is_told_of_them(small, tmp_path):
    page = report.build(small, tmp_path / "out")
    assert not [k for k in results(page)["models"]["after"]["figures"] if "/pairs/" in k]
    assert "unsafe twin" not in page.read_text("utf-8")
