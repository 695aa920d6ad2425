"""The loop itself, and the only file that knows transformers.Trainer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from demur import adapters, heads, objective, packing, progress, terms
from demur.fused_walk import Kept
from demur.objective import Objective
from demur.records import replace
from demur.supports import Support

BALANCING = ("router_aux_loss_coef", "aux_loss_coef")  # JetMoe has the second


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
        support: Support | None,
        kept: Kept | None,
        attention: str | None,
        **options: Any,
    ) -> None:
        super().__init__(model, arguments, **options)
        self._target, self._support, self._kept = target, support, kept
        self._attention = attention
        self._head = heads.head(model)
        self._told: tuple[dict[str, torch.Tensor], tuple[float, float, float]] | None = None
        self._hidden: torch.Tensor
        self._found: tuple[torch.Tensor, dict[str, torch.Tensor]]
        self._terms = [0.0, 0.0, 0.0]  # of the step at hand, over all processes
        self._seen: dict[str, Any] = {}  # sums since the last log
        self._weight: float | None = None if target.lambda_ == "auto" else float(target.lambda_)
        self._norms: dict[str, float] = {}  # of both gradients, where λ is to be found

    def train(self, *given: Any, **options: Any) -> Any:
        """As the Trainer does; the model is handed back without a trace of how."""
        with self._attached():
            return super().train(*given, **options)

    @contextmanager
    def _attached(self) -> Iterator[None]:
        """The model with the attention of packed rows, if they are, and the hooks of the loss."""
        with (
            packing.attending(self.model, self._attention),
            adapters.bare(self.model).get_decoder().register_forward_hook(self._keep_hidden),
            self._head.module.register_forward_hook(self._take_loss),
        ):
            yield

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
        local = torch.tensor(counts or [(0, 0, 0)]).sum(0).to(device)  # whole numbers: see `wide`
        self._terms = self.accelerator.reduce(local, "sum").tolist()
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
        asked = {"output_router_logits": True} if self._balancing() else {}
        output = model(**packing.inputs(inputs), **asked, use_cache=False, logits_to_keep=1)
        self._told = None
        loss, counts = self._found
        # None of the logits: wrappers wait for a gradient of what the model returned.
        return loss + output.logits[:0].sum(), counts, self._router(output)

    def _router(self, output: Any) -> Any:
        """A mixture of experts' own balancing loss, which transformers adds only to its own."""
        aux = getattr(output, "aux_loss", None)
        if aux is None:
            return 0.0
        return self._balancing() * aux / self.current_gradient_accumulation_steps

    def _balancing(self) -> float:
        """The weight of that loss by the model's configuration; 0 where it has none.

        ``output_router_logits``, off in most published ones, is about inference.
        """
        settings = adapters.bare(self.model).config.get_text_config()
        named = (getattr(settings, name, None) for name in BALANCING)
        return next((float(weight) for weight in named if weight), 0.0)

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
            self._seen[name] = self._seen.get(name, 0.0) + value.to(wide(value.device))

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


def wide(device: torch.device) -> torch.dtype:
    """What sums are kept in: the GPUs of Apple have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def on_one_device(arguments: TrainingArguments) -> None:
    """One process, one device: for more, transformers takes nn.DataParallel.

    That cuts each pass along its first dimension, in which packed rows have length 1.
    """
    if arguments.n_gpu > 1:
        progress.say(
            f"one of {arguments.n_gpu} GPUs is trained on: to use them all, launch `demur train` "
            "by accelerate launch or torchrun (docs/cluster.md)"
        )
        arguments._n_gpu = 1
