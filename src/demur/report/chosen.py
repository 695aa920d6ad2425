"""The folders a user names become evaluations with names, and the trainings behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demur.errors import UserError
from demur.evaluated import FILES
from demur.report import names

AFTER = "after"


@dataclass(frozen=True, slots=True)
class Chosen:
    """An evaluation folder, and the training that made its model where a run has both."""

    evaluation: Path
    training: Path | None = None


def choose(folders: Sequence[Path]) -> dict[str, Chosen]:
    """Each folder under a short name: a run stands for its evaluation `after`, or its only one.

    Raises UserError for what is neither a run nor an evaluation, and for a folder named twice.
    """
    found = [_chosen(folder) for folder in folders]
    if again := {str(c.evaluation) for c in found if found.count(c) > 1}:
        raise UserError(f"{again.pop()} is named twice: name each folder once")
    return dict(zip(_names(folders, found), found, strict=True))


def _chosen(folder: Path) -> Chosen:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: name a run or an evaluation folder")
    if any((folder / name).is_file() for name in FILES):
        return Chosen(folder, _training(folder))
    there = sorted(path.name for path in (folder / "evaluate").glob("*"))
    if AFTER in there or len(there) == 1:
        inner = folder / "evaluate" / (AFTER if AFTER in there else there[0])
        return Chosen(inner, _training(inner))
    hint = f"it has {', '.join(there)}" if there else f"it has no evaluate/{AFTER}"
    raise UserError(f"{folder} is no evaluation, and as a run {hint}: name the evaluation itself")


def _training(evaluation: Path) -> Path | None:
    home = evaluation.absolute().parents
    folder = home[1] / "train" / evaluation.absolute().name
    return folder if home[0].name == "evaluate" and folder.is_dir() else None


def _names(folders: Sequence[Path], found: Sequence[Chosen]) -> list[str]:
    """A folder's name, or its model's where it has that from `demur evaluate --model`."""
    whole = [tuple(p for p in f.absolute().parts if p != "evaluate") for f in folders]
    models = [
        names.called(f.absolute().name, c.evaluation) for f, c in zip(folders, found, strict=True)
    ]
    known = [model if len(model) > 1 else path for model, path in zip(models, whole, strict=True)]
    return names.apart(known) or names.apart(whole) or [str(folder) for folder in folders]
