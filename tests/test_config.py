"""Settings are typed and closed: what is wrong is refused in one line that offers the cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from demur import config, pages
from demur.asking import Evaluate
from demur.errors import UserError
from demur.settings import page_settings, spelled

SHORT: dict[str, Any] = {"output": "runs/x", "model": {"name": "m"}, "train": {}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(SHORT))
    return path


def refusal(file: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        config.load(file, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_shortest_file_has_the_documented_defaults(file: Path) -> None:
    run = config.load(file)
    assert run.train.recipe == "ta_sft"
    assert [page.name for page in run.evaluate.attacks] == ["direct", "prefill"]
    assert list(run.trainings()) == ["after"]
    assert not run.model.trust_remote_code


def test_overrides_are_yaml_and_go_anywhere(file: Path) -> None:
    run = config.load(
        file,
        [
            "train.lambda=0.5",
            "train.learning_rate=1e-4",  # YAML 1.1 reads a text here
            "train.lora=null",
            "train.mix={learn: 3, avoid: 1}",
            "data.train.harmful=[a.jsonl, {where: hub:o/n, limit: 3}]",
            "evaluate.attacks=[direct, {prefill: {tokens: [5]}}]",
            "title=a=b",
        ],
    )
    assert (run.train.method.lambda_, run.train.fit.learning_rate) == (0.5, 1e-4)
    assert (run.train.fit.lora, run.train.fit.mix) == (None, {"learn": 3, "avoid": 1})
    assert [s.where for s in run.data.train.harmful] == ["a.jsonl", "hub:o/n"]
    assert run.evaluate.attacks[1].settings == {"tokens": [5]}
    assert run.title == "a=b"


def test_an_override_may_fill_in_what_the_file_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("train:\noutput: x\n")
    run = config.load(tmp_path / "empty.yaml", ["model.name=m", "train.recipe=sft"])
    assert (run.model.name, run.train.recipe) == ("m", "sft")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.lamda=1", "unknown setting 'train.lamda': did you mean 'train.lambda'?"),
        ("train.lora.rnak=3", "unknown setting 'train.lora.rnak': known: alpha, dropout, r,"),
        ("outptu=x", "unknown setting 'outptu': did you mean 'output'?"),
        ("data.train.harmfull=[a]", "did you mean 'data.train.harmful'?"),
        ("data.train.harmful=[{where: a, formt: b}]", "did you mean 'data.train.harmful.format'?"),
        ("collect.decoding.batch_sise=3", "did you mean 'collect.decoding.batch_size'?"),
        ("train.method=3", "unknown setting 'train.method'"),
        ("train.fit={}", "unknown setting 'train.fit'"),
        ("train={1: 2}", "unknown setting 'train.1'"),
        ("train.recipe=tasft", "unknown recipe 'tasft': did you mean 'ta_sft'?"),
        ("train.recipe=contrastive", "set collect.safe.ask=rewrite, as configs/contrastive.yaml"),
        ("variants={half: {recipe: contrastive}}", "variants.half.recipe='contrastive' is no"),
        ("train.recipe=no.such.page", "recipes: no module 'no.such.page'"),
        ("train.recipe=os.path", "is no page: it lacks Settings"),
        ("train.recipe=[sft]", "train.recipe=['sft']: write a name here"),
        ("train.preset=papr", "unknown train.preset 'papr': did you mean 'paper'?"),
        ("train.preset=3", "train.preset=3: write a name here"),
        (
            "train={recipe: kto, preset: paper}",
            "train.preset='paper': recipe 'kto' has none; leave",
        ),
        ("train.lambda=-1", "train.lambda=-1: the avoid term needs a weight of 0 or more"),
        ("train.lambda=-0.5", "train.lambda=-0.5:"),
        ("train.lambda=.nan", "train.lambda=nan: input should be a finite number"),
        ("train.lambda=abc", "train.lambda='abc': input should be a valid number"),
        ("train.learning_rate=fast", "train.learning_rate='fast': input should be a valid number"),
        ("train.learning_rate=.inf", "train.learning_rate=inf: input should be a finite number"),
        ("train.max_steps=0", "train.max_steps=0: give 1 or more, or -1 to count epochs"),
        ("evaluate.attacks=[]", "evaluate.attacks=[]: "),
        ("evaluate.judges=[]", "evaluate.judges=[]: "),
        ("evaluate.judges=[harm, {harm: {threshold: 0.6}}]", "evaluate.judges has 'harm' twice"),
        ("evaluate.judges=[a.harm, b.harm]", "evaluate.judges has 'harm' twice"),
        ("train.lora.r=0", "train.lora.r=0: input should be greater than 0"),
        ("train.lora.target_modules=3", "train.lora.target_modules=3: input should be"),
        ("train.mix.learn=x", "train.mix.learn='x': input should be a valid integer"),
        ("train.mix={learn: -1}", "train.mix.learn=-1: input should be greater"),
        ("train.lr_scheduler=cosin", "train.lr_scheduler='cosin': input should be 'linear'"),
        ("train.report_to=nowhere", "train.report_to='nowhere': input should be 'none'"),
        ("train.bf16=maybe", "train.bf16='maybe': input should be a valid boolean"),
        ("train=sft", "train='sft': input should be a mapping of settings"),
        ("model=gpt2", "model='gpt2': input should be a mapping of settings"),
        ("model.name=3", "model.name=3: input should be a valid string"),
        ("model.dtype=int8", "model.dtype='int8': input should be 'auto'"),
        ("seed=1.5", "seed=1.5: input should be a valid integer"),
        ("seed=4294967296", "seed=4294967296: input should be less than 4294967296"),
        ("output=", "output=None: input is not a valid path"),
        ("evaluate.attacks=direct", "evaluate.attacks='direct': input should be a list"),
        ("evaluate.attacks=[3]", "evaluate.attacks=3: input should be a mapping"),
        ("evaluate.max_unscored=7", "evaluate.max_unscored=7: input should be less"),
        ("data.train.harmful=a.jsonl", "data.train.harmful='a.jsonl': input should be a list"),
        ("train.lambda", "override 'train.lambda': write it as section.key=value"),
        ("=1", "override '=1': write it as section.key=value"),
        ("train.lambda=[", "override 'train.lambda=[': not YAML"),
        ("seed.of=1", "override 'seed.of=1': 'seed' holds a value, not settings"),
        ("variants={before: {}}", "'before' cannot be the name of a variant"),
        ("variants={after: {}}", "'after' cannot be the name of a variant"),
        ("variants={../up: {}}", "'../up' cannot be the name of a variant"),
        ("variants={half: {lamda: 2}}", "unknown setting 'variants.half.lamda'"),
        ("variants={half: {lambda: -2}}", "variants.half.lambda=-2"),
        ("variants={half: {lora: {r: 0}}}", "variants.half.lora.r=0"),
        ("variants={half: {preset: nope}}", "unknown variants.half.preset 'nope'"),
        ("variants={half: {recipe: nope}}", "unknown recipe 'nope'"),
        ("variants={half: {lambda: x}}", "variants.half.lambda='x': input should be"),
        ("variants={half: {lora: {rr: 1}}}", "did you mean 'variants.half.lora.r'?"),
        ("variants={half: {max_steps: 0}}", "variants.half.max_steps=0: give 1 or more"),
        (
            "variants={half: {recipe: kto, preset: paper}}",
            "variants.half.preset='paper': recipe 'kto' has none; leave it out",
        ),
        ("variants={half: {preset: 3}}", "variants.half.preset=3: write a name"),
        ("variants={half: {recipe: 3}}", "variants.half.recipe=3: write a name"),
        ("variants.half=", "variants.half=None"),
    ],
)
def test_what_is_refused(file: Path, override: str, says: str) -> None:
    assert says in refusal(file, "seed=0", override)


def test_a_judge_of_ones_own_takes_the_place_of_its_namesake(file: Path) -> None:
    run = config.load(file, ["evaluate.judges=[mylab.refusal]"])
    assert [page.name for page in run.evaluate.judges] == ["broken", "mylab.refusal"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "bad.yaml is empty: write `output` and `model` at least"),
        (b"[1]", "a configuration is a mapping of settings, not [1]"),
        (b"a: b: c", "not YAML: mapping values are not allowed here"),
        (b"title: \xff", "cannot be read as text"),
        (b"output: x\ntrain: {}\n", "model is missing: it has no default"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    assert says in refusal(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "no such configuration file" in refusal(tmp_path / "none.yaml")
    assert "is a folder: name a run's YAML file" in refusal(tmp_path)


def test_a_page_refuses_settings_it_does_not_have() -> None:
    page = pages.find("attacks", "prefill")
    with pytest.raises(UserError, match=r"'prefill\.tokns': did you mean 'prefill\.tokens'\?"):
        page_settings(page, {"tokns": [5]}, "prefill")
    with pytest.raises(UserError, match=r"prefill\.tokens='x': input should be a list"):
        page_settings(page, {"tokens": "x"}, "prefill")
    with pytest.raises(UserError, match=r"prefill\.3"):
        page_settings(page, {3: 4}, "prefill")  # type: ignore[dict-item]


def test_a_preset_gives_way_to_what_is_written(file: Path) -> None:
    run = config.load(file, ["train.preset=paper", "train.gate=0.2"])
    assert (run.train.method.gate, run.train.method.margin) == (0.2, None)


def test_a_variant_keeps_the_base_and_changes_what_it_says(file: Path) -> None:
    run = config.load(
        file,
        [
            "train={lambda: 2, gate: 0.5, epochs: 3}",
            "variants={more: {lambda: 3}, plain: {recipe: sft}, paper: {preset: paper, gate: 0.1}}",
        ],
    )
    made = run.trainings()
    assert list(made) == ["after", "more", "plain", "paper"]
    assert {name: t.fit.epochs for name, t in made.items()} == dict.fromkeys(made, 3.0)
    assert (made["more"].method.lambda_, made["more"].method.gate) == (3.0, 0.5)
    assert made["plain"].recipe == "sft"
    assert (made["paper"].method.lambda_, made["paper"].method.gate) == (2.0, 0.1)
    assert made["paper"].method.margin is None, "a variant's preset beats what it inherits"


def test_a_training_is_flat_again(file: Path) -> None:
    flat = config.load(file, ["train.lambda=0.5", "train.lora.r=4"]).train.flat()
    assert (flat["recipe"], flat["lambda"], flat["lora"]["r"]) == ("ta_sft", 0.5, 4)
    assert config.build(SHORT | {"train": flat}).train.flat() == flat


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("d", {"name": "d"}),
        ("org/d:my/adapter", {"name": "org/d", "adapter": "my/adapter"}),
        ("d:org/adapter", {"name": "d", "adapter": "org/adapter"}),
        (
            "http://127.0.0.1:8000/v1#org/d",
            {"name": "org/d", "base_url": "http://127.0.0.1:8000/v1"},
        ),
    ],
)
def test_another_model_comes_without_what_was_the_firsts(
    file: Path, text: str, means: dict[str, str]
) -> None:
    first = "model={name: a, adapter: b, revision: c, tokenizer: t, trust_remote_code: true}"
    tree = yaml.safe_load(file.read_text()) | {"train": None}
    tree |= yaml.safe_load(first.replace("=", ": ", 1))
    file.write_text(yaml.safe_dump(tree))
    other = config.load(file, [], text).model
    assert other.name == means["name"]
    assert (other.adapter, other.revision) == (means.get("adapter"), None)
    assert (other.tokenizer, other.trust_remote_code) == (None, True)
    assert (other.endpoint and other.endpoint.base_url) == means.get("base_url")


def test_a_path_with_a_colon_in_it_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    assert spelled(str(tmp_path / "a:b"))["name"] == str(tmp_path / "a:b")


ADDRESS = "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"endpoint": "localhost:8000"}, "model.endpoint.base_url='localhost:8000'"),
        ({"endpoint": {"base_url": ADDRESS, "api_key": "k"}}, "'model.endpoint.api_key'"),
        ({"endpoint": f"{ADDRESS}?key=k"}, "name a key's environment variable in api_key_env"),
        ({"endpoint": ADDRESS, "adapter": "b"}, "model.adapter does nothing to a served model"),
        ({"endpoint": ADDRESS, "dtype": "float32"}, "model.dtype does nothing to a served model"),
        (
            {"endpoint": ADDRESS, "chat_template": "plain"},
            "model.chat_template of a served model needs `tokenizer`",
        ),
    ],
)
def test_a_served_model_is_refused_what_it_cannot_have(model: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        config.build({"output": "x", "model": {"name": "a"} | model})
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_served_model_is_not_trained() -> None:
    tree: dict[str, Any] = {"output": "x", "model": {"name": "a", "endpoint": ADDRESS}}
    assert config.build(tree).trainings() == {}
    with pytest.raises(UserError, match="a served model can be asked and not trained"):
        config.build(tree | {"train": {"recipe": "sft"}})
    with pytest.raises(UserError, match="variants differ from `train`, which is missing"):
        config.build(tree | {"variants": {"half": {"lambda": 1}}})
    with pytest.raises(UserError, match=f"--model {ADDRESS}: add the model's name there"):
        spelled(ADDRESS)


def test_the_judges_every_report_needs_are_always_on() -> None:
    chosen = Evaluate.model_validate({"judges": ["harm"], "primary": "harm"})
    assert [page.name for page in chosen.judges] == ["refusal", "broken", "harm"]
    assert chosen.primary == "harm"
    own = Evaluate.model_validate({"judges": ["lab.own-judge"], "primary": "lab.own-judge"})
    assert own.primary == "own_judge"  # as its verdicts are signed


@pytest.mark.parametrize("primary", ["llm", "broken", "exact"])
def test_a_primary_that_judges_no_harm_here_is_one_line(primary: str) -> None:
    with pytest.raises(UserError, match=f"evaluate.primary='{primary}' is no judge of harm"):
        config.build(
            {
                "output": "runs/x",
                "model": {"name": "m"},
                "evaluate": {"judges": ["refusal", "exact"], "primary": primary},
            }
        )
