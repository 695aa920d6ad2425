"""Each section measures, at a size that takes seconds; what is kept has the promised form."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as bench
from benchmarks import generation, head, measure, packing, startup, step

Figures = list[dict[str, Any]]
# What the design asks for: the figure, its bound, and which side of it is good.
TARGETS = {
    "exact EMD / cross-entropy, 0.3 N targets": (1.3, "lower"),
    "exact EMD / cross-entropy, 0.5 N targets": (1.3, "lower"),
    "exact EMD with a table / cross-entropy": (1.05, "lower"),
    "naive EMD with autograd / exact EMD": (1.4, "higher"),
    "peak memory, exact EMD / naive": (0.15, "lower"),
    "error of the gradient in bfloat16, exact EMD / naive": (1.0, "lower"),
    "ta_sft / trl's SFTTrainer, same rows": (1 / 1.5, "lower"),
    "ta_sft / trl's SFTTrainer, same rows grouped by length": (1 / 1.5, "lower"),
    "ta_sft / trl's SFTTrainer, rows of one length": (1.0, "lower"),
    "derta / trl's SFTTrainer, same rows": (1.0, "lower"),
    "peak memory of ta_sft / trl's SFTTrainer": (1.0, "lower"),
    "tokens a second, demur / model.generate, every other answer of five words": (1.5, "higher"),
    "seconds until demur --help has answered": (0.3, "lower"),
}
OTHERS = {
    "F.cross_entropy on logits / cross-entropy",
    "trl's head / cross-entropy",
    "bound / cross-entropy",
    "sft / trl's SFTTrainer, same rows",
    "ta_sft / sft, both demur's, same tokens",
    "step packed / padded at random, natural rows",
    "demur --help / a Python with nothing to do",
}
Section = Callable[[], Figures]


@pytest.fixture(scope="module")
def sections(tiny_model_path: Path) -> dict[str, Section]:
    """Every section at a toy's size, measured once."""
    pytest.importorskip("trl")
    model = str(tiny_model_path)
    small = (64, 8192, 8)
    sizes: dict[Any, Any] = {
        head: head.Size(32, 200, 8, 16, rounds=1, large=small, memory=("avoid",)),
        step: step.Size(model, 8, 4, words=1.5, rounds=1, memory=("ta_sft",)),
        packing: packing.Size(model, 2, 2, epoch=16, median=12, longest=32, rounds=1),
        generation: generation.Size(model, prompts=4, new_tokens=4, batch=2, rounds=1),
        startup: startup.Size(rounds=1),
    }
    return {
        module.__name__.partition(".")[2]: cache(lambda m=module, s=size: m.figures(s))
        for module, size in sizes.items()
    }


def well_formed(figures: Figures) -> None:
    for one in figures:
        assert one.keys() == {"name", "ratio", "target", "better", "spread"}
        assert one["better"] in ("lower", "higher")
        least, most = one["spread"]
        assert 0 < least <= one["ratio"] <= most
    names = [one["name"] for one in figures]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", bench.names())
def test_a_section_measures(name: str, sections: dict[str, Section]) -> None:
    figures = sections[name]()
    well_formed(figures)
    assert figures


def plain(name: str) -> str:
    """Without the size of a vocabulary, which a toy has smaller."""
    return name.partition(", V = ")[0]


def test_the_sections_measure_all_that_has_a_target(sections: dict[str, Section]) -> None:
    figures = [one for section in sections.values() for one in section()]
    well_formed(figures)
    found = {plain(one["name"]): (one["target"], one["better"]) for one in figures}
    assert found | TARGETS == found
    assert found.keys() >= OTHERS


def kept() -> dict[str, Any]:
    results: dict[str, Any] = json.loads(bench.RESULTS.read_text("utf-8"))
    return results


def test_what_is_kept_has_the_promised_form() -> None:
    well_formed(kept()["figures"])
    assert kept()["machine"]["processor"] and kept()["versions"]["torch"]


def test_the_table_is_written_from_what_is_kept(tmp_path: Path) -> None:
    page = bench.RESULTS.with_suffix(".md").read_text("utf-8")
    bench.keep(kept(), tmp_path / "results.json")
    assert (tmp_path / "results.md").read_text("utf-8") == page
    assert json.loads((tmp_path / "results.json").read_text("utf-8")) == kept()
    first = kept()["figures"][0]
    assert f"| {first['name']} | {first['ratio']:.2f} |" in page
    assert kept()["versions"]["torch"] in page


def test_what_is_kept_is_a_run_of_everything() -> None:
    found = {plain(one["name"]): (one["target"], one["better"]) for one in kept()["figures"]}
    assert found | TARGETS == found


def test_a_page_tells_ratios_of_rounds_from_what_was_measured_once_and_from_seconds() -> None:
    figures = [
        measure.figure("turns", [2.0, 6.0], [1.0, 2.0]),
        measure.figure("once", [2.0], [4.0]),
        measure.figure("seconds until it answers", [0.25, 0.2], [1.0, 1.0], 0.3),
    ]
    page = bench.markdown({"machine": {}, "versions": {}, "figures": figures})
    parts = [part.splitlines() for part in page.split("## ")[1:]]
    assert [part[4] for part in parts] == [
        "| turns | 2.50 | 2.00 - 3.00 |  |  |",
        "| once | 0.50 | - |  |  |",
        "| seconds until it answers | 0.23 s | 0.20 - 0.25 s | ≤ 0.3 s | yes |",
    ]


def test_a_case_may_time_itself() -> None:
    assert measure.times({"own": lambda: 7.0, "timed": lambda: None}, 1)["own"] == [7.0]


def test_a_peak_is_above_what_was_held_when_it_was_forgotten() -> None:
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system cannot start a peak anew")
    building = b"1" * (64 << 20)
    del building
    before = measure.forget_peak()
    assert measure.peak_memory() - before < 16 << 20
    held = b"1" * (64 << 20)
    assert measure.peak_memory() - before > len(held) // 2


def test_steps_are_timed_and_the_timer_is_taken_away_again() -> None:
    from transformers.trainer import DEFAULT_CALLBACKS

    def way(recipe: str, size: step.Size, out: Path) -> None:
        for begun in (True, False) * 2:
            for timer in DEFAULT_CALLBACKS[len(usual) :]:
                timer.on_step_begin() if begun else timer.on_step_end()

    usual = [*DEFAULT_CALLBACKS]
    assert step._run(way, "ta_sft", step.FULL) > 0
    assert usual == DEFAULT_CALLBACKS


@pytest.mark.parametrize("module", [head, step])
@pytest.mark.parametrize("given", [[], ["avoid"], ["away", "1", "2", "3"], ["demur", "sft", "{"]])
def test_a_wrong_call_for_memory_is_one_line(module: Any, given: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"^python -m benchmarks\.\w+ .*got \[") as refused:
        module._asked(given)
    assert "\n" not in str(refused.value)


def test_what_a_benchmark_lacks_is_said_before_any_is_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step, "NEEDS", ("no_such_package",))
    monkeypatch.setattr("sys.argv", ["benchmarks", "startup", "step"])
    with pytest.raises(SystemExit):
        bench.main()
    told = capsys.readouterr().err
    assert "no_such_package not installed" in told and "startup" not in told.splitlines()


def test_a_figure_is_the_median_of_the_rounds_and_says_whether_it_is_met() -> None:
    one = measure.figure("f", [2.0, 6.0, 4.0], [1.0, 2.0, 4.0], 2.0)
    assert (one["ratio"], one["spread"]) == (2.0, [1.0, 3.0])
    assert measure.met(one)
    assert not measure.met(one | {"target": 1.9})
    assert measure.met(one | {"target": 1.9, "better": "higher"})
    assert measure.met(one | {"target": None}) is None
