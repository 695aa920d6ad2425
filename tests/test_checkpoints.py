"""Checkpoints of a real training of a small model, measured and drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import ModelCard

import talkative
from command import demur
from demur import (
    checkpoints,
    config,
    fitting,
    generate,
    identity,
    manifest,
    models,
    pipeline,
    records,
)
from demur.config import Run
from demur.errors import UserError
from demur.records import Behavior, Completion
from demur.settings import Model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@pytest.fixture(scope="module")
def file(
    tiny: dict[str, PreTrainedTokenizerBase], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run trained for 8 steps, of whose checkpoints at 2, 4, 6 and 8 two are kept; the file."""
    root = tmp_path_factory.mktemp("run")
    talker = talkative.save(tmp_path_factory.mktemp("talkative"), tiny["chatml"])
    made = talkative.write(root, talkative.run(root / "data", talker))
    pipeline.run(config.load(made))
    return made


@pytest.fixture(scope="module")
def run(file: Path) -> Run:
    return config.load(file)


@pytest.fixture(scope="module")
def measured(run: Run) -> list[Path]:
    (run.output / "train/after/checkpoint-best").mkdir()
    return list(checkpoints.evaluate(run, limit=4))


def test_the_start_and_what_is_left_are_measured(run: Run, measured: list[Path]) -> None:
    home = run.output / "checkpoints"
    assert measured == [home / "before/0", home / "after/6", home / "after/8"]
    asked = [{b.id for b in records.read(f / "behaviors.jsonl", Behavior)} for f in measured]
    assert asked[0] == asked[1] == asked[2]
    assert len(asked[0]) == 8  # four harmful, four everyday
    names = [manifest.read(folder)["inputs"]["model"] for folder in measured]
    assert names[0] != names[1] != names[2]


def test_the_last_checkpoint_is_the_trained_model(run: Run, measured: list[Path]) -> None:
    """What was saved at the last step answers as the finished training does."""
    whole = run.output / "evaluate" / "after" / "completions.jsonl"
    said = {c.attempt: c.text for c in records.read(whole, Completion)}
    for c in records.read(measured[-1] / "completions.jsonl", Completion):
        assert c.text == said[c.attempt]


def test_the_same_again_loads_nothing(
    run: Run, measured: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(models, "load")
    monkeypatch.delattr(generate, "greedy")
    assert list(checkpoints.evaluate(run, limit=4)) == measured
    with pytest.raises(UserError, match="was made with behaviors"):
        list(checkpoints.evaluate(run, limit=2))


def test_the_page_draws_them_and_the_json_has_them(run: Run, measured: list[Path]) -> None:
    page = pipeline.report(run)
    html = page.read_text(encoding="utf-8")
    assert "<h2>Along training</h2>" in html
    found = json.loads(page.with_name("results.json").read_text("utf-8"))["checkpoints"]
    assert [point["x"] for point in found["after"]] == [0, 6, 8]
    drift = [point["drift"]["direct/everyday/kl"]["value"] for point in found["after"]]
    assert drift[0] == 0 < min(drift[1:])
    assert "<figcaption>KL from the starting model, nats a token (everyday, direct)<" in html
    figure = found["after"][1]["figures"]["direct/harmful/complied"]
    assert (figure["n"] + figure["unscored"], figure["title"]) == (
        4,
        "Harmful requests answered (direct)",
    )


def test_the_page_is_made_again_from_its_folder_alone(
    run: Run,
    measured: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = pipeline.report(run)
    told = [file.read_bytes() for file in sorted(page.parent.iterdir())]
    shutil.rmtree(page.parent)
    assert demur(monkeypatch, capsys, "report", run.output) == (0, f"{page}\n", "")
    assert [file.read_bytes() for file in sorted(page.parent.iterdir())] == told
    for arguments, why in (
        ([tmp_path], "holds no finished evaluation: run `demur evaluate` first"),
        ([run.output, "title=Mine"], "title=Mine: "),
    ):
        code, out, err = demur(monkeypatch, capsys, "report", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert why in err


def test_pruned_checkpoints_are_told(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    list(checkpoints.evaluate(run, limit=4))
    told = capsys.readouterr().err
    assert "after: checkpoints of steps 6, 8; earlier ones are gone" in told
    assert "train.save_total_limit=2" in told and "save_total_limit=null" in told


def test_what_cannot_be_measured_is_one_line(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, why in (
        (["--limit", "3"], "--limit 3 is for --checkpoints"),
        (["--checkpoints", "--model", "m"], "leave out --model"),
        (["--checkpoints", "--only", "aftr"], "did you mean 'after'?"),
        (["--checkpoints", f"output={file.parent / 'none'}"], "run `demur collect` first"),
    ):
        code, out, err = demur(monkeypatch, capsys, "evaluate", file, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert why in err


def test_a_training_without_checkpoints_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has removed them, to spare the disk."""
    other = run.model_copy(update={"output": tmp_path / "out"})
    shutil.copytree(run.output, other.output)
    for folder in (other.output / "train/after").glob("checkpoint-*"):
        shutil.rmtree(folder)
    monkeypatch.delattr(models, "load")
    with pytest.raises(UserError, match="holds no checkpoint: lower train"):
        list(checkpoints.evaluate(other))


def test_what_somebody_put_beside_the_checkpoints_is_left_alone(tmp_path: Path) -> None:
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-best", "checkpoint-7-old"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-11").touch()
    found = {9: tmp_path / "checkpoint-9", 10: tmp_path / "checkpoint-10"}
    assert list(fitting.checkpoints(tmp_path).items()) == list(found.items())


@pytest.mark.parametrize(
    ("count", "limit", "kept"),
    [(10, 4, [0, 2, 5, 7]), (3, 4, [0, 1, 2]), (5, 1, [0]), (4, None, [0, 1, 2, 3])],
)
def test_fewer_prompts_are_spread_over_each_kind(
    count: int, limit: int | None, kept: list[int]
) -> None:
    asked = [
        Behavior(prompt=str(n), kind=kind) for n in range(count) for kind in ("harmful", "everyday")
    ]
    found = checkpoints.spread(asked, limit)
    assert [b.prompt for b in found if b.kind == "harmful"] == [str(n) for n in kept]
    assert len(found) == 2 * len(kept)


def test_every_verb_with_figures_prints_them_as_json(
    file: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: object) -> Any:
        code, out, _ = demur(monkeypatch, capsys, *arguments, "--json")
        assert code == 0
        return json.loads(out)

    page = told("report", file)
    assert page == json.loads((run.output / "report/results.json").read_text("utf-8"))
    whole = told("evaluate", file)
    folders = {name: str(run.output / "evaluate" / name) for name in ("before", "after")}
    assert list(whole) == list(folders.values())
    for name, folder in folders.items():
        assert whole[folder] == page["models"][name]["figures"]
    steps = told("evaluate", file, "--checkpoints", "--limit", "4")
    assert len(steps) == 3
    sides = told("compare", *folders.values())
    assert sides["models"]["after"]["figures"] == page["models"]["after"]["figures"]


def test_a_run_leaves_a_card_that_the_hub_can_read(run: Run) -> None:
    """In the place of the empty one that PEFT puts there."""
    card = ModelCard.load(run.output / "train" / "after" / "README.md")
    assert card.data.library_name == "peft"
    assert {result.metric_type for result in card.data.eval_results} >= {
        "complied_rate",
        "refused_rate",
        "unsafe_nll",
    }
    told = manifest.read(run.output / "train" / "after")
    assert told["unsafe"] == 10
    assert f"| training data (fingerprint) | {told['inputs']['data']} |" in card.text
    assert str(run.output) not in card.content
    model = Model(name=str(run.output / "train" / "after"))
    before = identity.identity(model)
    (run.output / "train" / "after" / "README.md").unlink()
    assert identity.identity(model) == before
