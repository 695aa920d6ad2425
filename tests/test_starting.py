"""Where a model that is given by hand is taken to have started, and what is measured by that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import talkative
from demur import config, identity, manifest, models, pipeline, records, starting, tokenizers
from demur.config import Run
from demur.errors import UserError
from demur.language import Drift
from demur.settings import Model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@pytest.fixture(scope="module")
def other(talker: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, pushed a little."""
    folder, start = tmp_path_factory.mktemp("other"), Model(name=str(talker), dtype="float32")
    model = models.load(start)
    for weight in model.parameters():
        weight.data.mul_(1.01)
    model.save_pretrained(folder)
    tokenizers.load(start).save_pretrained(folder)
    return folder


def tree(folder: Path, own: Path | str, **changes: Any) -> dict[str, Any]:
    """A run that only measures."""
    return talkative.run(folder / "data", own) | {"train": None} | changes


def run(folder: Path, own: Path | str, drift: Any = "default", **changes: Any) -> Run:
    made = tree(folder, own, **changes)
    if drift != "default":
        made["evaluate"] = made["evaluate"] | {"drift": drift}
    return config.build(made)


def test_another_model_is_held_against_the_runs_own(
    talker: Path, other: Path, tmp_path: Path
) -> None:
    [folder] = pipeline.evaluate_all(run(tmp_path, talker), Model(name=str(other)))
    found = records.read(folder / "drift.jsonl", Drift)
    assert found and all(d.kl > 0 and d.nll != d.start_nll for d in found)
    start = Model.model_validate(tree(tmp_path, talker)["model"])
    assert manifest.read(folder)["inputs"]["start"] == identity.identity(start)


@pytest.mark.parametrize("given", ["served", "elsewhere", "itself", "other words"])
def test_what_cannot_be_measured_is_said_or_refused_where_it_was_asked_for(
    given: str,
    talker: Path,
    other: Path,
    tmp_path: Path,
    tiny: dict[str, PreTrainedTokenizerBase],
    capsys: pytest.CaptureFixture[str],
) -> None:
    own, why = str(talker), "drift"
    model = Model(name=str(other))
    changes: dict[str, Any] = {}
    if given == "served":
        changes["model"] = {"name": "m", "endpoint": "http://127.0.0.1:9/v1"}
        why = "start='m' is served and shows no distributions"
    elif given == "elsewhere":
        own = str(tmp_path / "nothing")
        why = own
    elif given == "itself":
        model, why = Model.model_validate(tree(tmp_path, talker)["model"]), "nobody says what"
    else:
        own = str(talkative.save(tmp_path / "wordy", tiny["llama3"]))
        why = "has another vocabulary than the model"
    assert starting.start_of(model, run(tmp_path, own, **changes)) is None
    told = " ".join(capsys.readouterr().err.split())
    assert "is not measured" in told and why in told
    with pytest.raises(UserError) as caught:
        starting.start_of(model, run(tmp_path, own, drift={"limit": 2}, **changes))
    assert str(caught.value).startswith(f"evaluate.drift of {model.name!r}: ")
    assert why in str(caught.value) and "\n" not in str(caught.value)
    assert starting.start_of(model, run(tmp_path, own, drift=None, **changes)) is None


def test_a_model_with_an_adapter_started_from_its_base(talker: Path, tmp_path: Path) -> None:
    model = Model(name=str(talker), adapter=str(tmp_path / "adapter"))
    found = starting._known(model, run(tmp_path, talker, model=model.model_dump(mode="json")))
    assert found == model.model_copy(update={"adapter": None})


def test_a_served_models_drift_is_refused_where_it_was_asked_for(tmp_path: Path) -> None:
    served = {"name": "m", "endpoint": "http://127.0.0.1:9/v1"}
    asked = run(tmp_path, "m", drift={"limit": 2}, model=served)
    with pytest.raises(UserError, match=r"evaluate\.drift needs the weights"):
        list(pipeline.evaluate_all(asked))
