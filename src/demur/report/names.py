"""What models and runs are called: as much of their paths as tells them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from demur import evaluated
from demur.errors import UserError
from demur.evaluated import Evaluation
from demur.settings import parts

Parts = tuple[str, ...]


def apart(paths: Sequence[Parts]) -> list[str] | None:
    """The last part of each, or where two share it as much of all as tells them apart.

    None where nothing does.
    """
    for length in range(1, max(map(len, paths), default=0) + 1):
        names = ["/".join(path[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return None


def shown(folders: Sequence[Path]) -> list[str]:
    """What evaluations that lie beside each other are called on a page: see `called`."""
    return apart([called(folder.name, folder) for folder in folders]) or [f.name for f in folders]


def called(name: str, evaluation: Path) -> Parts:
    """The parts of a model's path where a folder has its ``name`` from them, else that name."""
    model = _of(evaluation)
    return model if "-".join(model) == name else (name,)


def heading(evaluations: Mapping[str, Path]) -> str:
    """What a run's page is called: the model it starts from, else all that it measured."""
    before = evaluations.get("before")
    start = _of(before) if before else ()
    return start[-1] if start else _listed(list(evaluations))


def side_by_side(evaluations: Mapping[str, Evaluation]) -> str:
    """What a page of several runs is called: their models, else the runs where two share one."""
    models = [name for e in evaluations.values() for name in _parts(e.manifest)[-1:]]
    return _listed(models if len(set(models)) == len(evaluations) else list(evaluations))


def _listed(names: Sequence[str]) -> str:
    few = len(names) < 4
    return " and ".join(names) if few else f"{names[0]} and {len(names) - 1} others"


def _of(evaluation: Path) -> Parts:
    try:
        return _parts(evaluated.read_manifest(evaluation))
    except UserError:  # told where the folder is read
        return ()


def _parts(made: Mapping[str, object]) -> Parts:
    """Of the model that was evaluated; none where the manifest does not say."""
    model = made.get("model")
    if not isinstance(model, Mapping) or not model.get("name"):
        return ()
    return parts(str(model["name"]), model.get("adapter"))
