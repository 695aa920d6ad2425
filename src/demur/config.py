"""YAML becomes a frozen, typed run; an unknown key is refused with the nearest name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from demur import pages
from demur.asking import Collect, Evaluate
from demur.errors import UserError
from demur.fitting import Train, overridden, variant
from demur.settings import Data, Model, Page, Settings, explain, page_settings, spelled


class Run(Settings):
    """The whole of it: collect, train, evaluate, report."""

    output: Path = Field(description="the folder everything is written to")
    suite: Page | None = Field(
        None, description="a page of `suites`, which fills in `data.heldout` and `evaluate`"
    )
    title: str = Field("", description="the report's heading")
    seed: int = Field(0, ge=0, lt=1 << 32, description="of all that is drawn, as numpy takes it")
    model: Model
    data: Data = Field(Data(), description="see below")
    collect: Collect = Field(Collect(), description="see below")
    train: Train | None = Field(None, description="see below; null trains nothing, and measures")
    variants: dict[str, dict[str, Any]] = Field(
        {}, description="more trainings from the same data: a name, and what differs in `train`"
    )
    evaluate: Evaluate = Field(Evaluate(), description="see below")

    @model_validator(mode="before")
    @classmethod
    def _with_suite(cls, value: Any) -> Any:
        """What a suite stands for, under what is written beside it."""
        if not isinstance(value, Mapping) or not value.get("suite"):
            return value
        suite, own = _suite(page(value["suite"], "suite")), value.get("evaluate")
        if isinstance(own, Mapping) and "judges" in own:  # the primary one need not be among them
            suite.get("evaluate", {}).pop("primary", None)
        return _under(value, suite)

    @field_validator("variants")
    @classmethod
    def _folder_names(cls, variants: dict[str, Any]) -> dict[str, Any]:
        for name in variants:
            if name in ("before", "after") or not re.fullmatch(r"\w[\w.=-]*", name):
                raise UserError(
                    f"variants: {name!r} cannot be the name of a variant: use letters, digits "
                    "and dashes, and neither `before` nor `after`, which every run has"
                )
        return variants

    def notes(self) -> list[str]:
        """What its suite, as it is set, leaves out of the protocol that it stands for."""
        if self.suite is None:
            return []
        found = pages.find("suites", self.suite.name)
        told = page_settings(found, self.suite.settings, f"suite.{self.suite.name}")
        return list(found.notes(told)) if hasattr(found, "notes") else []

    def trainings(self) -> dict[str, Train]:
        """Every training of this run by name; ``after`` is the one under ``train``.

        Raises UserError for a training that cannot be: of no settings, or of a served model.
        """
        if self.train is None:
            if self.variants:
                raise UserError("variants differ from `train`, which is missing: write it")
            return {}
        if self.model.endpoint:
            raise UserError(
                f"model.endpoint={self.model.endpoint.base_url}: a served model can be asked and "
                "not trained; name its weights, or take `train` out to measure it"
            )
        return {"after": self.train} | {
            name: variant(name, self.train, changes) for name, changes in self.variants.items()
        }


def load(path: Path | str, overrides: Sequence[str] = (), model: str | None = None) -> Run:
    """Read a run from YAML and apply ``dotted.key=value`` overrides (values are YAML too).

    ``model`` stands in for the configured one, as ``--model`` spells it; overrides come after.
    Raises UserError, one line, for a missing file, unreadable YAML or any setting refused.
    """
    tree = _read(Path(path))
    if model is not None:
        for key, value in spelled(model).items():
            _put(tree, ["model", key], value, f"--model {model}")
    return build(merge(tree, overrides), str(path))


def build(tree: dict[str, Any], origin: str = "configuration") -> Run:
    """A run out of what YAML holds. Raises UserError, one line, for any setting refused."""
    try:
        run = Run.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{origin}: {explain(error, Run)}") from None
    run.trainings()  # refuses a wrong variant now, and a served model
    return run


def page(given: Any, what: str) -> Page:
    """A page as a command line names it: ``harm``, or YAML with its settings, read or unread.

    Raises UserError for what is neither; whether there is such a page is not looked at.
    """
    try:
        return Page.model_validate(yaml.safe_load(given) if isinstance(given, str) else given)
    except (yaml.YAMLError, ValidationError):
        raise UserError(
            f"{what} {given!r}: write a name, or a name with settings: 'harm: {{threshold: 0.6}}'"
        ) from None


def _suite(chosen: Page) -> dict[str, Any]:
    """The settings a suite stands for. Raises UserError for one that is not known or not so."""
    found = pages.find("suites", chosen.name)
    tree: dict[str, Any] = found.tree(page_settings(found, chosen.settings, f"suite.{chosen.name}"))
    return tree


def _under(tree: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """``tree`` with what it lacks from ``below``, group by group; a list stands as it is."""
    both = {
        key: _under(tree[key], value)
        for key, value in below.items()
        if isinstance(tree.get(key), Mapping) and isinstance(value, Mapping)
    }
    return {**below, **tree, **both}


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = _yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise UserError(f"no such configuration file: {path}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: name a run's YAML file, in it or elsewhere") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}") from None
    if tree is None:
        raise UserError(f"{path} is empty: write `output` and `model` at least")
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a configuration is a mapping of settings, not {tree!r:.60}")
    return tree


def _yaml(text: str, origin: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{origin}: not YAML: {' '.join(str(error).split())}") from None


def merge(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``tree`` with ``dotted.key=value`` put over it. Raises UserError for any other form."""
    train: dict[str, Any] = {}
    for text in sorted(overrides, key=lambda text: not text.startswith("suite=")):
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"override {text!r}: write it as section.key=value")
        _put(tree, key.split("."), given := _yaml(value, f"override {text!r}"), text)
        if key == "suite" and given:
            _make_room(tree)
        if key.startswith("train.") and key.count(".") == 1:
            train[key.removeprefix("train.")] = given
    if train:
        tree["train"] = overridden(tree["train"], train)
    return tree


def _make_room(tree: dict[str, Any]) -> None:
    """A suite of the command line is asked instead of what the file would ask."""
    tree.pop("evaluate", None)
    if isinstance(tree.get("data"), dict):
        tree["data"].pop("heldout", None)


def _put(tree: dict[str, Any], path: list[str], value: Any, text: str) -> None:
    for part in path[:-1]:
        if tree.get(part) is None:
            tree[part] = {}
        if not isinstance(tree[part], dict):
            raise UserError(f"override {text!r}: {part!r} holds a value, not settings")
        tree = tree[part]
    tree[path[-1]] = value
