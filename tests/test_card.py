"""A trained model's card, read back by the library whose format it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import EvalResult, ModelCard

from demur import records, report
from demur.judges import harm
from demur.records import Completion
from demur.report.card import MARK, PLACEHOLDER, Origin
from worlds import HOSTILE, attempts, behaviors, lay, model, run, world


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The large world with cards in its training folders; TA-SFT's is an adapter."""
    root = tmp_path_factory.mktemp("cards")
    given = world(root)
    (given["training"]["TA-SFT"] / "adapter_config.json").write_text("{}")
    origin = Origin("smollm2-135m-instruct", ("org/set",))
    report.build(**given, out=root / "report", title="Mine", origin=origin)
    return root


def card(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def test_the_metadata_are_read_back(made: Path) -> None:
    data = card(made / "train-ta").data
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (data.library_name, data.base_model_relation) == ("peft", "adapter")
    assert (data.pipeline_tag, data.datasets) == ("text-generation", ["org/set"])
    assert data.tags == ["demur", "safety", "ta_sft"]
    assert data.model_name == "SmolLM2-135M-Instruct-TA-SFT"
    other = card(made / "train-derta").data
    assert (other.library_name, other.base_model_relation) == ("transformers", "finetune")


def test_the_results_are_the_reports(made: Path) -> None:
    """Every figure of results.json that has a value is in the model-index, and nothing else."""
    found = json.loads((made / "report" / "results.json").read_text("utf-8"))
    figures = found["models"]["TA-SFT"]["figures"]
    told: dict[str, EvalResult] = {
        r.metric_name: r for r in card(made / "train-ta").data.eval_results
    }
    assert len(told) == len(figures)
    for figure in figures.values():
        result = told[" ".join(figure["title"].split())]
        value = figure["rate"] if "rate" in figure else figure["value"]
        assert result.metric_value == pytest.approx(value, abs=1e-6)
        assert result.metric_args["n"] == figure["n"]
        assert result.metric_args["low"] == pytest.approx(figure["low"], abs=1e-6)
        assert result.dataset_revision == "a3c1b2d4e5f60718"
    answered = told["Harmful requests answered (prefill, k = 5)"]
    assert answered.dataset_name == "Harmful requests, prefill, k = 5"
    assert (answered.dataset_type, answered.dataset_config) == (
        "prefill-k-5-harmful",
        "prefill:k=5/harmful",
    )
    assert answered.metric_type == "complied_rate"


def test_a_rate_tells_its_judge_and_the_version(tmp_path: Path) -> None:
    asked = behaviors(3)
    shares = {"harmful": 0.5, "k=5": 0.5, "k=20": 0.5, "lookalike": 0.0, "everyday": 0.0}
    folders = {name: model(tmp_path / name, asked, shares) for name in ("before", "after")}
    for folder in folders.values():
        given = records.read(folder / "completions.jsonl", Completion)
        records.append(folder / "verdicts.jsonl", harm.judge(given, harm.Settings()))
    training = run(tmp_path / "train", "derta", {"harmful": 3})
    origin = Origin("org/base")
    report.build(folders, tmp_path / "out", {"after": training}, origin=origin, primary="harm")
    data: Any = card(training).data
    assert data.model_name == "base-derta"  # `after` is what it is called within its run
    told = {
        (r.metric_type, r.metric_args.get("judge"), r.metric_args.get("judge_version"))
        for r in data.eval_results
    }
    assert ("harmful_rate", "harm", harm.VERSION) in told
    assert {judge for kind, judge, _ in told if kind == "refused_rate"} == {"refusal"}
    assert {judge for kind, judge, _ in told if kind == "broken_rate"} == {"broken"}
    assert {judge for kind, judge, _ in told if kind.endswith("nll")} <= {None}


def test_the_text_says_what_was_measured_and_what_it_is_worth(made: Path) -> None:
    text = card(made / "train-ta").text
    assert "A PEFT adapter for HuggingFaceTB/SmolLM2-135M-Instruct" in text
    assert "by the recipe ta\\_sft" in text
    [line] = [x for x in text.split("\n") if x.startswith("| Harmful requests answered (direct)")]
    assert line.count("|") == 5  # the measure, which way is better, before, and this model
    assert "13 of 48; ▼" in line and "better" in line
    assert "TA-SFT: no look-alikes were trained on" in text
    assert "phrase rules" in text.lower()
    assert "| held-out data (fingerprint) | a3c1b2d4e5f60718 |" in text


def test_the_same_again_is_the_same_card_and_somebodys_own_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = behaviors(3)
    shares = {"harmful": 0.5, "k=5": 0.5, "k=20": 0.5, "lookalike": 0.0, "everyday": 0.0}
    folders = {
        "before": model(tmp_path / "b", asked, shares),
        "x": model(tmp_path / "x", asked, shares),
    }
    training = run(tmp_path / "train", "derta", {"harmful": 3})
    path = training / "README.md"

    def built() -> str:
        origin = Origin(str(tmp_path / "secret" / "base"))
        (tmp_path / "secret" / "base").mkdir(parents=True, exist_ok=True)
        report.build(folders, tmp_path / "out", {"x": training}, origin=origin)
        return path.read_text(encoding="utf-8")

    path.write_text(f"---\nlibrary_name: peft\n---\n{PLACEHOLDER}\n")
    first = built()
    assert MARK in first and PLACEHOLDER not in first
    assert built() == first
    data: Any = card(training).data
    assert data.base_model is None  # a folder of one's own is no id that a hub knows
    assert "Fine-tuned from base," in first and "secret" not in first
    path.write_text("# My model\n")
    assert built() == "# My model\n"
    assert "is somebody's own and is kept" in capsys.readouterr().err


def test_no_card_without_an_origin(tmp_path: Path) -> None:
    given = world(tmp_path)
    report.build(**given, out=tmp_path / "report")
    assert not list(tmp_path.rglob("README.md"))


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    asked = behaviors(2)
    tried_texts = ["Sorry, no."] * 10
    name = f"--- {HOSTILE}\n---\n# taken"
    folders = {
        "before": lay(tmp_path / "b", asked, attempts(asked), tried_texts, judge=HOSTILE),
        name: lay(tmp_path / "x", asked, attempts(asked), tried_texts, judge=HOSTILE),
    }
    training = run(tmp_path / "train", HOSTILE, {HOSTILE: 3})
    records.replace(
        training / "manifest.json",
        json.dumps({"recipe": HOSTILE, "inputs": {"train": {HOSTILE: HOSTILE}, "data": HOSTILE}}),
    )
    report.build(folders, tmp_path / "out", {name: training}, HOSTILE, origin=Origin(HOSTILE))
    found = card(training)
    assert len(found.data.eval_results) == len(
        json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))["models"][name][
            "figures"
        ]
    )
    assert not re.search(r"(?<!\\)<(script|img|/style)", found.text)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069\u2028]", found.text)
    assert "\n# taken" not in found.text
