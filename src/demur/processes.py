"""Which of the processes that accelerate or torchrun started this is, by what they tell each."""

from __future__ import annotations

import os

from demur.errors import UserError

TIES_ANEW = ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING")


def count() -> int:
    """How many processes were started together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return int(os.environ.get("RANK", 0)) == 0


def deepspeed() -> bool:
    """Whether accelerate was told to use DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"


def split() -> bool:
    """Whether the launcher splits the weights, and therefore places them itself."""
    return deepspeed() or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def ties_anew() -> bool:
    """Whether accelerate ties the weights of a model once more as it splits them (FSDP2)."""
    told = (os.environ.get(name, "") for name in TIES_ANEW)
    return all(value.lower() == "true" for value in told)


def leave() -> None:
    """Close what connects the processes: one that ends with it open may abort, its work done."""
    if count() > 1:
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()


def alone(verb: str) -> None:
    """Raises UserError for work that several processes would only do, and write, several times."""
    if count() > 1:
        raise UserError(
            f"`demur {verb}` runs on one process and {count()} were started: launch `demur train` "
            f"alone on many, and `demur {verb}` without accelerate or torchrun"
        )
