"""The classifier judge with tiny random classifiers made here, held to their own bare outputs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from demur.errors import UserError
from demur.judges import classifier
from demur.records import Completion, Verdict
from demur.settings import page_settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT = "How do I bake bread?"
TEXTS = ["Sure take flour", "No", "", "Sorry I cannot help with that", "the dough the oven", " "]
Maker = Callable[..., Path]


def completion(text: str) -> Completion:
    return Completion(
        attempt="a", behavior="b", kind="harmful", attack="direct", prompt=PROMPT, text=text
    )


def judged(texts: list[str], **settings: Any) -> list[Verdict]:
    chosen = classifier.Settings(**settings)
    return list(classifier.judge([completion(text) for text in texts], chosen))


@pytest.fixture(scope="session")
def make(
    tiny: dict[str, PreTrainedTokenizerBase], tmp_path_factory: pytest.TempPathFactory
) -> Maker:
    """A folder with a random classifier: its label names, its tokenizer, and more of its config."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    def made(*names: str, tokenizer: str = "plain", **more: Any) -> Path:
        torch.manual_seed(len(names))
        folder = tmp_path_factory.mktemp("classifier")
        settings = {
            "vocab_size": len(tiny[tokenizer]),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "initializer_range": 0.5,  # answers that differ visibly
            "id2label": dict(enumerate(names)),
            "label2id": {name: i for i, name in enumerate(names)},
            "pad_token_id": None,
        }
        LlamaForSequenceClassification(LlamaConfig(**settings | more)).save_pretrained(folder)
        tiny[tokenizer].save_pretrained(folder)
        return folder

    return made


def bare(folder: Path, *texts: str, special: bool = True) -> Any:
    """The logits for one text or pair, by itself, with no padding."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    model.config.pad_token_id = 0
    encoded = AutoTokenizer.from_pretrained(folder)(
        *texts, return_tensors="pt", add_special_tokens=special
    )
    with torch.inference_mode():
        return model(**encoded).logits[0]


def test_hh_is_the_regressors_format_and_batches_change_nothing(make: Maker) -> None:
    folder = make("harm")
    said = [text for text in TEXTS if text.strip()]
    expected = [
        float(bare(folder, f"\n\nHuman: {PROMPT}\n\nAssistant: {text}")[0]) for text in said
    ]
    middle = sum(expected) / len(expected)
    for size in (1, 3, 8):
        found = judged(TEXTS, model=str(folder), format="hh", threshold=middle, batch_size=size)
        assert [v.completion for v in found] == [completion(text).id for text in TEXTS]
        assert [v.label for v in found if not TEXTS[found.index(v)].strip()] == ["broken"] * 2
        scored = [v for v in found if v.label != "broken"]
        assert [v.score for v in scored] == pytest.approx(expected, abs=1e-5)
        assert [v.label for v in scored] == [
            "harmful" if value >= middle else "safe" for value in expected
        ]
    assert len({v.label for v in scored}) == 2
    assert {(v.judge, v.version) for v in found} == {("classifier", "classifier/1")}


def test_a_reward_model_is_harmful_below(make: Maker) -> None:
    folder, said = make("reward"), ["Sure take flour", "No"]
    above = judged(said, model=str(folder), threshold=0.0)
    below = judged(said, model=str(folder), threshold=0.0, harmful_is="below")
    assert [v.score for v in below] == pytest.approx([-(v.score or 0.0) for v in above])
    assert {v.label for v in (above[0], below[0])} == {"harmful", "safe"}


def test_a_pair_is_two_texts(make: Maker) -> None:
    folder = make("harm")
    [found] = judged(["Sure take flour"], model=str(folder))
    assert found.score == pytest.approx(float(bare(folder, PROMPT, "Sure take flour")[0]), abs=1e-5)


def test_a_template_fills_each_field_once(make: Maker) -> None:
    folder, text = make("harm"), "use {request} and {answer}"
    [found] = judged([text], model=str(folder), format="A: {answer} Q: {request}")
    expected = float(bare(folder, f"A: {text} Q: {PROMPT}")[0])
    assert found.score == pytest.approx(expected, abs=1e-5)


def test_chat_is_the_tokenizers_own_template(
    make: Maker, tiny: dict[str, PreTrainedTokenizerBase]
) -> None:
    folder = make("harm", tokenizer="llama3")
    messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "Sure"}]
    shown = tiny["llama3"].apply_chat_template(messages, tokenize=False)
    [found] = judged(["Sure"], model=str(folder), format="chat")
    assert found.score == pytest.approx(float(bare(folder, shown, special=False)[0]), abs=1e-5)


def test_labels_are_translated_and_the_threshold_is_about_harm(make: Maker) -> None:
    folder = make("fine", "nasty", "nastier", "no")
    labels = {"fine": "safe", "nasty": "harmful", "nastier": "harmful", "no": "refused"}
    shares = bare(folder, PROMPT, "Sure take flour").softmax(-1).tolist()
    harm = shares[1] + shares[2]
    common = {"model": str(folder), "labels": labels}
    [low] = judged(["Sure take flour"], threshold=harm - 0.01, **common)
    [high] = judged(["Sure take flour"], threshold=harm + 0.01, **common)
    assert (low.score, high.score) == (pytest.approx(harm, abs=1e-5),) * 2
    assert (low.label, high.label) == ("harmful", "safe" if shares[0] > shares[3] else "refused")
    assert low.detail["outputs"] == pytest.approx(dict(zip(labels, shares, strict=True)), abs=1e-5)


def test_a_detector_of_refusals(make: Maker) -> None:
    folder = make("normal", "rejection")
    share = float(bare(folder, PROMPT, "No").softmax(-1)[1])
    labels = {"normal": "complied", "rejection": "refused"}
    for threshold, label in ((share - 0.01, "refused"), (share + 0.01, "complied")):
        [found] = judged(["No"], model=str(folder), labels=labels, threshold=threshold)
        assert (found.label, found.score) == (label, pytest.approx(share, abs=1e-5))


def test_labels_that_can_hold_together_count_as_the_highest(make: Maker) -> None:
    folder = make("insult", "threat", problem_type="multi_label_classification")
    highest = float(bare(folder, PROMPT, "No").sigmoid().max())
    labels = {"insult": "harmful", "threat": "harmful"}
    [found] = judged(["No"], model=str(folder), labels=labels, threshold=highest + 0.01)
    assert (found.label, found.score) == ("safe", pytest.approx(highest, abs=1e-5))


def test_a_long_answer_is_cut_and_says_so(make: Maker) -> None:
    folder = make("harm")
    long = judged(["take flour " * 100, "take flour"], model=str(folder), format="{answer}")
    assert [v.detail["truncated"] for v in long] == [True, False]
    short = judged(["take flour"], model=str(folder), format="{answer}", max_length=1)
    assert short[0].detail["truncated"]


def test_an_output_that_is_no_number_is_unscored(make: Maker) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = make("harm")
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] = torch.full_like(weights["score.weight"], torch.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    [found] = judged(["No"], model=str(folder))
    assert (found.label, found.score, found.reason) == (
        "unscored",
        None,
        "the output is no number",
    )


def test_nothing_to_judge_loads_nothing() -> None:
    assert judged([], model="no-such-organisation/no-such-classifier") == []


def test_a_language_model_is_no_classifier(tiny_model_path: Path) -> None:
    """transformers would give it a head of random numbers, and only warn."""
    with pytest.raises(UserError, match=r"lacks 'score\.weight'"):
        judged(["No"], model=str(tiny_model_path), labels={"LABEL_0": "safe", "LABEL_1": "harmful"})


@pytest.mark.parametrize(
    ("names", "settings", "says"),
    [
        (("a", "b"), {}, "map each of a, b"),
        (("a", "b"), {"labels": {"a": "harmful"}}, "map each of a, b"),
        (("a", "b"), {"labels": {"a": "harmful", "c": "safe"}}, "map each of a, b"),
        (("a", "b"), {"labels": {"a": "complied", "b": "safe"}}, "has to mean harmful or refused"),
        (("a",), {"labels": {"a": "harmful"}}, "it has one output"),
    ],
)
def test_labels_that_do_not_fit_are_one_line(
    make: Maker, names: tuple[str, ...], settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says) as error:
        judged(["No"], model=str(make(*names)), **settings)
    assert "\n" not in str(error.value)


def test_a_chat_format_needs_a_template(
    make: Maker, tiny: dict[str, PreTrainedTokenizerBase]
) -> None:
    folder = make("harm")
    for file in folder.glob("chat_template*"):
        file.unlink()
    with pytest.raises(UserError, match="no chat template"):
        judged(["No"], model=str(folder), format="chat")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "model is missing"),
        ({"model": "x", "format": "Human: {request}"}, "format="),
        ({"model": "x", "labels": {"a": "dangerous"}}, "labels"),
        ({"model": "x", "threshold": float("nan")}, "threshold="),
        ({"model": "x", "batch_size": 0}, "batch_size=0"),
    ],
)
def test_wrong_settings_are_one_line(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        page_settings(classifier, wrong, "evaluate.judges.classifier")
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["./nothing/here", "tests"])
def test_a_model_that_is_not_there_is_one_line(name: str) -> None:
    with pytest.raises(UserError) as error:
        judged(["No"], model=name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_importing_the_pages_loads_no_torch() -> None:
    pages = "classifier, llm, moderation, harm"
    code = f"from demur.judges import {pages}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
