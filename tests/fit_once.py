"""Run by the distributed tests in every process: fit a model as a JSON file says.

python tests/fit_once.py job.json       (or torchrun --nproc_per_node 2 tests/fit_once.py ...)
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from demur import config, models, processes, records, training
from demur.records import Example


def _shard_on_cpus() -> None:
    """accelerate shards on devices alone and passes by FSDP on CPUs without a word: make it."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    usual = AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        usual(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = self.distributed_type

    AcceleratorState.__init__ = init


def main(job: Path) -> None:
    told = json.loads(job.read_text())
    torch.set_num_threads(1)
    if os.environ.get("ACCELERATE_USE_FSDP"):
        _shard_on_cpus()
    settings = config.Train.model_validate(
        told["train"] | {"batch_size": told["rows_per_step"] // processes.count()}
    )
    model = config.Model(name=told["model"])
    training.fit(
        models.load(model, full=settings.fit.lora is None),
        models.tokenizer(model),
        records.read(told["data"], Example),
        settings,
        Path(told["out"]) / str(processes.count()),
        seed=0,
    )
    processes.leave()
    sys.stdout.flush()
    # gloo's threads now and then abort an interpreter that ends; what counts is written.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
