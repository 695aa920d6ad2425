"""KTO and DPO on our rows, by TRL's own trainers; the only file that knows trl."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from demur import adapters, chat, noise, progress, supervision
from demur.batches import Draw, Epochs
from demur.errors import UserError
from demur.fitting import Fit, Train
from demur.supervision import IGNORE, Row

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Preference:
    """An objective that one of TRL's trainers computes, with options by TRL's names.

    ``DPO`` takes a recipe's rows two by two, the answer to prefer first. ``KTO`` takes each for
    itself: what is learnt is desirable, what is avoided is not; its ``undesirable_weight`` may be
    ``auto``, which weighs both sides alike.
    """

    trainer: Literal["DPO", "KTO"]
    options: Mapping[str, Any]


def check(rows: Sequence[Row], target: Preference, train: Train) -> None:
    """Raises UserError, before a weight is loaded, for what the trainer cannot work with."""
    recipe, fit = train.recipe, train.fit
    if find_spec("trl") is None:
        raise UserError(f"recipe {recipe!r} needs TRL: pip install 'demur[preference]'")
    if fit.mix:
        raise UserError(
            f"train.mix={fit.mix} means nothing to recipe {recipe!r}, which takes every row once "
            "an epoch: leave it out, or write `mix: {}` in this variant"
        )
    if fit.packing:
        raise UserError(
            f"train.packing=true: recipe {recipe!r} pads its answers: leave it out, or write "
            "`packing: null` in this variant"
        )
    if fit.lora and "lm_head" in fit.lora.target_modules:
        raise UserError(
            f"train.lora.target_modules={fit.lora.target_modules!r}: recipe {recipe!r} cannot "
            "train an adapter on the output layer; leave lm_head out"
        )
    if target.trainer == "KTO":
        _check_labels(rows, target, recipe, fit)


def _check_labels(rows: Sequence[Row], target: Preference, recipe: str, fit: Fit) -> None:
    if fit.batch_size < 2 and target.options.get("loss_type") != "apo_zero_unpaired":
        raise UserError(
            f"train.batch_size={fit.batch_size}: recipe {recipe!r} measures each answer against "
            "another one in its batch; give 2 or more rows per device"
        )
    desirable = sum(map(_desirable, rows))
    if desirable in (0, len(rows)):
        has, lacks = ("undesirable", "good (`chosen`)"), ("desirable", "unsafe (`rejected`)")
        only, missing = lacks if desirable else has
        raise UserError(
            f"recipe {recipe!r} finds {only} answers alone; give some prompts {missing} ones too"
        )


def _desirable(row: Row) -> bool:
    return any(token != IGNORE for token in row.labels)


def trainer(
    model: Any,
    tokenizer: Any,
    draw: Draw,
    train: Train,
    target: Preference,
    arguments: Mapping[str, Any],
) -> Any:
    """TRL's trainer for ``target``, over the rows that ``draw`` makes for each epoch.

    ``arguments`` are those of transformers' TrainingArguments. The reference is the starting
    model: itself without its new adapter, or a copy where every weight or an old adapter is
    trained. Raises UserError as `check`, and where ``fit.lora`` does not fit the model.
    """
    import trl

    from demur.trainer import on_one_device

    check(rows := draw(0), target, train)
    fit, adapted = train.fit, hasattr(model, "peft_config")
    settings = getattr(trl, f"{target.trainer}Config")(
        **arguments,
        **_balanced(target.options, rows),
        max_length=fit.max_length,
        disable_dropout=not (fit.lora and fit.lora.dropout),
    )
    on_one_device(settings)
    pairs = target.trainer == "DPO"
    per_pass = settings.per_device_train_batch_size * settings.world_size
    data = Epochs(_two_by_two(draw) if pairs else draw, {}, settings.seed, per_pass, None)
    pad = chat.pad_id(tokenizer)
    with noise.quiet(), adapters.fitting(fit.lora):
        return _on_rows(getattr(trl, f"{target.trainer}Trainer"), data)(
            model,
            ref_model=None if fit.lora or adapted else copy.deepcopy(model),
            args=settings,
            data_collator=lambda r: paired(r, pad) if pairs else labelled(r, pad, fit.max_length),
            train_dataset=_placeholder(),
            processing_class=tokenizer,
            peft_config=adapters.lora_config(fit.lora) if fit.lora and not adapted else None,
        )


def _balanced(options: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """With a number for ``auto``; one that KTO's Eq. 8 would not choose is said and taken."""
    if "undesirable_weight" not in options:
        return dict(options)
    desirable, given = sum(map(_desirable, rows)), options["undesirable_weight"]
    even = options["desirable_weight"] * desirable / (len(rows) - desirable)
    if given == "auto":
        progress.say(f"train.undesirable_weight=auto is {even:.3g}")
    elif not 0.745 * even <= given <= 1.005 * even:  # 3/4 to 1, if rounded
        progress.say(_unbalanced(given, even))
    return dict(options) | {"undesirable_weight": even if given == "auto" else given}


def _unbalanced(given: float, even: float) -> str:
    return (
        f"train.undesirable_weight={given:g}: good answers weigh {even / given:.3g} times what "
        f"unsafe ones do in all, and KTO asks for 1:1 to 4:3; that is {0.75 * even:.3g} to "
        f"{even:.3g} here, or `auto`"
    )


def _two_by_two(draw: Draw) -> Draw:
    def pairs(epoch: int) -> list[tuple[Row, Row]]:
        rows = draw(epoch)
        return list(zip(rows[::2], rows[1::2], strict=True))

    return pairs


def _placeholder() -> Any:
    """TRL asks for a data set of texts, to tokenize it; ours are tokenized and take its place."""
    from datasets import Dataset

    return Dataset.from_list([{"prompt": ""}])


def paired(pairs: Sequence[tuple[Row, Row]], pad: int) -> dict[str, torch.Tensor]:
    """DPO's batch: [2 × pairs, longest] tensors, the preferred answers first."""
    preferred, others = zip(*pairs, strict=True)
    return _answers([*preferred, *others], pad)


def labelled(rows: Sequence[Row], pad: int, length: int) -> dict[str, torch.Tensor]:
    """KTO's batch: [rows, longest] tensors, ``label`` [rows], and the mismatched rows as ``KL_*``.

    In these each prompt has the answer of the row before it; the last one's goes to the first.
    """
    import torch

    before = [rows[-1], *rows[:-1]]
    crossed = [supervision.crossed_row(a, b, length) for a, b in zip(rows, before, strict=True)]
    drift = {f"KL_{name}": value for name, value in _answers(crossed, pad).items()}
    return _answers(rows, pad) | drift | {"label": torch.tensor([_desirable(r) for r in rows])}


def _answers(rows: Sequence[Row], pad: int) -> dict[str, torch.Tensor]:
    batch = supervision.collate(rows, pad)
    told = (batch["labels"] != IGNORE) | (batch["avoid"] != IGNORE)
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "completion_mask": told.long(),
    }


def _on_rows(base: Any, data: Epochs) -> Any:
    """One of TRL's trainers, on rows instead of texts, that reports to nobody but the log."""

    class OnRows(base):
        def _prepare_dataset(self, *_: Any) -> Epochs:
            return data

        def _send_telemetry(self) -> None:
            """TRL would tell its authors of each training."""

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """The manifest says more."""

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            self._metrics["train"].pop("num_tokens", None)  # it starts again with a resume
            super().log(logs, start_time)

        def train(self, *told: Any, **options: Any) -> Any:
            with noise.quiet():
                result = super().train(*told, **options)
            if "ref" in getattr(self.model, "peft_config", {}):  # TRL's copy of an old adapter
                self.model.delete_adapter("ref")
            return result

    return OnRows
