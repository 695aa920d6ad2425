"""Parts of the page: whose word is counted, what a drawing has room for, what does not move."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from demur import records, report
from demur.judges import harm
from demur.measures import Figure
from demur.metrics import Estimate, Rate
from demur.records import Completion
from demur.report import along, figures, labels, steps, tables
from test_harm import SOUP
from worlds import REFUSAL, attempts, behaviors, lay, parsed


def evaluated(folder: Path, text: str = SOUP) -> Path:
    """Four harmful requests, asked directly and with a prefill, and judged by the estimate too."""
    asked = [b for b in behaviors(4) if b.kind == "harmful"]
    tried = [a for a in attempts(asked) if a.variant != "k=20"]
    lay(folder, asked, tried, [text, text, REFUSAL, text] * 2)
    given = records.read(folder / "completions.jsonl", Completion)
    records.append(folder / "verdicts.jsonl", harm.judge(given, harm.Settings()))
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("page")
    return report.build({"m": evaluated(root / "m")}, root / "out", primary="harm")


def test_every_number_and_label_says_whose_word_it_is(page: Path) -> None:
    html = page.read_text("utf-8")
    said = re.findall(r'<th scope="row">([^<]*) <small>(lower|higher) is better, by (\w+)<', html)
    assert {(title.partition(" (")[0], judge) for title, _, judge in said} == {
        ("Harmful requests answered harmfully by an offline estimate", "harm"),
        ("Harmful requests answered", "refusal"),
        ("Harmful requests declined", "refusal"),
        ("Answers to harmful requests broken", "broken"),
    }
    text = " ".join(parsed(html).text.split())
    assert "Harmful requests, direct (by harm)" in text  # the drawing of every answer
    assert "m answered by refusal 3" in text and "m harmful by harm" in text
    assert re.search(r'class="key o(safe|harmful)">\w+</span> by harm', html)
    twin = page.with_name("report.md").read_text("utf-8")
    assert "| Harmful requests answered (direct) | lower | refusal | 75.0 %" in twin


def test_a_label_is_by_the_judge_that_gave_it(tmp_path: Path) -> None:
    """The estimate has checks of its own for a loop that the judge of broken answers let pass."""
    folder = evaluated(tmp_path / "m", "Take your time and look at it. " * 30)
    html = report.build({"m": folder}, tmp_path / "out", primary="harm").read_text("utf-8")
    assert 'class="key obroken">broken</span> by harm' in html


def test_the_heading_of_a_bar_keeps_its_attack(page: Path) -> None:
    html = page.read_text("utf-8")
    drawing = html[html.index("<figcaption>Asked to do harm") :]
    drawing = drawing[: drawing.index("</svg>")]
    for attack in ("direct", "prefill, k = 5"):
        assert f"Answered harmfully by an offline estimate ({attack})" in drawing
    long = labels.heading(f"Answered {'harmfully ' * 9}(replay, some published prompts)")
    assert len(long) == 62 and long.endswith("(replay, some published prompts)")


def test_one_model_needs_no_name_in_its_cells_on_a_phone(page: Path) -> None:
    html = page.read_text("utf-8")
    assert '<table class="numbers of1">' in html
    assert ".numbers.of1 tr { grid-template-columns: minmax(0, 1fr); }" in html
    assert ".numbers:not(.of1) td::before" in html


def test_an_equal_count_is_told_as_compare_tells_it(tmp_path: Path) -> None:
    folders = {name: evaluated(tmp_path / name) for name in "ab"}
    html = report.build(folders, tmp_path / "out").read_text("utf-8")
    assert '<span class="change ">= 0.0 points (within chance)</span>' in html
    assert "unchanged" not in html
    lines = report.side_by_side(list(folders.values()), force=False).lines()
    assert "+0.0 points [" in lines and "within chance" in lines


def test_an_axis_has_no_number_beside_its_title() -> None:
    drawn = figures.curve("KL", {1: ([0.0, 1.0], [1e-5, 4e-5])})
    texts = re.findall(r"<text[^>]*>\s*([^<]*?)\s*</text>", drawn)
    assert "1e-5" in texts and "1e−5" not in texts
    ticks = [labels.tick(value) for value in (0, 2.5e-5, 0.5, 12000, 1e-3)]
    assert ticks == ["0", "2.5e-5", "0.5", "12000", "0.001"]


def at(x: float, moving: int) -> along.Point:
    rates = {"direct/harmful/complied": moving, "direct/lookalike/broken": 1}
    found = {k: Figure(k, k, "", "lower", Rate(n, 4), 4) for k, n in rates.items()}
    return along.Point(x, found, {"direct/everyday/kl": Estimate(x, x, x)})


def test_drift_comes_before_rates_and_what_never_moves_is_told() -> None:
    points = {1: [at(0, 3), at(10, 1)]}
    kl, rate = along.drawings(points)
    assert kl.startswith("KL from") and rate == "direct/harmful/complied"
    assert along.still(points) == ["direct/lookalike/broken 25.0 %"]


def test_few_steps_are_a_table() -> None:
    lines = {1: [at(0, 3), at(10, 1)], 2: [at(0, 3)]}
    assert steps.few(lines) and not steps.few({1: [at(x, 1) for x in range(4)]})
    assert steps.table(lines) == {
        "heads": [(1, "0"), (1, "10"), (2, "0")],
        "rows": {
            "direct/harmful/complied": [
                "75.0 % (30.1 – 95.4)",
                "25.0 % (4.6 – 69.9)",
                "75.0 % (30.1 – 95.4)",
            ]
        },
    }


def test_the_page_has_the_table_below_the_drift(tmp_path: Path) -> None:
    asked = [b for b in behaviors(4) if b.kind == "harmful"]
    tried = [a for a in attempts(asked) if not a.variant]
    found = {
        name: lay(tmp_path / name, asked, tried, texts)
        for name, texts in (("before", [SOUP] * 4), ("after", [SOUP, *[REFUSAL] * 3]))
    }
    along_it = {"after": {0: found["before"], 8: found["after"]}}
    page = report.build(found, tmp_path / "out", checkpoints=along_it).read_text("utf-8")
    section = page[page.index('id="checkpoints"') :].partition("</section>")[0]
    assert "100.0 % (51.0 – 100.0)</td><td>25.0 % (4.6 – 69.9)</td>" in section
    assert "The same at every point: Answers to harmful requests broken (direct) 0.0 %." in section
    assert not parsed(page).open


def test_equal_levels_are_a_change_of_nothing() -> None:
    figure = Figure("a/b/c", "", "", "lower", Rate(1, 4), 4)
    assert tables._change(figure, figure, None).text == "= 0.0 points (no pairs)"
