"""fit(): the one training loop, from examples to a saved model."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from demur import (
    adapters,
    chat,
    fitting,
    heads,
    packing,
    pages,
    preference,
    processes,
    progress,
    supervision,
    supports,
    terms,
)
from demur.batches import Epochs, taken
from demur.callbacks import Finite, LogFile, Progress
from demur.draws import Draws
from demur.encoder import Encoder
from demur.errors import UserError
from demur.fitting import Fit, Train
from demur.objective import Objective
from demur.preference import Preference
from demur.records import Example, replace
from demur.supervision import IGNORE, Row
from demur.supports import Support
from demur.trainer import RowTrainer, on_one_device

STEP = "step.json"  # how many rows a step has, for whoever goes on from a checkpoint


def rows(
    examples: Iterable[Example], tokenizer: Any, train: Train, seed: int = 0, epoch: int = 0
) -> list[Row]:
    """What the recipe makes of the examples in one epoch. Raises UserError if that is nothing."""
    return Drawing(examples, tokenizer, train, seed)(epoch)


class Drawing:
    """Rows by epoch: each example draws from its own seed, so none depends on its neighbours.

    ``unused`` counts, by kind, the examples of which the last epoch made no row.
    Raises UserError for an epoch without anything to train on.
    """

    def __init__(
        self, examples: Iterable[Example], tokenizer: Any, train: Train, seed: int
    ) -> None:
        self.encode = Encoder(tokenizer, train.fit.max_length)
        self._examples, self._train, self._seed = list(examples), train, seed
        self._page, self._vocabulary = pages.find("recipes", train.recipe), len(tokenizer)
        self.unused = Counter[str]()
        self._shortened: dict[int, int] = {}  # prefixes by epoch

    def __call__(self, epoch: int) -> list[Row]:
        places = accumulate((example.pair for example in self._examples), initial=0)
        before = self.encode.cut["prefixes"]
        made = [
            self._rows(example, epoch, place)
            for example, place in zip(self._examples, places, strict=False)
        ]
        self._shortened[epoch] = self.encode.cut["prefixes"] - before
        kinds = (e.kind for e, rows in zip(self._examples, made, strict=True) if not rows)
        self.unused, drawn = Counter(kinds), list(chain.from_iterable(made))
        if not any(row.targets for row in drawn):
            raise UserError(
                f"recipe {self._train.recipe!r} finds nothing to train on in "
                f"{len(self._examples)} examples: it needs answers they do not have: "
                f"{_answered(self._examples)}"
            )
        return drawn

    def facts(self, epochs: int = 1) -> dict[str, Any]:
        """What became of the examples in the first ``epochs``, for a manifest."""
        for epoch in range(epochs):  # those that were trained before a kill
            if epoch not in self._shortened:
                self(epoch)
        words = self.encode.transitions.items()
        told = {word: found.told(self.encode.tokenizer) for word, found in words}
        known = {"unused": dict(self.unused), "cut": self._cut()}
        return known | ({"transition": told} if told else {})

    def cuts(self) -> str:
        """What has been cut so far, as a line; nothing where nothing was."""
        cut = self._cut()
        when = "in the first epoch" if cut["epochs"] == 1 else f"in {cut['epochs']} epochs"
        found = [f"{cut['answers']} answers"] * bool(cut["answers"])
        found += [f"{cut['prefixes']} prefixes {when}"] * bool(cut["prefixes"])
        end = "; a cut answer is not taught where to end" * bool(cut["answers"])
        line = f"cut to train.max_length={self.encode.max_length} tokens: {' and '.join(found)}"
        return line + end if found else ""

    def _cut(self) -> dict[str, int]:
        """Answers once, prefixes as often as they were drawn."""
        prefixes, epochs = sum(self._shortened.values()), len(self._shortened)
        return {"answers": self.encode.cut["answers"], "prefixes": prefixes, "epochs": epochs}

    def left(self) -> str:
        """Which examples made no row, as the end of a line; nothing where each made some."""
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(self.unused.items()))
        none = f"; {self.unused.total()} of {len(self._examples)} examples make none ({kinds})"
        return none if kinds else ""

    def _rows(self, example: Example, epoch: int, place: int) -> list[Row]:
        seed = f"{self._seed} rows {epoch} {example.id}"
        random = Draws(seed, place, lasting=f"{self._seed} rows {example.id}")
        made = list(self._page.rows(example, self.encode, self._train.method, random))
        if any(not row.targets for row in made):
            raise UserError(
                f"a {self._train.recipe!r} row has no target: leave out {example.prompt[:60]!r}"
            )
        told = {token for row in made for token in (*row.labels, *row.avoid)} - {IGNORE}
        if told and not 0 <= min(told) <= max(told) < self._vocabulary:
            raise UserError(
                f"a {self._train.recipe!r} row has targets from {min(told)} to {max(told)}: tokens "
                f"run from 0 to {self._vocabulary - 1}, and {IGNORE} stands for none"
            )
        return made


def _answered(examples: Sequence[Example]) -> str:
    has = [(bool(example.chosen), bool(example.rejected)) for example in examples]
    chosen, rejected, both = sum(c for c, _ in has), sum(r for _, r in has), has.count((True, True))
    return f"{chosen} have `chosen`, {rejected} `rejected`, {both} both"


def check(rows: Sequence[Row], train: Train) -> None:
    """Raises UserError where recipe, ``train.mix`` or launcher have no use for these rows."""
    target, page = _target(train), pages.find("recipes", train.recipe)
    if isinstance(target, Preference):
        preference.check(rows, target, train)
    else:
        rows = taken(rows, train.fit.mix)
    if hasattr(page, "check_rows"):
        page.check_rows(rows, train.method)
    if getattr(target, "lambda_", 0) == "auto" and processes.deepspeed():
        raise UserError(
            "train.lambda=auto needs the gradient of each term, which DeepSpeed does not hand "
            "out: give a number, or launch with DDP or FSDP"
        )
    if getattr(target, "lambda_", 0) == "auto" and not _both(rows):
        raise UserError(
            "train.lambda=auto is the ratio of two gradients, and the rows only learn or only "
            "avoid: bring ordinary answers and unsafe ones, or give a number"
        )


def _both(rows: Sequence[Row]) -> bool:
    """Whether something is learnt and something avoided."""
    learnt = any(token != IGNORE for row in rows for token in row.labels)
    return learnt and any(map(_avoids, rows))


def _target(train: Train) -> Objective | Preference:
    found: Objective | Preference = pages.find("recipes", train.recipe).objective(train.method)
    return found


def fit(
    model: Any, tokenizer: Any, examples: Sequence[Example], train: Train, out: Path, seed: int
) -> dict[str, Any]:
    """Train ``model`` in place by ``train`` and save it with its tokenizer in ``out``.

    Returns what became of the examples in all its epochs, as `Drawing.facts`. Checkpoints, logs
    and the saved model are transformers' own; a run that was killed goes on from its last whole
    checkpoint and ends as if it had not been.
    Raises UserError for another number of rows a step than that checkpoint was made with, and
    for a loss that is no number any more.
    """
    last = last_checkpoint(out, train.fit)
    target, drawing = _target(train), Drawing(examples, tokenizer, train, seed)
    make: Any = preference.trainer if isinstance(target, Preference) else _row_trainer
    trainer = make(model, tokenizer, drawing, train, target, _arguments(train, out, seed))
    _warn(drawing)
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    callbacks = Progress(), LogFile(out / "log.jsonl"), Finite()
    for callback in callbacks:
        trainer.add_callback(callback)
    if _steps(trainer, train.fit) == 1:
        trainer.args.warmup_steps = 0  # its only step would have a learning rate of 0
    _keep_step(out, train.fit)
    with callbacks[0]:
        trainer.train(resume_from_checkpoint=last)
    trainer.save_model(str(out))
    if processes.first():  # a pickle of paths and settings: nothing to publish beside weights
        (out / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    facts = drawing.facts(epochs=trainer.state.num_train_epochs)
    if facts["cut"]["epochs"] > 1 and facts["cut"]["prefixes"]:  # drawn anew each time
        progress.say(drawing.cuts())
    return facts


def _steps(trainer: Any, fit: Fit) -> int:
    """Optimizer steps from the first to the last."""
    epoch = len(trainer.train_dataset) / _rows_per_step(fit)
    return fit.max_steps if fit.max_steps > 0 else math.ceil(fit.epochs * epoch)


def _row_trainer(
    model: Any,
    tokenizer: Any,
    drawing: Drawing,
    train: Train,
    target: Objective,
    told: dict[str, Any],
) -> RowTrainer:
    arguments, seed = TrainingArguments(**told), told["seed"]
    on_one_device(arguments)
    pad = chat.pad_id(tokenizer)
    attention = packing.chosen(model, train.fit, arguments.bf16)
    lay, deal = packing.layout(attention, pad, train.fit.batch_size)
    blank, per_step = supervision.blank_row(pad), _rows_per_step(train.fit)
    data = Epochs(drawing, train.fit.mix, seed, per_step, blank, deal)
    heads.prove(model, max(data.rows, key=len).input_ids[:16])  # whole, as it is now
    if train.fit.lora and not hasattr(model, "peft_config"):
        model = adapters.with_lora(model, train.fit.lora, seed)
    support = _support(model, tokenizer, target, Path(arguments.output_dir))
    support = support and support.to(arguments.device)  # a model to be split is not there yet
    npo = target.term == "npo"
    reference = _reference(model, data.rows, pad, arguments.bf16) if npo else None
    avoided, head = (token for row in data.rows for token in row.avoid), heads.head(model)
    if why := terms.obstacle(head, target):
        progress.say(f"the losses are taken from logits, positions × vocabulary of them: {why}")
    return RowTrainer(
        model,
        arguments,
        target,
        support,
        terms.kept(avoided, head, target, support),
        attention,
        data_collator=lambda rows: _collate(rows, lay, reference),
        train_dataset=data,
        processing_class=tokenizer,
    )


def _warn(drawing: Drawing) -> None:
    if cuts := drawing.cuts():
        progress.say(cuts)
    encode = drawing.encode
    for word, found in encode.transitions.items():
        if len(found.after) > 1:
            parts = [str(encode.tokenizer.decode([token])) for token in found.after]
            progress.say(
                f"train.transition={word!r} after a word is {', '.join(map(repr, parts))}: the "
                f"first, {parts[0]!r}, is what transition rows teach there"
            )


def _arguments(train: Train, out: Path, seed: int) -> dict[str, Any]:
    """What every trainer is told, by the names of transformers' TrainingArguments."""
    fit = train.fit
    return {
        "output_dir": str(out),
        "seed": seed,
        "num_train_epochs": fit.epochs,
        "max_steps": fit.max_steps,
        "learning_rate": fit.rate,
        "lr_scheduler_type": fit.lr_scheduler,
        "warmup_steps": fit.warmup_ratio,
        "weight_decay": fit.weight_decay,
        "max_grad_norm": fit.max_grad_norm,
        "per_device_train_batch_size": fit.batch_size,
        "gradient_accumulation_steps": fit.accumulation,
        "bf16": _bf16(fit.bf16),
        "use_cpu": not torch.accelerator.is_available(),  # else bfloat16 on a CPU is refused
        "activation_checkpointing": fit.gradient_checkpointing,
        "save_steps": fit.save_steps,
        "save_total_limit": fit.save_total_limit,
        "report_to": fit.report_to,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a loss that is not a number must be seen
        "train_sampling_strategy": "sequential",  # Epochs has put the rows in order
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "disable_tqdm": True,
    }


def _bf16(choice: bool | None) -> bool:
    if choice is not None:
        return choice
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())  # elsewhere a CPU is slower in bfloat16


def _rows_per_step(fit: Fit) -> int:
    return fit.batch_size * fit.accumulation * processes.count()


def _support(model: Any, tokenizer: Any, target: Objective, out: Path) -> Support | None:
    """The starting embedding as the avoid terms see it, and its statistics in embedding.json."""
    if target.lambda_ == 0:
        return None
    inner = adapters.bare(model)
    output = target.embedding == "output"
    layer = inner.get_output_embeddings() if output else inner.get_input_embeddings()
    excluded = chat.special_ids(tokenizer) | chat.stop_ids(tokenizer)
    support = supports.support(layer.weight, excluded, len(tokenizer), target.centre)
    told = supports.cosine_statistics(support)
    if processes.first():
        replace(out / "embedding.json", json.dumps(told, indent=2) + "\n")
    return support


def _reference(
    model: Any, rows: Iterable[Row], pad: int, bf16: bool
) -> dict[tuple[int, ...], float]:
    """log π_ref of each avoided answer under the starting model, taken once (for `npo`)."""
    head, device = heads.head(model), next(model.parameters()).device
    decoder, found = adapters.bare(model.eval()).get_decoder(), {}
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for row in {row.input_ids: row for row in rows if _avoids(row)}.values():
            batch = {k: v.to(device) for k, v in supervision.collate([row], pad).items()}
            hidden = decoder(input_ids=batch["input_ids"]).last_hidden_state
            found[row.input_ids] = float(terms.avoided_logprob(hidden, batch, head))
    return found


def _avoids(row: Row) -> bool:
    return any(token != IGNORE for token in row.avoid)


def _collate(
    rows: Sequence[Row], lay: packing.Layout, reference: dict[tuple[int, ...], float] | None
) -> dict[str, torch.Tensor]:
    batch = lay(rows)
    if reference is not None:
        values = [reference[row.input_ids] if _avoids(row) else 0.0 for row in rows]
        batch["reference"] = torch.tensor(values)
    return batch


def last_checkpoint(out: Path, fit: Fit) -> str | None:
    """The newest whole checkpoint; a half-written one, which a kill leaves, is removed.

    Raises UserError if it was made with another number of rows a step: the data would be entered
    at another place than it was left.
    """
    for folder in reversed(fitting.checkpoints(out).values()):
        try:
            json.loads((folder / "trainer_state.json").read_text())  # what is written last
        except (OSError, ValueError):
            shutil.rmtree(folder, ignore_errors=True)  # another process may be at it too
        else:
            _refuse_other_steps(folder, _rows_per_step(fit))
            return str(folder)
    return None


def _refuse_other_steps(checkpoint: Path, rows: int) -> None:
    kept = checkpoint.parent / STEP
    then = json.loads(kept.read_text())["rows"] if kept.exists() else rows
    if rows != then:
        raise UserError(
            f"{checkpoint} was made with {then} rows a step, and batch_size × accumulation × "
            f"processes is {rows} now: go on with {then}, or choose another output"
        )


def _keep_step(out: Path, fit: Fit) -> None:
    if processes.first():
        replace(out / STEP, json.dumps({"rows": _rows_per_step(fit)}) + "\n")
