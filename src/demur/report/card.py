"""A trained model's card: README.md with the metadata that model hubs read.

The metadata are Hugging Face's (``model-index`` from ``EvalResult``), written by its own library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from demur import __version__, measures, outcomes, packaged, records
from demur.measures import Figure
from demur.metrics import Rate
from demur.progress import say
from demur.report import notes, tables, words
from demur.report.results import Measured

MARK = "<!-- written by demur: `demur report` writes it anew -->"
NO_ID = re.compile(r"[^A-Za-z0-9_.]+")  # what no id of a hub's data set holds
PLACEHOLDER = "# Model Card for Model ID"  # what PEFT leaves in every adapter's folder


@dataclass(frozen=True, slots=True)
class Origin:
    """What the trainings began with: the model as configured, and data sets of a hub."""

    model: str
    datasets: tuple[str, ...] = ()

    @property
    def hub(self) -> str | None:
        """The starting model's hub id; None for a folder, whose name means nothing elsewhere."""
        if known := packaged.PACKAGED.get(self.model.lower()):
            return known.hub
        return None if Path(self.model).expanduser().exists() else self.model


def view(
    title: str, name: str, folder: Path, found: Measured, origin: Origin
) -> tuple[dict[str, Any], ModelCardData]:
    """The template's variables, and the metadata, of the training ``name`` in ``folder``."""
    made = found.training[name].manifest
    inputs = made.get("inputs") or {}
    lines = tables.headline(found.table, found.comparisons, [], found.primary)
    shown = {
        "mark": MARK,
        "version": __version__,
        "title": words.line(title),
        "name": words.line(name),
        "first": words.line(found.names[0]),
        "base": origin.hub or Path(origin.model).name,  # where it lay is nobody's business
        "recipe": made.get("recipe", "–"),
        "adapter": _is_adapter(folder),
        "columns": dict.fromkeys((0, found.names.index(name))),
        "lines": [line for group in lines.values() for line in group],
        "settings": words.flat(inputs.get("train") or {}),
        "made": _made(made, found.evaluations[name].manifest),
        "judges": {judge: words.about(judge) for judge in found.versions},
        "versions": found.versions,
        "corrections": notes.corrections(found.evaluations.values(), found.primary),
        "notes": notes.warnings(found.evaluations, found.primary),
        "lookalikes": notes.lookalikes({name: found.training[name]}),
    }
    return shown, _data(name, folder, found, origin)


def write(folder: Path, data: ModelCardData, text: str) -> None:
    """Write the card, unless a README.md of somebody's own is there."""
    path = folder / "README.md"
    there = path.read_text(encoding="utf-8") if path.is_file() else ""
    if there and MARK not in there and PLACEHOLDER not in there:
        say(f"{path} is somebody's own and is kept: remove it for a model card of the measurements")
        return
    records.replace(path, str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")))


def _data(name: str, folder: Path, found: Measured, origin: Origin) -> ModelCardData:
    adapter = _is_adapter(folder)
    return ModelCardData(
        base_model=origin.hub,
        base_model_relation=("adapter" if adapter else "finetune") if origin.hub else None,
        datasets=list(origin.datasets) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["demur", "safety", str(found.training[name].manifest.get("recipe", "trained"))],
        model_name=words.line(_called(name, found, origin)),
        eval_results=list(_results(name, found)),
    )


def _called(name: str, found: Measured, origin: Origin) -> str:
    """A model's own name: what it was made from, and how; `after` is a name within a run alone."""
    how = name if name != "after" else found.training[name].manifest.get("recipe", name)
    return f"{Path(origin.hub or origin.model).name}-{how}"


def _results(name: str, found: Measured) -> Iterator[EvalResult]:
    """Every figure that has a value: rates between 0 and 1, with counts and interval."""
    place = found.names.index(name)
    asked = (found.evaluations[name].manifest.get("inputs") or {}).get("behaviors")
    for key, row in found.table.items():
        figure = row[place]
        if figure and (value := tables.level(figure.value)) is not None:
            scenario, _, label = key.rpartition("/")
            yield EvalResult(
                task_type="text-generation",
                dataset_type=NO_ID.sub("-", scenario).strip("-"),
                dataset_config=words.line(scenario),
                dataset_name=_asked(figure, scenario),
                dataset_revision=asked,
                metric_type=label if label.endswith("nll") else f"{label}_rate",
                metric_name=words.line(figure.title),
                metric_value=round(value, 6),
                metric_args=_args(figure) | _judge(label, figure, found),
            )


def _asked(figure: Figure, scenario: str) -> str:
    if not isinstance(figure.value, Rate):
        return "The starting model's held-out answers"
    return words.line(f"{figure.group}, {measures.spoken(scenario.rpartition('/')[0])}")


def _args(figure: Figure) -> dict[str, Any]:
    value = figure.value
    interval = {"low": round(value.low, 6), "high": round(value.high, 6), "n": figure.n}
    return interval | (
        {"k": value.k, "unscored": value.unscored} if isinstance(value, Rate) else {}
    )


def _judge(label: str, figure: Figure, found: Measured) -> dict[str, str]:
    """Whose count it is, and by which of its versions; nothing of what nobody judged."""
    judge = "broken" if label == "broken" else outcomes.judge_of(label, found.primary)
    counted = isinstance(figure.value, Rate) and judge in found.versions
    told = {"judge": judge, "judge_version": found.versions[judge]} if counted else {}
    return {key: words.line(text) for key, text in told.items()}


def _made(made: Mapping[str, Any], evaluated: Mapping[str, Any]) -> dict[str, str]:
    """What tells this model and its measurement from others."""
    inputs, asked = made.get("inputs") or {}, evaluated.get("inputs") or {}
    told = {
        "examples": made.get("examples"),
        "examples with an unsafe answer": made.get("unsafe"),
        "training data (fingerprint)": inputs.get("data"),
        "starting model": inputs.get("model"),
        "held-out data (fingerprint)": asked.get("behaviors"),
        "chat template (fingerprint)": made.get("chat_template"),
        "seed": made.get("seed"),
        "versions": made.get("versions"),
    }
    return words.flat({key: value for key, value in told.items() if value is not None})


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()
