"""What a page calls a model: the last part of its path, unless two share that."""

from __future__ import annotations

from pathlib import Path

import pytest

from demur import exports, report, reporting
from demur.report import chosen, labels, names
from worlds import ANSWER, REFUSAL, attempts, behaviors, lay


def measured(run: Path, model: str, name: str = "") -> Path:
    """A finished evaluation of four harmful requests, as `demur evaluate --model` leaves it."""
    asked = [b for b in behaviors(4) if b.kind == "harmful"]
    tried = [a for a in attempts(asked) if not a.variant]
    folder = run / "evaluate" / (name or "-".join(p for p in Path(model).parts if p.strip("/")))
    return lay(folder, asked, tried, [ANSWER, ANSWER, REFUSAL, ANSWER], model={"name": model})


@pytest.mark.parametrize(
    ("models", "called", "title"),
    [
        (["/some/where/tiny"], ["tiny"], "tiny"),
        (["org/tiny", "/mine/small"], ["small", "tiny"], "small and tiny"),
        (["/a/after", "/b/after"], ["a/after", "b/after"], "a/after and b/after"),
    ],
)
def test_a_model_is_called_by_the_end_of_its_path(
    tmp_path: Path, models: list[str], called: list[str], title: str
) -> None:
    for model in models:
        measured(tmp_path / "out", model)
    html = reporting.again(tmp_path / "out").read_text("utf-8")
    assert f"<h1>{title}</h1>" in html
    assert [f'data-model="{name}"' in html for name in called] == [True] * len(called)
    assert "some-where" not in html.partition('id="manifest"')[0]


def test_a_run_is_called_by_the_model_it_starts_from(tmp_path: Path) -> None:
    measured(tmp_path / "out", "org/base", "before")
    measured(tmp_path / "out", "/x/before")
    html = reporting.again(tmp_path / "out").read_text("utf-8")
    assert "<h1>base</h1>" in html
    assert 'data-model="before"' in html and 'data-model="x/before"' in html


def test_runs_side_by_side_are_called_by_their_models(tmp_path: Path) -> None:
    before = measured(tmp_path / "run", "org/base", "before")
    measured(tmp_path / "out", "/some/where/tiny")
    page = report.side_by_side([before, tmp_path / "out"], force=True)
    assert "<h1>base and tiny</h1>" in page.write(tmp_path / "page").read_text("utf-8")
    other = measured(tmp_path / "b", "org/base", "before")
    same = report.side_by_side([before, other], force=True)
    assert "<h1>run/before and b/before</h1>" in same.write(tmp_path / "page").read_text("utf-8")


def test_an_export_and_a_comparison_call_it_so_too(tmp_path: Path) -> None:
    folder = measured(tmp_path / "out", "/some/where/tiny")
    assert list(chosen.choose([folder])) == ["tiny"]
    assert list(chosen.choose([tmp_path / "out"])) == ["out"]
    out = exports.export(folder, "jailbreakbench", tmp_path / "a.json")
    assert '"model": "tiny"' in out.read_text("utf-8")


def test_many_models_make_no_endless_title(tmp_path: Path) -> None:
    folders = {name: measured(tmp_path / name, f"/m/{name}") for name in "abcde"}
    assert names.heading(folders) == "a and 4 others"


def test_names_cut_for_a_drawing_stay_apart() -> None:
    models = ["SmolLM2-135M-base", "SmolLM2-135M-instruct", "before"]
    cut = labels.names(models)
    assert len(set(cut)) == 3 and max(map(len, cut)) == 14 and cut[2] == "before"
    alike = labels.names(["a-long-name-of-x-and-more", "a-long-name-of-y-and-more"])
    assert alike[0] != alike[1] and max(map(len, alike)) <= 14
