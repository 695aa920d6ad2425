"""Run by the distributed tests in every process: fit models as a JSON file says.

python tests/fit_once.py jobs.json       (or torchrun --nproc_per_node 2 tests/fit_once.py ...)
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from demur import models, processes, records, tokenizers, training
from demur.fitting import Train
from demur.records import Example
from demur.settings import Model


def _shard_on_cpus() -> None:
    """accelerate shards on devices alone and passes by FSDP on CPUs without a word: make it."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    usual = AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        usual(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None:  # each model has its own
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = self.distributed_type

    AcceleratorState.__init__ = init


def main(jobs: Path) -> None:
    torch.set_num_threads(1)
    if os.environ.get("ACCELERATE_USE_FSDP"):
        _shard_on_cpus()
    for job in json.loads(jobs.read_text()):
        try:
            _fit(job)
        except Exception:  # what the tests miss is then what it left
            print(job["out"], traceback.format_exc(), file=sys.stderr)
    processes.leave()
    sys.stdout.flush()
    sys.stderr.flush()
    # gloo's threads now and then abort an interpreter that ends; what counts is written.
    os._exit(0)


def _fit(job: dict[str, Any]) -> None:
    settings = Train.model_validate(
        job["train"] | {"batch_size": job["rows_per_step"] // processes.count()}
    )
    model = Model(name=job["model"])
    training.fit(
        models.load(model, full=settings.fit.lora is None),
        tokenizers.load(model),
        records.read(job["data"], Example),
        settings,
        Path(job["out"]),
        seed=0,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
