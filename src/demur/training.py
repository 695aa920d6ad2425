"""fit(): the one training loop, and the only file that knows transformers.Trainer."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from demur import (
    chat,
    losses,
    models,
    objective,
    packing,
    pages,
    preference,
    processes,
    progress,
    terms,
)
from demur.batches import Epochs, order
from demur.draws import Draws
from demur.errors import UserError
from demur.fitting import Train
from demur.fused_walk import Kept
from demur.objective import Objective
from demur.preference import Preference
from demur.records import Example, replace


def rows(
    examples: Iterable[Example], tokenizer: Any, train: Train, seed: int = 0, epoch: int = 0
) -> list[chat.Row]:
    """What the recipe makes of the examples in one epoch. Raises UserError if that is nothing."""
    return Drawing(examples, tokenizer, train, seed)(epoch)


class Drawing:
    """Rows by epoch: each example draws from its own seed, so none depends on its neighbours.

    Raises UserError for an epoch without anything to train on.
    """

    def __init__(
        self, examples: Iterable[Example], tokenizer: Any, train: Train, seed: int
    ) -> None:
        self.encode = chat.Encoder(tokenizer, train.fit.max_length)
        self._examples, self._train, self._seed = list(examples), train, seed
        self._page, self._vocabulary = pages.find("recipes", train.recipe), len(tokenizer)

    def __call__(self, epoch: int) -> list[chat.Row]:
        places = accumulate((example.pair for example in self._examples), initial=0)
        drawn = [
            row
            for example, place in zip(self._examples, places, strict=False)
            for row in self._rows(example, epoch, place)
        ]
        if not any(row.targets for row in drawn):
            raise UserError(
                f"recipe {self._train.recipe!r} finds nothing to train on in "
                f"{len(self._examples)} examples: it needs answers they do not have"
            )
        return drawn

    def facts(self) -> dict[str, Any]:
        """What the tokenizer made of what has been drawn so far, for a manifest."""
        words = self.encode.transitions.items()
        told = {word: found.told(self.encode.tokenizer) for word, found in words}
        return {"cut": dict(self.encode.cut)} | ({"transition": told} if told else {})

    def _rows(self, example: Example, epoch: int, place: int) -> list[chat.Row]:
        seed = f"{self._seed} rows {epoch} {example.id}"
        random = Draws(seed, place, lasting=f"{self._seed} rows {example.id}")
        made = list(self._page.rows(example, self.encode, self._train.method, random))
        if any(not row.targets for row in made):
            raise UserError(
                f"a {self._train.recipe!r} row has no target: leave out {example.prompt[:60]!r}"
            )
        told = {token for row in made for token in (*row.labels, *row.avoid)} - {chat.IGNORE}
        if told and not 0 <= min(told) <= max(told) < self._vocabulary:
            raise UserError(
                f"a {self._train.recipe!r} row has targets from {min(told)} to {max(told)}: tokens "
                f"run from 0 to {self._vocabulary - 1}, and {chat.IGNORE} stands for none"
            )
        return made


def check(rows: Sequence[chat.Row], train: Train) -> None:
    """Raises UserError where recipe, ``train.mix`` or launcher have no use for these rows."""
    target, page = _target(train), pages.find("recipes", train.recipe)
    if hasattr(page, "check_rows"):
        page.check_rows(rows, train.method)
    if getattr(target, "lambda_", 0) == "auto" and processes.deepspeed():
        raise UserError(
            "train.lambda=auto needs the gradient of each term, which DeepSpeed does not hand "
            "out: give a number, or launch with DDP or FSDP"
        )
    if isinstance(target, Preference):
        preference.check(rows, target, train)
    else:
        order(rows, train.fit.mix, Random(0))


def _target(train: Train) -> Objective | Preference:
    found: Objective | Preference = pages.find("recipes", train.recipe).objective(train.method)
    return found


def fit(
    model: Any, tokenizer: Any, examples: Sequence[Example], train: Train, out: Path, seed: int
) -> None:
    """Train ``model`` in place by ``train`` and save it with its tokenizer in ``out``.

    Checkpoints, logs and the saved model are transformers' own; a run that was killed goes on
    from its last whole checkpoint and ends as if it had not been.
    """
    target, drawing = _target(train), Drawing(examples, tokenizer, train, seed)
    make: Any = preference.trainer if isinstance(target, Preference) else _row_trainer
    trainer = make(model, tokenizer, drawing, train, target, _arguments(train, out, seed))
    _warn(drawing.encode)
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Progress())
    trainer.add_callback(_LogFile(out / "log.jsonl"))
    trainer.train(resume_from_checkpoint=_last_checkpoint(out))
    trainer.save_model(str(out))


def _row_trainer(
    model: Any,
    tokenizer: Any,
    drawing: Drawing,
    train: Train,
    target: Objective,
    told: dict[str, Any],
) -> RowTrainer:
    arguments, seed = TrainingArguments(**told), told["seed"]
    pad = chat.pad_id(tokenizer)
    attention = packing.chosen(model, train.fit, arguments.bf16)
    lay, deal = packing.layout(attention, pad, train.fit.batch_size)
    blank, per_step = chat.blank_row(pad), _rows_per_step(arguments)
    data = Epochs(drawing, train.fit.mix, seed, per_step, blank, deal)
    if train.fit.lora and not hasattr(model, "peft_config"):
        model = models.with_lora(model, train.fit.lora, seed)
    support = _support(model, tokenizer, target, Path(arguments.output_dir))
    support = support and support.to(arguments.device)  # a model to be split is not there yet
    npo = target.term == "npo"
    reference = _reference(model, data.rows, pad, arguments.bf16) if npo else None
    avoided, head = (token for row in data.rows for token in row.avoid), models.head(model)
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


def _warn(encode: chat.Encoder) -> None:
    if cut := [f"{number} {what}" for what, number in encode.cut.items() if number]:
        progress.say(
            f"cut to train.max_length={encode.max_length} tokens: {' and '.join(cut)}"
            + ("; a cut answer is not taught where to end" * bool(encode.cut["answers"]))
        )
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
        "learning_rate": fit.learning_rate,
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


def _rows_per_step(arguments: TrainingArguments) -> int:
    per_pass = arguments.per_device_train_batch_size * arguments.world_size
    return int(per_pass * arguments.gradient_accumulation_steps)


def _support(model: Any, tokenizer: Any, target: Objective, out: Path) -> losses.Support | None:
    """The starting embedding as the avoid terms see it, and its statistics in embedding.json."""
    if target.lambda_ == 0:
        return None
    inner = models.bare(model)
    output = target.embedding == "output"
    layer = inner.get_output_embeddings() if output else inner.get_input_embeddings()
    excluded = chat.special_ids(tokenizer) | chat.stop_ids(tokenizer)
    support = losses.support(layer.weight, excluded, len(tokenizer), target.centre)
    told = losses.cosine_statistics(support)
    if processes.first():
        replace(out / "embedding.json", json.dumps(told, indent=2) + "\n")
    return support


def _reference(
    model: Any, rows: Iterable[chat.Row], pad: int, bf16: bool
) -> dict[tuple[int, ...], float]:
    """log π_ref of each avoided answer under the starting model, taken once (for `npo`)."""
    head, device = models.head(model), next(model.parameters()).device
    decoder, found = models.bare(model.eval()).get_decoder(), {}
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        for row in {row.input_ids: row for row in rows if _avoids(row)}.values():
            batch = {k: v.to(device) for k, v in chat.collate([row], pad).items()}
            hidden = decoder(input_ids=batch["input_ids"]).last_hidden_state
            found[row.input_ids] = float(terms.avoided_logprob(hidden, batch, head))
    return found


def _avoids(row: chat.Row) -> bool:
    return any(token != chat.IGNORE for token in row.avoid)


def _collate(
    rows: Sequence[chat.Row], lay: packing.Layout, reference: dict[tuple[int, ...], float] | None
) -> dict[str, torch.Tensor]:
    batch = lay(rows)
    if reference is not None:
        values = [reference[row.input_ids] if _avoids(row) else 0.0 for row in rows]
        batch["reference"] = torch.tensor(values)
    return batch


def _last_checkpoint(out: Path) -> str | None:
    """The newest whole checkpoint; a half-written one, which a kill leaves, is removed."""
    for folder in sorted(out.glob("checkpoint-*"), key=lambda f: -int(f.name.split("-")[1])):
        try:
            json.loads((folder / "trainer_state.json").read_text())  # what is written last
        except (OSError, ValueError):
            shutil.rmtree(folder, ignore_errors=True)  # another process may be at it too
        else:
            return str(folder)
    return None


class _LogFile(TrainerCallback):
    """Keeps the steps so far in log.jsonl, one line each; a resume forgets those it repeats."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.is_world_process_zero:
            replace(self._path, "".join(map(_line, filter(_is_step, state.log_history))))

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.is_world_process_zero and _is_step(state.log_history[-1]):
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(state.log_history[-1]))


def _is_step(entry: dict[str, Any]) -> bool:
    return "loss" in entry


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True) + "\n"  # as a checkpoint brings it back


class _Progress(TrainerCallback):
    """A bar over the optimizer steps with the loss beside it."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._bar = progress.Bar("training", state.max_steps, state.global_step)
        self._bar.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if "loss" in (logs or {}):
            self._bar.step(state.global_step, f"loss {logs['loss']:.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._bar.stop()


class RowTrainer(Trainer):
    """transformers' Trainer on rows with two targets.

    Its own part is three things: both terms are divided by counts over the whole accumulated,
    all-process batch; the loss is taken from the hidden states; λ can be found at step 0.

    The loss is taken inside the output layer's own forward: whoever splits the weights over
    processes (FSDP, ZeRO-3) has them gathered there, once a pass, and brings the gradient back.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        target: Objective,
        support: losses.Support | None,
        kept: Kept | None,
        attention: str | None,
        **options: Any,
    ) -> None:
        super().__init__(model, arguments, **options)
        self._target, self._support, self._kept = target, support, kept
        self._attention = attention
        self._head = models.head(model)
        self._told: tuple[dict[str, torch.Tensor], tuple[float, float, float]] | None = None
        self._hidden: torch.Tensor
        self._found: tuple[torch.Tensor, dict[str, torch.Tensor]]
        self._terms = [0.0, 0.0, 0.0]  # of the step at hand, over all processes
        self._seen: dict[str, Any] = {}  # sums since the last log
        self._weight: float | None = None if target.lambda_ == "auto" else float(target.lambda_)
        self._norms: dict[str, float] = {}  # of both gradients, where λ is to be found
        models.bare(model).get_decoder().register_forward_hook(self._keep_hidden)
        self._head.module.register_forward_hook(self._take_loss)

    def train(self, *given: Any, **options: Any) -> Any:
        """As the Trainer does, with the attention of packed rows if they are."""
        with packing.attending(self.model, self._attention):
            return super().train(*given, **options)

    def _keep_hidden(self, module: Any, inputs: Any, output: Any) -> None:
        self._hidden = output.last_hidden_state

    def _take_loss(self, module: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor | None:
        """The losses of the batch at hand; logits keep their value, and the loss's graph."""
        if self._told is None:
            return None
        batch, factors = self._told
        with self.accelerator.autocast():
            self._found = terms.weighted(
                self._hidden,
                batch,
                self._head,
                self._target,
                self._support,
                factors,
                self._kept,
            )
        loss = self._found[0]
        return logits.detach() + (loss - loss.detach())

    def get_batch_samples(self, iterator: Any, size: int, device: Any) -> Any:
        """The micro-batches of one step; the terms of all processes are counted here."""
        batches, _ = super().get_batch_samples(iterator, size, device)
        counts = [terms.count(batch, self._target) for batch in batches]
        local = torch.tensor(counts or [(0, 0, 0)], dtype=torch.float64, device=device).sum(0)
        self._terms = self.accelerator.reduce(local).tolist()
        if self._weight is None:
            self._balance(batches)
        return batches, None

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The weighted sum of the terms, scaled for the mean that data parallelism takes."""
        told, counts, router = self._weighted(model, inputs, self._factors(self._weight or 0.0))
        self._tally(counts)
        loss = told + router
        return (loss, None) if return_outputs else loss

    def _factors(self, lambda_: float) -> tuple[float, float, float]:
        """What the sums of learn, transition and avoid are multiplied by in this step."""
        weights = objective.weights(self._terms, self._target)
        learn, transition, avoid = (w * self.accelerator.num_processes for w in weights)
        return learn, transition, lambda_ * avoid

    def _weighted(
        self, model: Any, inputs: dict[str, torch.Tensor], factors: tuple[float, float, float]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], Any]:
        # The head is asked for one position: the losses take theirs from the hidden states.
        self._told = inputs, factors
        output = model(**packing.inputs(inputs), use_cache=False, logits_to_keep=1)
        self._told = None
        loss, counts = self._found
        # None of the logits: wrappers wait for a gradient of what the model returned.
        return loss + output.logits[:0].sum(), counts, self._router(output)

    def _router(self, output: Any) -> Any:
        """A mixture of experts' own balancing loss, which transformers adds only to its own."""
        aux = getattr(output, "aux_loss", None)
        if aux is None:
            return 0.0
        coefficient = models.bare(self.model).config.get_text_config().router_aux_loss_coef
        return coefficient * aux / self.current_gradient_accumulation_steps

    def _balance(self, batches: list[dict[str, torch.Tensor]]) -> None:
        """`lambda: auto`: ‖∇learn‖ / ‖∇avoid‖, each over the first step that has such rows.

        Both are kept in lambda.json, and found there by a run that goes on.
        """
        kept = Path(self.args.output_dir) / "lambda.json"
        if self.state.global_step and not self._norms and kept.exists():
            self._norms = json.loads(kept.read_text())
        learn, moved, avoided = self._terms
        for part, there in (("learn", learn + moved), ("avoid", avoided)):
            if there and not self._norms.get(part):  # 0: the gate let no position through
                self._norms[part] = self._gradient_norm(batches, part)
        if self.is_world_process_zero():
            replace(kept, json.dumps(self._norms) + "\n")
        if len(self._norms) == 2 and self._norms["avoid"]:
            self._weight = self._norms["learn"] / self._norms["avoid"]

    def _gradient_norm(self, batches: list[dict[str, torch.Tensor]], part: str) -> float:
        model = self.model_wrapped.train()
        learn, transition, avoid = self._factors(1.0)
        factors = (learn, transition, 0.0) if part == "learn" else (0.0, 0.0, avoid)
        with torch.random.fork_rng():  # dropout draws here must not move those of the training
            for batch in batches:
                loss, _, _ = self._weighted(model, self._prepare_inputs(batch), factors)
                self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(model.parameters(), math.inf)  # of all shards
        model.zero_grad()
        return float(norm)

    def _tally(self, counts: dict[str, torch.Tensor]) -> None:
        for name, value in counts.items():
            self._seen[name] = self._seen.get(name, 0.0) + value.double()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each component, averaged over its own terms since the last log."""
        if "loss" in logs:
            logs |= terms.watch(self._reduced()) | {"lambda": self._weight or 0.0}
            self._seen = {}
        super().log(logs, start_time)

    def _reduced(self) -> dict[str, float]:
        """The sums over all processes; each name on each, or a rank without one would hang."""
        device, names = self.accelerator.device, terms.SUMMED
        sums = [torch.as_tensor(self._seen.get(name, 0.0), device=device) for name in names]
        return dict(zip(names, self.accelerator.reduce(torch.stack(sums)).tolist(), strict=True))
