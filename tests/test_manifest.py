"""A folder says what it was made from, and is never a mixture of two runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demur import manifest
from demur.errors import UserError
from demur.records import Behavior

INPUTS = {"train": {"lambda": 0.5, "lora": {"r": 16}}, "kinds": ("harmful",), "seed": 0}


def test_a_stage_runs_once(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    assert not manifest.begin(folder, INPUTS, {"chat_template": "abc"})
    assert not manifest.done(folder, INPUTS)
    assert manifest.read(folder)["status"] == "running"
    assert not manifest.begin(folder, INPUTS), "a killed stage goes on"
    manifest.finish(folder, completions=3)
    assert manifest.begin(folder, INPUTS)
    told = manifest.read(folder)
    assert (told["status"], told["completions"]) == ("done", 3)
    assert {"demur", "python", "torch", "transformers"} <= told["versions"].keys()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed = 0, not 1"),
        ({"train": {"lambda": 0.7, "lora": {"r": 16}}}, "train.lambda = 0.5, not 0.7"),
        ({"train": {"lambda": 0.5, "lora": {"r": 8}}}, "train.lora.r = 16, not 8"),
        ({"train": {"lambda": 0.5, "lora": None}}, 'train.lora = {"r": 16}, not null'),
        ({"kinds": ("harmful", "everyday")}, 'kinds without "everyday"'),
        ({"more": 1}, "more = null, not 1"),
    ],
)
def test_another_setting_is_refused_by_name(
    tmp_path: Path, finished: bool, change: dict[str, object], named: str
) -> None:
    manifest.begin(tmp_path, INPUTS)
    (tmp_path / "completions.jsonl").touch()
    if finished:
        manifest.finish(tmp_path)
    before = (tmp_path / manifest.FILE).read_bytes()
    with pytest.raises(UserError) as caught:
        manifest.begin(tmp_path, INPUTS | change)
    assert named in str(caught.value)
    assert str(caught.value).endswith("choose another output, or remove that folder")
    assert (tmp_path / manifest.FILE).read_bytes() == before


def test_what_stopped_before_it_made_anything_may_begin_again(tmp_path: Path) -> None:
    manifest.begin(tmp_path, INPUTS)
    assert not manifest.begin(tmp_path, INPUTS | {"seed": 1})
    assert manifest.read(tmp_path)["inputs"]["seed"] == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"status": "done"}', "\xff"])
def test_a_damaged_manifest_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / manifest.FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"is no manifest of demur: remove it"):
        manifest.begin(tmp_path, INPUTS)


def test_an_unwritable_output_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another output"):
        manifest.begin(tmp_path / "file" / "stage", INPUTS)


def test_the_fingerprint_of_data_sees_every_field_and_the_order() -> None:
    one, two = Behavior(prompt="a", kind="harmful"), Behavior(prompt="b", kind="harmful")
    answered = Behavior(prompt="a", kind="harmful", unsafe="x")
    assert one.id == answered.id
    prints = [manifest.of(of) for of in ([one, two], [two, one], [answered, two], [one])]
    assert len(set(prints)) == 4
    assert manifest.of([one, two]) == prints[0]


def test_it_is_json_whatever_the_inputs_hold(tmp_path: Path) -> None:
    manifest.begin(tmp_path, {"path": Path("a"), "text": "ü"})
    assert json.loads((tmp_path / manifest.FILE).read_bytes())["inputs"] == {
        "path": "a",
        "text": "ü",
    }
    assert not manifest.begin(tmp_path, {"path": Path("a"), "text": "ü"})


def test_a_file_elsewhere_in_a_folder_is_another_content(tmp_path: Path) -> None:
    """Templates are called after their place, so the attempts would be others."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    file = tmp_path / "a" / "t.yaml"
    file.write_text("{question}")
    before = manifest.files([[("templates", tmp_path)]])
    file.rename(tmp_path / "b" / "t.yaml")
    assert manifest.files([[("templates", tmp_path)]]) != before
