"""What goes on beside the training loop: its log, its bar, and its end where it is lost."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from demur import progress
from demur.errors import UserError
from demur.records import replace


class Finite(TrainerCallback):
    """Ends a training whose loss or gradient is no number any more, in all processes together.

    The numbers are those over all processes, and looked at before a checkpoint is written.
    """

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        for name in ("loss", "grad_norm"):
            if not math.isfinite((logs or {}).get(name) or 0.0):
                raise UserError(
                    f"step {state.global_step}: {name} is {logs[name]}, and nothing can be learnt "
                    "from there: lower train.learning_rate, or look at the model's weights; what "
                    "was saved before is still there"
                )


class LogFile(TrainerCallback):
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


class Progress(TrainerCallback):
    """A bar over the optimizer steps with the loss beside it, for as long as it is entered."""

    _bar: progress.Bar | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar:
            self._bar.stop()

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._bar = progress.Bar("training", state.max_steps, state.global_step)
        self._bar.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if self._bar and "loss" in (logs or {}):
            self._bar.step(state.global_step, f"loss {logs['loss']:.3f}")
