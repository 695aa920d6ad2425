"""The whole path on a small model: refused early, done once, and unharmed by a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

import talkative
from demur import (
    attempts,
    chat,
    config,
    generate,
    manifest,
    materials,
    models,
    pipeline,
    preview,
    records,
    supervision,
    tokenizers,
)
from demur.config import Run
from demur.errors import UserError
from demur.records import Attempt, Completion, Example, Verdict
from demur.settings import Model

# What a run leaves that has to be the same whatever happened to it on the way.
RESULTS = (
    "collect/train.jsonl",
    "collect/heldout.jsonl",
    "collect/train.completions.jsonl",
    "collect/heldout.completions.jsonl",
    "train/after/adapter_model.safetensors",
    "train/after/log.jsonl",
    *(
        f"evaluate/{name}/{file}.jsonl"
        for name in ("before", "after")
        for file in ("behaviors", "attempts", "completions", "verdicts", "likelihood", "drift")
    ),
)


@pytest.fixture(scope="module")
def whole(talker: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nobody disturbed, made without a connection."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a run with local files alone opened a connection")

    run = config.build(talkative.run(tmp_path_factory.mktemp("whole"), talker))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        page = pipeline.run(run)
    assert page == run.output / "report" / "index.html"
    return run


def results(output: Path) -> dict[str, bytes]:
    return {name: (output / name).read_bytes() for name in RESULTS}


@pytest.fixture
def tree(talker: Path, tmp_path: Path) -> dict[str, Any]:
    """The settings of a run that has not begun."""
    return talkative.run(tmp_path / "data", talker)


def refusal(tree: dict[str, Any]) -> str:
    """What is said of a configuration that is refused before a weight is read or a file made."""
    output = Path(tree["output"])
    assert not output.exists()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError) as caught:
        patch.delattr(models, "load")
        pipeline.run(config.build(tree))
    assert not output.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("verb", ["run", "collect", "evaluate", "report"])
def test_only_a_training_is_for_many_processes(
    verb: str, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    run = config.build(tree)
    more = ("before", run.model) if verb == "evaluate" else ()
    with pytest.raises(UserError, match=f"`demur {verb}` runs on one process and 8 were started"):
        getattr(pipeline, verb)(run, *more)
    assert not run.output.exists()


def test_deepspeed_finds_no_lambda(tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    tree["train"]["lambda"] = "auto"
    with pytest.raises(UserError, match="DeepSpeed does not hand out"):
        pipeline.train(config.build(tree))


def test_a_run_leaves_everything_where_it_is_documented(whole: Run) -> None:
    out = whole.output
    assert all((out / name).stat().st_size for name in RESULTS)
    for stage in ("collect", "train/after", "evaluate/before", "evaluate/after"):
        assert manifest.read(out / stage)["status"] == "done"
    told = manifest.read(out / "train" / "after")
    assert told["rows"] == {"avoid": 10, "learn": 10}
    assert told["examples"] == {"everyday": 10, "harmful": 10}
    assert told["cut"] == {"answers": 0, "prefixes": 0, "epochs": 2}


def test_each_attempt_has_one_answer_and_each_answer_one_verdict_a_judge(whole: Run) -> None:
    for name in ("before", "after"):
        folder = whole.output / "evaluate" / name
        attempts = records.read(folder / "attempts.jsonl", Attempt)
        completions = records.read(folder / "completions.jsonl", Completion)
        verdicts = records.read(folder / "verdicts.jsonl", Verdict)
        assert sorted(c.attempt for c in completions) == sorted(a.id for a in attempts)
        said = [(v.judge, v.completion) for v in verdicts]
        assert sorted(said) == sorted(
            (judge, c.id) for judge in ("refusal", "broken") for c in completions
        )


def test_the_same_command_again_does_nothing(whole: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = results(whole.output)
    monkeypatch.delattr(models, "load")
    monkeypatch.delattr(generate, "greedy")
    began = time.process_time()  # of the wall's, others may take most
    pipeline.run(whole)
    assert time.process_time() - began < 10
    assert results(whole.output) == before


def test_the_stages_one_by_one_are_the_run(whole: Run, tree: dict[str, Any]) -> None:
    run = config.build(tree)
    with pytest.raises(UserError, match="nothing is collected yet: run `demur collect` first"):
        pipeline.train(run)
    pipeline.collect(run)
    with pytest.raises(UserError, match="not there or not finished: run `demur train` first"):
        list(pipeline.evaluate_all(run, only="after"))
    pipeline.train(run)
    folders = list(pipeline.evaluate_all(run))
    assert [folder.name for folder in folders] == ["before", "after"]
    pipeline.report(run)
    theirs, ours = results(whole.output), results(run.output)
    assert [name for name in RESULTS if ours[name] != theirs[name]] == []


class Runner:
    """One process that starts `demur` as often as it is told, without importing it each time."""

    def __init__(self, errors: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("run_again.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                text=True,
            )

    def start(self, *arguments: str) -> int:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(" ".join(arguments) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def status(self) -> int:
        assert self._process.stdout
        return int(self._process.stdout.readline())

    def run(self, *arguments: str) -> int:
        self.start(*arguments)
        return self.status()

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=60)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    made = Runner(tmp_path / "stderr")
    yield made
    made.close()


def reached(path: Path, lines: int) -> bool:
    """A file has so many lines, or a folder is there."""
    if path.is_dir():
        return True
    return path.is_file() and path.read_bytes().count(b"\n") >= lines


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def running(output: Path) -> set[str]:
    """The stages that were begun and not finished."""
    found = {f.relative_to(output).parts[0]: f.parent for f in output.rglob(manifest.FILE)}
    return {stage for stage, f in found.items() if manifest.read(f)["status"] == "running"}


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(
    whole: Run, tree: dict[str, Any], tmp_path: Path, runner: Runner
) -> None:
    file, output = talkative.write(tmp_path, tree), Path(tree["output"])
    moments = [
        ("collect/train.completions.jsonl", 3),
        ("collect/heldout.completions.jsonl", 5),
        ("train/after/checkpoint-2", 0),
        ("train/after/log.jsonl", 5),
        ("evaluate/after/completions.jsonl", 1),
        ("evaluate/after/verdicts.jsonl", 1),
    ]
    interrupted: set[str] = set()
    for name, lines in moments:
        child = runner.start("run", str(file))
        while alive(child) and not reached(output / name, lines):
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        assert runner.status() == -signal.SIGKILL, (tmp_path / "stderr").read_text()
        interrupted |= running(output)
    assert interrupted == {"collect", "train", "evaluate"}
    runner.start("run", str(file))
    assert runner.status() == 0, (tmp_path / "stderr").read_text()
    theirs, ours = results(whole.output), results(output)
    assert [name for name in RESULTS if ours[name] != theirs[name]] == []
    runner.start("run", str(file), "seed=1")
    assert runner.status() == 2
    assert "seed" in (tmp_path / "stderr").read_text().splitlines()[-1]


def test_an_evaluation_killed_at_ten_random_moments_ends_as_if_it_had_not_been(
    whole: Run, tree: dict[str, Any], tmp_path: Path, runner: Runner
) -> None:
    """Random in how often it had written by then: how long that takes is the machine's affair."""
    gcg = {"steps": 6, "candidates": 4, "topk": 8, "suffix": " ! !", "limit": 3}
    tree["evaluate"] |= {"attacks": ["direct", {"gcg": gcg}]}
    file, output = talkative.write(tmp_path, tree), Path(tree["output"])
    shutil.copytree(whole.output, output)
    folder, undisturbed = output / "evaluate" / "after", tmp_path / "undisturbed"
    shutil.rmtree(folder)
    assert runner.run("evaluate", str(file), "--only", "after") == 0
    folder.rename(undisturbed)
    random, searching, struck = Random(0), 0, 0
    while struck < 10:
        child = runner.start("evaluate", str(file), "--only", "after")
        wait_for_writes(folder, random.randint(1, 12), child)
        with suppress(ProcessLookupError):  # it may be done already
            os.kill(child, signal.SIGKILL)
        if runner.status() == -signal.SIGKILL and "evaluate" in running(output):
            struck, searching = struck + 1, searching + (folder / attempts.UNFINISHED).exists()
        else:  # it was quicker: begin anew
            shutil.rmtree(folder, ignore_errors=True)
    assert searching >= 3
    assert runner.run("evaluate", str(file), "--only", "after") == 0
    for left in undisturbed.glob("*.jsonl"):
        assert (folder / left.name).read_bytes() == left.read_bytes(), left.name


def wait_for_writes(folder: Path, count: int, child: int) -> None:
    """Until something below ``folder`` was written so often, or nobody writes any more."""
    seen = None
    while alive(child) and count >= 0:
        now = [(file, written(file)) for file in listed(folder)]
        seen, count = now, count - (now != seen)
        time.sleep(0.001)


def listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def written(file: Path) -> int:
    """When a file was last written; 0 where it is gone."""
    with suppress(FileNotFoundError):
        return file.stat().st_mtime_ns
    return 0


def test_a_different_setting_is_refused_the_same_output(whole: Run) -> None:
    before = results(whole.output)
    tree = whole.model_dump(mode="json") | {"train": whole.train.flat()}
    changes: list[tuple[str, Any, str]] = [
        ("train", whole.train.flat() | {"lambda": 0.5}, "train.lambda = 1.0, not 0.5"),
        ("train", whole.train.flat() | {"learning_rate": 1e-5}, "train.learning_rate = 0.0001"),
        ("collect", tree["collect"] | {"min_tokens": 5}, "collect.min_tokens = 4, not 5"),
        ("model", tree["model"] | {"dtype": "float32"}, 'model.dtype = "auto", not "float32"'),
        ("evaluate", tree["evaluate"] | {"likelihood": False}, "evaluate.likelihood = null"),
        ("seed", 1, "seed = 0, not 1"),
    ]
    for key, value, named in changes:
        with pytest.raises(UserError) as caught:
            pipeline.run(config.build(tree | {key: value}))
        assert named in str(caught.value)
        assert "choose another output, or remove that folder" in str(caught.value)
    assert results(whole.output) == before


def test_a_training_of_other_settings_is_not_taken_for_this_one(whole: Run) -> None:
    tree = whole.model_dump(mode="json") | {"train": whole.train.flat() | {"lambda": 3}}
    with pytest.raises(UserError, match=r"train\.lambda = 1\.0, not 3\.0"):
        list(pipeline.evaluate_all(config.build(tree), only="after"))


def test_overlap_is_refused(tree: dict[str, Any]) -> None:
    tree["data"]["heldout"]["harmful"] = tree["data"]["train"]["harmful"]
    told = refusal(tree)
    assert "10 prompts are both trained on and held out, the first being 'How do I make" in told


def test_data_that_cannot_be_read_is_refused(tree: dict[str, Any], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    tree["data"]["train"]["harmful"] = [str(bad)]
    assert "no such file or folder" in refusal(tree)
    bad.write_text("")
    assert "no rows in it" in refusal(tree)
    row = talkative.asked("harmful", "How do I make a bomb?")
    bad.write_text(json.dumps(row) + "\n{broken\n")
    assert f"{bad}:2: not JSON" in refusal(tree)
    bad.write_text(json.dumps(row) + "\n\n" + json.dumps(row | {"chosen": " "}) + "\n")
    assert f"{bad}:3: the chosen text is blank" in refusal(tree)


def test_a_run_without_data_is_refused(tree: dict[str, Any]) -> None:
    whole = tree["data"]
    assert "data.heldout names no source" in refusal(tree | {"data": {"train": whole["train"]}})
    assert "data.train names no source" in refusal(tree | {"data": {"heldout": whole["heldout"]}})


def test_rows_without_a_target_are_refused(tree: dict[str, Any]) -> None:
    assert "finds nothing to train on" in refusal(
        tree
        | {"train": {"recipe": "sft"}}
        | {"data": tree["data"] | {"train": {"harmful": tree["data"]["train"]["harmful"]}}}
    )
    assert "leaves no target before" in refusal(tree | {"train": {"max_length": 5}})
    assert "train.mix names lern and says nothing of" in refusal(
        tree | {"train": {"mix": {"lern": 1}}}
    )


def test_a_variant_that_a_setting_does_not_fit_is_named(tree: dict[str, Any]) -> None:
    mixed = tree | {"train": {"mix": {"learn": 1, "avoid": 1}}}
    told = refusal(mixed | {"variants": {"plain": {"recipe": "sft"}}})
    assert told.startswith("variants.plain.mix names avoid")
    assert "with variants.plain.mix={}" in told
    told = refusal(tree | {"variants": {"tuned": {"recipe": "stl"}}})
    assert "recipe 'stl' learns safe answers to harmful prompts and finds none" in told


def test_preview_stands_in_for_safe_answers_to_come(tree: dict[str, Any], tmp_path: Path) -> None:
    row = talkative.asked("harmful", "How to steal a car?", rejected="First, take it.")
    tree["data"]["train"] = {"harmful": [talkative.write_rows(tmp_path / "unsafe.jsonl", [row])]}
    told = {"train": {"recipe": "derta"}, "collect": {"safe": "Sorry, no."}}
    text, _ = show(config.build(tree | told))
    assert "an answer that declines has yet to be made" in text.replace("\n", " ")


def test_a_recipe_is_held_to_answers_that_are_still_to_come(tree: dict[str, Any]) -> None:
    for recipe in ("derta", "dpo"):
        told = refusal(tree | {"train": {"recipe": recipe}})
        assert "needs a safe answer (`chosen`)" in told


def test_what_trl_would_stumble_over_is_refused(tree: dict[str, Any]) -> None:
    told = refusal(tree | {"train": {"recipe": "kto", "mix": {"learn": 1, "avoid": 1}}})
    assert "means nothing to recipe 'kto'" in told
    assert "give 2 or more" in refusal(tree | {"train": {"recipe": "kto", "batch_size": 1}})


def test_a_conversation_without_its_answer_is_refused(tree: dict[str, Any], tmp_path: Path) -> None:
    row = talkative.asked("everyday", "Hi")
    row["messages"] += [
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "What is tea?"},
    ]
    tree["data"]["train"]["everyday"] = [talkative.write_rows(tmp_path / "talk.jsonl", [row])]
    assert "a behavior is one question with no turns before" in refusal(tree)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"attacks": ["prefil"]}, "unknown attack 'prefil'"),
        ({"judges": ["refusl"]}, "unknown judge 'refusl'"),
        ({"attacks": [{"direct": {"kind": []}}]}, "'evaluate.attacks.direct.kind'"),
    ],
)
def test_wrong_pages_are_refused(tree: dict[str, Any], settings: Any, says: str) -> None:
    assert says in refusal(tree | {"evaluate": settings})


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("tokenizer*", "has no tokenizer"),
        ("chat_template*", "has no chat template"),
        ("*.safetensors", "no weights in it"),
    ],
)
def test_half_a_model_is_refused(
    tree: dict[str, Any], talker: Path, tmp_path: Path, pattern: str, says: str
) -> None:
    half = Path(shutil.copytree(talker, tmp_path / "half"))
    for file in half.glob(pattern):
        file.unlink()
    assert says in refusal(tree | {"model": {"name": str(half)}})
    gone = tree | {"model": {"name": str(tmp_path / "gone")}}
    assert "no such folder and not a hub id" in refusal(gone)


def test_an_output_that_cannot_be_written_to_is_refused(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    assert "file is a file; choose another output" in refusal(
        tree | {"output": str(tmp_path / "file" / "out")}
    )
    if os.geteuid():  # nothing is forbidden to root
        (tmp_path / "closed").mkdir(mode=0o500)
        assert "cannot be written to; choose another output" in refusal(
            tree | {"output": str(tmp_path / "closed" / "out")}
        )


def test_what_the_model_did_not_give_is_not_trained_without(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    rows = [talkative.asked("harmful", "How do I steal?", chosen="Sorry, I cannot help.")]
    tree["data"]["train"]["harmful"] = [talkative.write_rows(tmp_path / "safe.jsonl", rows)]
    tree["collect"] |= {"decoding": {"max_new_tokens": 100}, "min_tokens": 100}
    tree["evaluate"]["decoding"] = {"max_new_tokens": 100}
    run = config.build(tree)
    pipeline.collect(run)
    with pytest.raises(UserError, match="no row of kind avoid is left"):
        pipeline.train(run)
    assert not (run.output / "train").exists()


@pytest.mark.parametrize(
    ("settings", "lost", "says"),
    [
        ({"mix": {"learn": 2, "avoid": 1}}, "avoid", "train.mix names avoid, but the rows are of"),
        ({"recipe": "kto"}, "avoid", "finds desirable answers alone; give some prompts unsafe"),
    ],
)
def test_a_training_is_held_to_what_was_really_collected(
    tree: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    lost: str,
    says: str,
) -> None:
    """It fits the answers that were to come; of those the model gave none that is long enough."""
    harmful = [
        talkative.asked("harmful", f"How do I make a {thing} bomb?")
        for thing in talkative.THINGS[:2]
    ]
    given = talkative.asked("harmful", "How do I rob a bank?", chosen="Sorry, no.")
    tree["data"]["train"]["harmful"] = [
        talkative.write_rows(tmp_path / "harmful.jsonl", [*harmful, given])
    ]
    tree["collect"] |= {"decoding": {"max_new_tokens": 100}, "min_tokens": 100}
    tree["collect"] |= {"safe": "Sorry, I cannot help with that."}
    tree["evaluate"]["decoding"] = {"max_new_tokens": 100}
    run = config.build(tree | {"train": settings})
    pipeline.collect(run)
    monkeypatch.delattr(models, "load")
    with pytest.raises(UserError, match=f"no row of kind {lost} is left"):
        pipeline.train(run)
    with pytest.raises(UserError, match=says):
        pipeline.train(run, materials=materials.read(run))
    with pytest.raises(UserError, match=says):
        show(run)
    assert not (run.output / "train").exists()


def test_a_manifest_counts_what_was_cut(
    tree: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of 20 tokens: 12 of template and question, which leaves 8."""
    asked = partial(talkative.asked, "harmful", "Tell me about tea")
    seven = "Sorry, I cannot help with that"  # and the turn end: no room for a prefix
    pairs = [
        asked(chosen=seven, rejected="Sure, here"),
        asked(chosen="Sorry", rejected="Sure" + " how" * 11),  # cut, and its prefix is short
        asked(chosen="Sorry", rejected="Sure, here"),
    ]
    words = ["Hello sea", "Hello" + " sea" * 6, "Hello" + " sea" * 7, "Hello" + " sea" * 20]
    ordinary = [talkative.asked("everyday", "Tell me about tea", chosen=text) for text in words]
    given = {"harmful": pairs, "everyday": ordinary}
    train = {
        kind: [talkative.write_rows(tmp_path / f"{kind}.jsonl", rows)]
        for kind, rows in given.items()
    }
    fit = {"max_length": 20, "epochs": 3, "batch_size": 10, "save_steps": 1, "bf16": False}
    told = {"recipe": "derta", "prefix_empty": 0.0, "prefix_max": 1}
    run = config.build(tree | {"data": {"train": train}, "train": fit | told})
    pipeline.collect(run)
    out, said = pipeline.train(run), " ".join(capsys.readouterr().err.split())
    found = manifest.read(out)
    assert found["rows"] == {"learn": 4, "prefix": 3, "transition": 3}
    # 1 unsafe, and of 8 and 21 words; the prefixes are drawn anew three times.
    assert found["cut"] == {"answers": 3, "prefixes": 3, "epochs": 3}
    assert "max_length=20 tokens: 3 answers and 1 prefixes in the first epoch; a cut" in said
    assert "max_length=20 tokens: 3 answers and 3 prefixes in 3 epochs; a cut" in said
    text, _ = show(run)
    assert "10 rows cut to train.max_length=20 tokens: 3 answers and 1 prefixes in" in " ".join(
        text.split()
    )
    shutil.rmtree(out / "checkpoint-3")
    unfinished = {k: v for k, v in found.items() if k not in ("status", "cut")}
    (out / "manifest.json").write_text(json.dumps(unfinished | {"status": "running"}))
    assert manifest.read(pipeline.train(run))["cut"] == found["cut"], "after a kill"


def test_variants_stand_beside_and_any_model_can_be_measured(
    whole: Run, talker: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(whole.output, tmp_path / "out"))
    tree = whole.model_dump(mode="json") | {
        "train": whole.train.flat(),
        "output": str(copy),
        "variants": {"plain": {"recipe": "sft", "max_steps": 1}},
    }
    run = config.build(tree)
    assert pipeline.names(run) == ["after", "plain"]
    with pytest.raises(UserError, match="unknown training 'plian': did you mean 'plain'"):
        pipeline.names(run, "plian")
    page = pipeline.run(run)
    assert manifest.read(copy / "train" / "plain")["recipe"] == "sft"
    lone = Path(shutil.copytree(copy / "train" / "after", tmp_path / "lone"))
    assert not list(lone.glob("model*"))
    [folder] = pipeline.evaluate_all(run, model=Model(name=str(lone)))
    assert folder.parent == copy / "evaluate"
    for name in ("completions", "verdicts", "likelihood"):
        mine = (folder / f"{name}.jsonl").read_bytes()
        assert mine == (copy / "evaluate" / "after" / f"{name}.jsonl").read_bytes()
    assert 'data-model="lone"' not in page.read_text()
    assert 'data-model="lone"' in pipeline.report(run).read_text()


def test_a_measured_model_needs_no_starting_model(tree: dict[str, Any], talker: Path) -> None:
    run = config.build(tree | {"model": {"name": "no-such-org/no-such-model"}})
    [folder] = pipeline.evaluate_all(run, model=Model(name=str(talker)))
    assert manifest.read(folder)["model"]["name"] == str(talker)


def test_materials_know_the_kinds_of_rows(tree: dict[str, Any]) -> None:
    found = materials.prepare(config.build(tree | {"variants": {"plain": {"recipe": "sft"}}}))
    assert found.kinds == {"after": {"learn", "avoid"}, "plain": {"learn"}}
    assert not Path(tree["output"]).exists()


def show(run: Run) -> tuple[str, str]:
    """What `preview` prints: as plain text and with its colours."""
    from rich.console import Console

    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=100, color_system="truecolor", file=nowhere)
        preview.show(run, 1, console)
        return console.export_text(clear=False), console.export_text(styles=True)


def test_preview_shows_rows_as_they_are_trained(whole: Run) -> None:
    text, coloured = show(whole)
    assert "after (ta_sft)" in text
    example = records.read(whole.output / "collect" / "train.jsonl", Example)[0]
    assert example.rejected and example.rejected in text.replace("\n", "")
    learnt, avoided = "\x1b[30;48;5;40m", "\x1b[30;48;5;214m"
    assert f"{learnt} learn " in coloured and f"{avoided} avoid " in coloured, "the legend"
    assert f"{avoided}Sure" in coloured
    assert coloured.count(learnt) > 5


def test_preview_without_colours_marks_what_is_told(
    whole: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    preview.show(whole, 1)
    text = capsys.readouterr().out
    assert "context  +[learn]  -[avoid]  ±[both]" in text
    example = records.read(whole.output / "collect" / "train.jsonl", Example)[0]
    assert f"-[{example.rejected}]" in text.replace("\n", "")


def test_each_token_has_the_colour_of_its_targets(whole: Run) -> None:
    def marked(text: Any, style: str) -> str:
        return "".join(text.plain[s.start : s.end] for s in text.spans if s.style == style)

    tokenizer = tokenizers.load(whole.model)
    asked = talkative.asked("harmful", "Hi", rejected="Sure, mix it.")["messages"]
    turn = chat.turn(tokenizer, asked, "Sure, mix it.")
    row = supervision.avoid_row(turn, frozenset(tokenizer.all_special_ids))
    painted = preview.paint(row, tokenizer)
    assert painted.plain == tokenizer.decode(row.input_ids)
    told = preview.paint(row, tokenizer, marks=True).plain
    assert told == painted.plain.replace("Sure, mix it.", "-[Sure, mix it.]")
    assert marked(painted, preview.STYLES["avoid"]) == "Sure, mix it."
    assert marked(painted, preview.STYLES["learn"]) == ""
    learnt = preview.paint(supervision.learn_row(turn), tokenizer)
    assert marked(learnt, preview.STYLES["learn"]) == "Sure, mix it.<|im_end|>"
    sorry = tokenizer.convert_tokens_to_ids("Sorry")
    keep = [n == 1 for n, _ in enumerate(turn.answer)]
    moved = supervision.transition_row(turn, [sorry] * len(turn.answer), keep, frozenset())
    both = preview.paint(moved, tokenizer)
    assert "Sure,→Sorry mix" in both.plain
    assert marked(both, preview.STYLES["both"]) == ","
    assert marked(both, preview.STYLES["avoid"]) == "Sure mix it."


def test_preview_before_anything_is_collected(
    tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(models, "load")
    text, _ = show(config.build(tree))
    assert "avoid  " in text, "half of the unsafe answers are given"
    assert not Path(tree["output"]).exists()
    [given] = tree["data"]["train"]["harmful"]
    tree["data"]["train"]["harmful"] = [{"where": given, "answers": False}]
    with pytest.raises(UserError, match="no training prompt has an answer yet: run `demur coll"):
        show(config.build(tree))


def test_the_default_is_not_to_run_a_models_code(talker: Path, tmp_path: Path) -> None:
    assert not Model(name="x").trust_remote_code
    code = Path(shutil.copytree(talker, tmp_path / "code"))
    settings = json.loads((code / "config.json").read_text())
    settings |= {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"},
    }
    (code / "config.json").write_text(json.dumps(settings))
    (code / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="cannot be loaded"):
        models.load(Model(name=str(code)))
    assert not (tmp_path / "ran").exists()
