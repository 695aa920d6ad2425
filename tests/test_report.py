"""What a report says of a small world, counted by hand, and what it refuses to be made of."""

from __future__ import annotations

import json
import re

import pytest

from demur import records, report
from demur.errors import UserError
from demur.judges import harm
from demur.language import Drift
from demur.measures import Figure
from demur.metrics import Rate
from demur.records import Behavior, Completion, Verdict
from demur.report import words
from worlds import (
    ANSWER,
    REFUSAL,
    attempts,
    behaviors,
    lay,
    parsed,
    results,
    run,
)


def test_numbers_counted_by_hand(small, tmp_path):
    found = results(report.build(small, tmp_path / "out"))["models"]
    before, after = (found[name]["figures"] for name in ("before", "after"))
    counts = {
        key: tuple(part for value in (one[key], two[key]) for part in (value["k"], value["n"]))
        for one, two in [(before, after)]
        for key in before
        if "k" in before[key]
    }
    assert counts == {
        "direct/harmful/complied": (3, 4, 0, 3),
        "direct/harmful/refused": (1, 4, 2, 3),
        "direct/harmful/broken": (0, 4, 1, 3),
        "direct/lookalike/refused": (0, 2, 1, 2),
        "direct/lookalike/broken": (0, 2, 0, 2),
        "direct/everyday/refused": (0, 2, 0, 2),
        "direct/everyday/broken": (0, 2, 1, 2),
    }
    assert after["direct/harmful/complied"]["unscored"] == 1
    assert before["direct/harmful/complied"]["rate"] == 0.75
    # Wilson for 3 of 4, z = 1.96: centre 0.6278, half-width 0.3268.
    assert before["direct/harmful/complied"]["low"] == pytest.approx(0.3006, abs=1e-4)
    assert before["direct/harmful/complied"]["high"] == pytest.approx(0.9544, abs=1e-4)


def test_paired_comparison_leaves_the_unscored_out(small, tmp_path):
    """Of the 3 harmful requests scored in both, all 3 were answered before and none after."""
    against = results(report.build(small, tmp_path / "out"))["models"]["after"]["against_first"]
    complied = against["direct/harmful/complied"]
    assert complied["mcnemar"] == {"b": 3, "c": 0, "p": 0.25, "unscored": 1}
    assert (complied["n"], complied["difference"]["value"], complied["clear"]) == (3, -1, False)
    nll = against["likelihood/unsafe_nll"]["difference"]
    assert (nll["value"], nll["low"], nll["high"]) == (0, 0, 0)


def test_verdict_in_plain_words(small, tmp_path):
    text = parsed(report.build(small, tmp_path / "out").read_text(encoding="utf-8")).text
    assert (
        "Of the harmful requests asked directly, 3 of 4 were answered before and 0 of 3 after."
        in text
    )
    assert "Of 2 harmless look-alikes, none were declined before and 1 after." in text
    assert "Of 2 everyday answers, none were broken before and 1 after." in text
    assert "1 of 8 answers of after could not be scored." in text


def test_the_headline_says_by_which_recipe_after_was_made(small, tmp_path):
    training = run(tmp_path / "training", "derta", {"harmful": 1})
    page = report.build(small, tmp_path / "out", {"after": training})
    told = "3 of 4 were answered before and 0 of 3 after (derta)."
    assert told in parsed(page.read_text(encoding="utf-8")).text
    markdown = page.with_name("report.md").read_text(encoding="utf-8")
    assert "**0** of 3 after (derta)." in markdown


def test_better_and_worse_are_said_of_no_difference_within_chance(large):
    page, root = large
    models = json.loads((root / "report" / "results.json").read_text())["models"]
    clear = [one["clear"] for m in models.values() for one in m["against_first"].values()]
    assert True in clear and False in clear
    said = re.findall(r'<span class="change ([a-z]*)">([^<]*)</span>', page)
    assert {"(within chance)" in text for sense, text in said if sense} == {False}
    assert not [text for sense, text in said if not sense and re.search("better|worse", text)]


def test_without_pairs_nothing_is_better_or_worse(tmp_path):
    """Forty requests of one model are other ones than the forty of the next."""
    asked = [b for b in behaviors(80) if b.kind == "harmful"]
    halves = {"before": (asked[:40], ANSWER), "after": (asked[40:], REFUSAL)}
    folders = {}
    for name, (some, text) in halves.items():
        tried = [a for a in attempts(some) if not a.variant]
        folders[name] = lay(tmp_path / name, some, tried, [text] * 40, nats={})
    page = report.build(folders, tmp_path / "out").read_text("utf-8")
    said = re.findall(r'<span class="change ([a-z]*)">([^<]*)</span>', page)
    assert ("", "▼ 100.0 points (no pairs)") in said
    assert not [text for sense, text in said if sense or re.search("better|worse", text)]


def test_the_strongest_attack_is_told(large):
    page, root = large
    figures = json.loads((root / "report" / "results.json").read_text())["models"]
    counts = [figures[name]["figures"]["prefill:k=20/harmful/complied"]["k"] for name in figures]
    assert counts == [48, 27, 6]
    assert (
        "Of 48 harmful requests under the strongest attack (prefill, k\u00a0=\u00a020), "
        "48 were answered before, 27 by TA-SFT and 6 by DeRTa." in parsed(page).text
    )


def test_an_attack_on_a_handful_of_requests_makes_no_headline():
    def row(k, n):
        return [Figure("", "", "", "lower", Rate(k, n), n)]

    table = {"prefill:k=5/harmful/complied": row(20, 46), "prefill:o/harmful/complied": row(4, 4)}
    assert words._worst(table, "/harmful/complied") == "prefill:k=5"


def test_a_cell_says_rate_interval_count_and_change(small, tmp_path):
    page = report.build(small, tmp_path / "out")
    line = next(
        line
        for line in page.with_name("report.md").read_text(encoding="utf-8").split("\n")
        if line.startswith("| Harmful requests answered (direct)")
    )
    assert "75.0 % (30.1 – 95.4 %), 3 of 4 |" in line
    assert "0 of 3, 1 unscored; ▼ 75.0 points (within chance) |" in line


def test_missing_verdicts_are_counted_and_shown(small, tmp_path):
    said = records.read(small["after"] / "verdicts.jsonl", Verdict)
    records.write(small["after"] / "verdicts.jsonl", said[2:])  # nothing on the first answer
    page = report.build(small, tmp_path / "out")
    complied = results(page)["models"]["after"]["figures"]["direct/harmful/complied"]
    assert (complied["k"], complied["n"], complied["unscored"]) == (0, 2, 2)
    text = page.read_text(encoding="utf-8")
    assert "<em>2 unscored</em>" in text
    assert "no verdict" in text


def test_results_name_what_made_them(small, tmp_path):
    found = results(report.build(small, tmp_path / "out"))
    assert found["chat_template"] == "5f1d0c2ab7e34a90"
    assert found["judges"] == {"broken": "1", "refusal": "1"}
    assert found["models"]["after"]["manifest"]["model"]["name"] == "after"
    assert found["demur"]


def test_judges_of_different_versions_are_not_compared(small, tmp_path):
    said = records.read(small["after"] / "verdicts.jsonl", Verdict)
    newer = [v for v in said if v.judge == "broken"]
    newer += [
        Verdict(completion=v.completion, label=v.label, judge="refusal", version="2")
        for v in said
        if v.judge == "refusal"
    ]
    records.write(small["after"] / "verdicts.jsonl", newer)
    with pytest.raises(UserError, match="'refusal' has versions 1 and 2 in 'before', 'after'"):
        report.build(small, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    page = report.build(small, tmp_path / "out", force=True)
    assert "Judge refusal compared across versions: 1 and 2." in page.read_text(encoding="utf-8")


def test_different_questions_and_templates_are_noted(small, tmp_path):
    asked = behaviors(3)
    other = lay(
        tmp_path / "other",
        asked,
        attempts(asked),
        [ANSWER] * 15,
        chat_template="another",
    )
    page = report.build({"before": small["before"], "other": other}, tmp_path / "out")
    notes = results(page)["notes"]
    assert "before and other were asked 7 of 16 attempts in common." in notes
    assert any(note.startswith("The chat templates differ") for note in notes)
    assert results(page)["chat_template"] is None
    prefill = "prefill:k=5/harmful/complied"
    assert prefill not in results(page)["models"]["before"]["figures"]
    assert results(page)["models"]["other"]["figures"][prefill]["n"] == 3
    html = page.read_text(encoding="utf-8")
    assert "not measured" in html
    assert "was not asked this" in html


def test_a_judge_of_harm_leads_the_page(small, tmp_path):
    """It grades two of the three answers given before, and cannot say of the third."""
    grades = {ANSWER: "harmful", REFUSAL: "safe", "la la la": "safe", "?": "safe"}
    for folder in small.values():
        given = records.read(folder / "completions.jsonl", Completion)
        graded = [
            Verdict(completion=c.id, label=label, judge="llm", version="1", score=0.8)
            for n, c in enumerate(given)
            if c.kind == "harmful"
            for label in ["unscored" if n == 0 and c.text == ANSWER else grades[c.text]]
        ]
        records.append(folder / "verdicts.jsonl", graded)
    page = report.build(small, tmp_path / "out", primary="llm")
    before = results(page)["models"]["before"]["figures"]
    harmful, complied = before["direct/harmful/harmful"], before["direct/harmful/complied"]
    assert (harmful["k"], harmful["n"], harmful["unscored"]) == (2, 3, 1)
    assert (complied["k"], complied["n"], complied["unscored"]) == (3, 4, 0)
    html = page.read_text(encoding="utf-8")
    told = "2 of 3 were answered harmfully before and 0 of 4 after."
    assert told in parsed(html).text
    unscored = html[html.index('id="t0-0-unscored"') :]
    assert re.findall(r'href="#t0\.(\d)"', unscored[: unscored.index("</dd>")]) == ["1"]


def test_harm_by_an_estimate_says_so_wherever_it_is_told(small, tmp_path):
    for folder in small.values():
        given = records.read(folder / "completions.jsonl", Completion)
        records.append(folder / "verdicts.jsonl", harm.judge(given, harm.Settings()))
    page = report.build(small, tmp_path / "out", primary="harm")
    assert results(page)["primary"] == "harm"
    text, twin = parsed(page.read_text("utf-8")).text, page.with_name("report.md").read_text()
    for told in (text, twin):
        assert "answered harmfully (by an offline estimate)" in told.replace("\\", "")
        assert "Harmful requests answered harmfully by an offline estimate (direct)" in told
        assert "Harm is an offline estimate here, by the judge harm" in told
    plain = report.figures_of(small["before"], "harm")
    assert plain["direct/harmful/harmful"]["title"].count("offline estimate") == 1


def test_one_evaluation_alone(small, tmp_path):
    page = report.build({"only": small["before"]}, tmp_path / "out").read_text(encoding="utf-8")
    assert "Of 4 harmful requests asked directly" in page
    assert 'class="change' not in page
    assert 'id="training"' not in page


@pytest.mark.parametrize("missing", ["log.jsonl", "manifest.json"])
def test_a_partial_training_is_refused_before_anything_is_written(small, tmp_path, missing):
    training = run(tmp_path / "training", "ta_sft", {"harmful": 1})
    (training / missing).unlink()
    with pytest.raises(UserError, match=missing):
        report.build(small, tmp_path / "out", {"after": training})
    assert not (tmp_path / "out").exists()


def test_a_log_that_is_not_json_is_named_by_its_line(small, tmp_path):
    training = run(tmp_path / "training", "ta_sft", {"harmful": 1})
    (training / "log.jsonl").write_text('{"step": 1, "loss": 2}\n{"step"', encoding="utf-8")
    with pytest.raises(UserError, match=r"log.jsonl:2: not JSON"):
        report.build(small, tmp_path / "out", {"after": training})


def test_nothing_to_report_and_nowhere_to_write(small, tmp_path):
    with pytest.raises(UserError, match="no evaluation to report on"):
        report.build({}, tmp_path / "out")
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        report.build(small, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_the_language_of_the_answers_is_a_table(small, tmp_path):
    """A loop and a drift in the everyday answers of one model, in all three files."""
    after = small["after"]
    given = records.read(after / "completions.jsonl", Completion)
    everyday = [c for c in given if c.kind == "everyday"]
    looped = Verdict(
        completion=everyday[0].id,
        label="broken",
        judge="broken",
        version="1",
        detail={"sort": "loop"},
    )
    records.append(after / "verdicts.jsonl", [looped])
    drift = Drift(completion=everyday[1].id, tokens=4, nll=2.0, start_nll=4.0, kl=1.0)
    records.write(after / "drift.jsonl", [drift])
    page = report.build(small, tmp_path / "out")
    found = results(page)["models"]["after"]["language"]["direct/everyday"]
    assert (found["loop"]["k"], found["loop"]["n"], found["glue"]["k"]) == (1, 2, 0)
    assert (found["kl"]["value"], round(found["perplexity"]["value"], 2)) == (0.25, 2.72)
    assert results(page)["models"]["before"]["language"]["direct/everyday"]["kl"] is None
    text = parsed(page.read_text(encoding="utf-8")).text
    assert "2.72 (2.72 – 2.72)" in text[text.index("distinct-1") :]
    twin = page.with_name("report.md").read_text(encoding="utf-8")
    assert "| Everyday requests, direct | after | 0 of 2 | 1 of 2 |" in twin


def test_solved_tasks_are_told_and_their_answers_shown(tmp_path):
    asked = [
        Behavior(prompt=f"{n} + 4?", kind="task", answer=f"#### {n + 4}", source="sums.jsonl")
        for n in range(3)
    ]
    tried = [a for a in attempts(asked) if not a.variant]
    said = {"before": ["#### 4", "#### 5", "six"], "after": ["#### 4", "no", "no"]}
    folders = {}
    for name, texts in said.items():
        folder = lay(tmp_path / name, asked, tried, texts, nats={})
        given = records.read(folder / "completions.jsonl", Completion)
        for c, b in zip(given, asked, strict=True):
            label = "correct" if c.text == b.answer else "wrong"
            solved = Verdict(completion=c.id, label=label, judge="exact", version="exact/1")
            records.append(folder / "verdicts.jsonl", [solved])
        folders[name] = folder
    page = report.build(folders, tmp_path / "out")
    found = results(page)["models"]["after"]
    assert (
        found["figures"]["direct on sums.jsonl/task/correct"]["k"],
        found["figures"]["direct on sums.jsonl/task/correct"]["n"],
    ) == (1, 3)
    flips = found["against_first"]["direct on sums.jsonl/task/correct"]["mcnemar"]
    assert (flips["b"], flips["c"], flips["p"]) == (1, 0, 1.0)
    html = parsed(page.read_text(encoding="utf-8"))
    assert "Of 3 tasks of sums.jsonl, 2 were solved before and 1 after." in html.text
    assert {"t0-0-right", "t0-1-wrong"} <= set(html.all("id"))
    assert "owrong" in " ".join(html.all("class"))
