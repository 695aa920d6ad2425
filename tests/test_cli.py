"""The verbs: one line and exit code 2 for what can be mended, and help that shows how."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import talkative
from command import demur
from demur import __version__, cli, config, models, pipeline

VERBS = [command.callback.__name__ for command in cli.app.registered_commands if command.callback]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of eighty columns, without colours."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def file(tmp_path: Path, tiny_model_path: Path) -> Path:
    return talkative.write(tmp_path, talkative.run(tmp_path / "data", tiny_model_path))


NOWHERE = "no-such-org/no-such-model"
LOCAL = f"{{local: {{model: {{name: {NOWHERE}}}}}}}"
# Where a model that is loaded beside the one under test is named.
BESIDE = [
    ("attacks", "pair", LOCAL, "pair.local.model.name"),
    ("attacks", "autodan", LOCAL, "autodan.local.model.name"),
    ("attacks", "pair", f"{{judges: [{{llm: {LOCAL}}}]}}", "pair.judges.llm.local.model.name"),
    ("judges", "llm", LOCAL, "llm.local.model.name"),
]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train.lamda=1"], "did you mean 'train.lambda'?"),
        (["train.lambda=-1"], "train.lambda=-1"),
        (["train.lambda=["], "not YAML"),
        (["train.lambda"], "write it as section.key=value"),
        (["train.batch_size=many"], "train.batch_size='many'"),
        (["train.recipe=tasft"], "unknown recipe 'tasft'"),
        (["train.preset=pape"], "unknown train.preset 'pape'"),
        (["variants={half: {lamda: 1}}"], "did you mean 'variants.half.lambda'?"),
        (["evaluate.attacks=[prefil]"], "unknown attack 'prefil'"),
        (["evaluate.judges=[refusl]"], "unknown judge 'refusl'"),
        (["data.train.harmful=[none.jsonl]"], "no such file or folder: none.jsonl"),
        (["evaluate.judges=[llm]"], "evaluate.judges.llm.base_url is missing"),
        (["evaluate.attacks=[{autodan: {lexical: -1}}]"], "evaluate.attacks.autodan.lexical=-1"),
        *(
            ([f"evaluate.{pages}=[{{{page}: {given}}}]"], f"evaluate.{pages}.{place}={NOWHERE} (no")
            for pages, page, given, place in BESIDE
        ),
        (["--model", "no/such/folder"], "no such folder and not a hub id"),
        (["--model", "[x"], "no such folder and not a hub id"),
        (["--model", "no-such-org/no-such-model"], "no such folder; as a hub id"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "preview"])
def test_what_can_be_mended_is_one_line_and_exit_code_2(
    file: Path,
    verb: str,
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delattr(models, "load")
    code, out, err = demur(monkeypatch, capsys, verb, str(file), *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("demur: ") and err.count("\n") == 1
    assert says in err
    assert not (file.parent / "data" / "out").exists()


@pytest.mark.parametrize(
    "wrong", ["evaluate.judges=[llm]", "evaluate.attacks=[{gcg: {steps: -1}}]"]
)
def test_wrong_settings_are_said_before_what_is_not_measured(
    file: Path, wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run's own model nobody says what it started from, which is no news beside an error."""
    monkeypatch.delattr(models, "load")
    model = config.load(file).model.name
    code, _, err = demur(monkeypatch, capsys, "evaluate", str(file), "--model", model, wrong)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"demur: {wrong[:14]}")
    assert not (file.parent / "data" / "out").exists()


def test_an_output_that_cannot_be_made_is_refused_before_the_weights(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(models, "load")
    # Root may write everywhere but here.
    code, _, err = demur(monkeypatch, capsys, "collect", str(file), "output=/proc/no/such")
    assert (code, err.count("\n")) == (2, 1)
    assert "output=/proc/no/such: /proc cannot be written to; choose another output" in err


def test_a_missing_file_and_an_unknown_training(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = demur(monkeypatch, capsys, "run", "none.yaml")
    assert (code, err) == (2, "demur: no such configuration file: none.yaml\n")
    for verb in ("train", "evaluate"):
        code, _, err = demur(monkeypatch, capsys, verb, str(file), "--only", "aftr")
        assert (code, err.count("\n")) == (2, 1)
        assert "unknown training 'aftr': did you mean 'after'?" in err


def test_a_wrong_command_line_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, says in [
        (["nosuchverb"], "No such command 'nosuchverb'; see `demur --help`"),
        (["run"], "; see `demur run --help`"),
        (["run", "x.yaml", "--nosuchoption"], "--nosuchoption"),
        (["preview", "x.yaml", "--rows", "0"], "Invalid value for '--rows'"),
    ]:
        code, out, err = demur(monkeypatch, capsys, *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("demur: ") and err.count("\n") == 1 and says in err


def test_the_version_is_told_and_nothing_asked_is_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demur(monkeypatch, capsys, "--version") == (0, f"demur {__version__}\n", "")
    code, out, err = demur(monkeypatch, capsys)
    assert (code, err) == (0, "") and "Usage: demur" in out


def test_a_message_of_several_lines_becomes_one(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise cli.UserError("first\n  second")

    monkeypatch.setattr(pipeline, "collect", refuse)
    assert demur(monkeypatch, capsys, "collect", str(file))[2] == "demur: first second\n"


def test_a_bug_keeps_its_traceback(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "collect", fail)
    monkeypatch.setattr(sys, "argv", ["demur", "collect", str(file)])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize(
    "arguments",
    [
        ["FILE", "--model", "other", "train.lambda=0.5", "seed=3"],
        ["FILE", "train.lambda=0.5", "--model", "other", "seed=3"],
        ["--model", "other", "FILE", "train.lambda=0.5", "seed=3"],
        ["FILE", "train.lambda=0.5", "seed=3", "--model=other"],
    ],
)
def test_overrides_go_anywhere_after_the_file(
    file: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[config.Run] = []
    monkeypatch.setattr(pipeline, "run", lambda run: seen.append(run) or Path("page"))
    given = [str(file) if a == "FILE" else a for a in arguments]
    result = CliRunner().invoke(cli.app, ["run", *given])
    assert (result.exit_code, result.output) == (0, "page\n")
    [run] = seen
    assert (run.model.name, run.train.method.lambda_, run.seed) == ("other", 0.5, 3)


def test_another_model_drops_adapter_and_revision_unless_they_are_given(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = talkative.run(file.parent / "data", "m")
    tree["model"] |= {"adapter": "a", "revision": "r", "dtype": "float32"}
    talkative.write(file.parent, tree)
    assert cli._load(file, None).model.adapter == "a"
    other = cli._load(file, None, "123").model
    assert (other.name, other.adapter, other.revision) == ("123", None, None)
    assert other.dtype == "float32"
    assert cli._load(file, ["model.revision=v2"], "é, {x}").model.revision == "v2"
    assert cli._load(file, None, "é, {x} 😀").model.name == "é, {x} 😀"


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_shows_an_example_on_a_line_of_its_own(verb: str) -> None:
    result = CliRunner().invoke(cli.app, [verb, "--help"] if verb else ["--help"])
    assert result.exit_code == 0
    lines = [line.rstrip() for line in result.output.splitlines()]
    assert max(map(len, lines)) <= 80
    assert " Example:" in lines
    [example] = [line.strip() for line in lines if re.match(r" +demur \w", line)]
    words = example.split()
    assert words[1] in VERBS and (not verb or words[1] == verb)
    options = {word for word in words if word.startswith("--")}
    shown = CliRunner().invoke(cli.app, [words[1], "--help"]).output
    assert all(option in shown for option in options)


def test_help_alone_is_quick_and_loads_no_torch() -> None:
    """Measured in a process of its own: 0.2 s on an idle core; the bound leaves room for others."""
    code = (
        "import sys, time; began = time.perf_counter(); import demur\n"
        "from demur import cli\n"
        "sys.argv = ['demur', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy', 'pydantic', 'yaml', 'peft', 'trl'}\n"
        "print(sorted(heavy & sys.modules.keys()), time.process_time(), file=sys.stderr)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stderr
    loaded, seconds = told.rsplit(maxsplit=1)
    assert loaded == "[]"
    assert float(seconds) < 1.0


def test_telemetry_is_off_unless_somebody_has_turned_it_on() -> None:
    code = (
        "import demur, os; from huggingface_hub import constants as hub\n"
        "print(hub.HF_HUB_DISABLE_TELEMETRY, os.environ['DO_NOT_TRACK'])"
    )
    names = ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "DISABLE_TELEMETRY", "HF_HUB_OFFLINE")
    bare = {name: value for name, value in os.environ.items() if name not in names}
    told = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=bare | more,
        ).stdout.split()
        for more in ({}, {"DO_NOT_TRACK": "0", "HF_HUB_DISABLE_TELEMETRY": "0"})
    ]
    assert told == [["True", "1"], ["False", "0"]]


def test_a_wrong_configuration_is_refused_without_torch(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("output: x\nmodel: {name: m}\ntrain: {lamda: 1}\n")
    code = (
        "import sys\n"
        "from demur import cli\n"
        f"sys.argv = ['demur', 'run', {str(tmp_path / 'run.yaml')!r}]\n"
        "try: cli.main()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "2 False\n"


def test_a_model_alone_is_measured_on_the_demos_questions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pipeline.plain("org/model")
    assert (run.output, run.model.name, run.train) == (Path("runs/org-model"), "org/model", None)
    assert {s.where for of in run.data.heldout.by_kind().values() for s in of} == {
        f"demo:{kind}.heldout" for kind in ("harmful", "lookalike", "everyday")
    }
    assert (run.evaluate.primary, run.evaluate.judges[-1].name) == ("harm", "harm")
    given = ["evaluate.judges=[refusal, {llm: {base_url: http://h/v1, model: m}}]", "output=runs/x"]
    run = pipeline.plain("org/model", [*given, "model.chat_template=plain"])
    assert (run.output, run.model.chat_template) == (Path("runs/x"), "plain")
    assert (run.evaluate.primary, len(run.data.heldout.harmful)) == ("refusal", 1)
    assert run.evaluate.judges[-1].settings["base_url"] == "http://h/v1"
    assert len(pipeline.plain("m", ["suite={demo: {limit: 3}}"]).data.heldout.harmful) == 1
    code, _, err = demur(monkeypatch, capsys, "evaluate", "a=b", "--model", "m")
    assert (code, err.count("\n")) == (2, 1) and "unknown setting 'a'" in err
    code, _, err = demur(monkeypatch, capsys, "evaluate", "a=b")
    assert (code, err.count("\n")) == (2, 1) and "name a configuration, or a model" in err
    code, _, err = demur(monkeypatch, capsys, "evaluate", "--model", "no/such/model")
    assert (code, err.count("\n")) == (2, 1) and "no such folder and not a hub id" in err
    code, _, err = demur(monkeypatch, capsys, "evaluate")
    assert (code, err.count("\n")) == (2, 1) and "name a configuration, or a model" in err


def test_judge_prints_figures_for_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"question": "How?", "response": "I'm sorry, but I can't help with that."},
        {"question": "Why?", "response": "Because bread is good with tea."},
    ]
    file = talkative.write_rows(tmp_path / "answers.jsonl", rows)
    code, out, _ = demur(monkeypatch, capsys, "judge", file, "--judge", "refusal", "--json")
    assert code == 0
    found = json.loads(out)["refused"]
    assert (found["rate"], found["n"], found["unscored"]) == (0.5, 2, 0)
    assert found["low"] < 0.5 < found["high"]
    known = ("--judge", "refusal", "--json", "--kind", "harmful")
    code, out, err = demur(monkeypatch, capsys, "judge", file, *known)
    assert "corrected" in json.loads(out)["refused"] and not err
    code, out, _ = demur(monkeypatch, capsys, "judge", file)
    assert "refusal      refused     50.0%" in out and "broken       intact     100.0%" in out


def test_the_module_is_the_command(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "demur", "run", str(tmp_path / "none.yaml")],
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"demur: no such configuration file: {tmp_path / 'none.yaml'}\n"
