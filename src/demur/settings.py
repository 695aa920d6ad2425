"""The base of all settings, the groups that parts of a run share, and a refusal in one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from demur import pages
from demur.endpoint import Server
from demur.errors import SettingError, UserError
from demur.records import Kind


class Settings(BaseModel):
    """The base of every group of settings: frozen, and closed to unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False
    )


class Source(Settings):
    """Where examples come from; a plain string is short for ``{where: …}``."""

    where: str = Field(description="a file, a folder, `demo:harmful.train`, or a hub id")
    format: str | None = Field(None, description="a page of `sources`; None recognises it")
    split: str | None = Field(None, description="the split of a `datasets` data set")
    limit: int | None = Field(None, gt=0, description="at most this many examples")
    answers: bool = Field(True, description="false: take the prompts alone, as if none came along")
    name: str | None = Field(
        None, description="what reports and attacks call it; null: what its rows say, or its file"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"where": value} if isinstance(value, str) else value


class Prompts(Settings):
    """Three kinds of prompt; each a list of sources."""

    harmful: tuple[Source, ...] = Field((), description="what the model should decline")
    lookalike: tuple[Source, ...] = Field((), description="harmless, but looks like it")
    everyday: tuple[Source, ...] = Field((), description="ordinary instructions")

    def by_kind(self) -> dict[Kind, tuple[Source, ...]]:
        return {"harmful": self.harmful, "lookalike": self.lookalike, "everyday": self.everyday}


class Heldout(Prompts):
    """The same three, and tasks: questions with one right answer."""

    task: tuple[Source, ...] = Field((), description="with one right answer: GSM8K's, MMLU's rows")

    def by_kind(self) -> dict[Kind, tuple[Source, ...]]:
        return super().by_kind() | {"task": self.task}


class Data(Settings):
    """What is trained on, and what is held out to measure with. They must not overlap."""

    train: Prompts = Field(Prompts(), description="for collecting and training")
    heldout: Heldout = Field(Heldout(), description="for evaluation only")


class Model(Settings):
    """The model to start from, or to measure."""

    name: str = Field(
        description="a path, a hub id, `smollm2-135m-instruct` (packaged), or what `endpoint` "
        "calls it"
    )
    endpoint: Server | None = Field(
        None, description="where it is served: an address, or settings (below); null: loaded here"
    )
    adapter: str | None = Field(None, description="a PEFT adapter to start from: path or hub id")
    revision: str | None = Field(None, description="branch, tag or commit of a hub model")
    tokenizer: str | None = Field(
        None, description="where its tokenizer lies: path or hub id; null: with the model"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="weights in memory; `auto`: bfloat16 on a GPU that has it, else float32"
    )
    chat_template: str | None = Field(
        None,
        description="a Jinja file, `plain` for none, `derta` for that paper's text; "
        "null takes the tokenizer's own, an endpoint's its server's",
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the model")

    @model_validator(mode="after")
    def _served(self) -> Self:
        """What belongs to weights says nothing of a served model."""
        idle = [k for k in ("adapter", "revision") if getattr(self, k)]
        idle += ["dtype"] if self.dtype != "auto" else []
        if self.endpoint and idle:
            raise SettingError(f"{idle[0]} does nothing to a served model: set it at the server")
        if self.endpoint and self.chat_template and not self.tokenizer:
            raise SettingError("chat_template of a served model needs `tokenizer` beside it")
        return self


def parts(name: str, adapter: str | None = None) -> tuple[str, ...]:
    """What a model is called by: the parts of its path or id, then those of its adapter."""
    where = Path(name) if name.strip("./~") else Path(name).resolve()
    found = [*where.parts, *Path(adapter or "").parts]
    return tuple(part for part in found if part.strip("./~"))


def spelled(text: str) -> dict[str, Any]:
    """The settings that ``--model`` means: ``model``, ``model:adapter`` or ``http://…/v1#model``.

    What belonged to another model (its adapter, revision and tokenizer) is set to null.
    Raises UserError for an address without a name.
    """
    none = dict.fromkeys(("adapter", "revision", "tokenizer", "endpoint"))
    if re.match(r"https?://", text):
        address, _, name = text.partition("#")
        if not name:
            raise UserError(f"--model {text}: add the model's name there, as {text}#name")
        return none | {"name": name, "endpoint": {"base_url": address}, "dtype": "auto"}
    name, _, adapter = (text, "", "") if Path(text).exists() else text.partition(":")
    return none | {"name": name, "adapter": adapter or None}


class Decoding(Settings):
    """Greedy decoding in batches of similar length."""

    max_new_tokens: int = Field(256, gt=0, description="tokens an answer may have (evaluate: 512)")
    batch_size: int = Field(16, gt=0, description="prompts decoded together")


class Page(Settings):
    """A page of a folder with its settings, written ``name`` or ``{name: {setting: value}}``.

    An attack may be kept to the behaviors of some ``sources``: ``{name: …, sources: […]}``.
    """

    name: str
    settings: dict[str, Any] = {}
    sources: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and len(value) == 1 and "name" not in value:
            [(name, settings)] = value.items()
            return {"name": name, "settings": settings or {}}
        return value


Uses = Mapping[str, tuple[str, Callable[[Any], bool]]]  # in words, and whether it is so


def refuse_idle(settings: Settings, uses: Uses, prefix: str = "train.") -> None:
    """Raises UserError for a setting that was given and does nothing beside the others.

    ``uses`` says of a setting beside what it does something. Its default may stand anywhere.
    """
    for name in settings.model_fields_set & uses.keys():
        (words, of_use), value = uses[name], getattr(settings, name)
        default = type(settings).model_fields[name].default
        if value and value != default and not of_use(settings):
            raise UserError(
                f"{prefix}{name}={value} does nothing here: it is for {words}; leave it out"
            )


def page_settings(page: Any, values: Mapping[str, Any], where: str) -> Any:
    """A page's own settings, checked. Raises UserError naming the setting."""
    try:
        return page.Settings.model_validate({str(k): v for k, v in values.items()})
    except ValidationError as error:
        raise UserError(explain(error, page.Settings, f"{where}.")) from None


def keys(group: type[BaseModel]) -> set[str]:
    """Every key a group of settings takes, aliases (``lambda``) instead of field names."""
    return {field.alias or name for name, field in group.model_fields.items()}


def explain(error: ValidationError, root: type[BaseModel], prefix: str = "") -> str:
    """A validation error in one line: the setting, the value, and what it may be."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"] if not isinstance(part, int)]
    if first["type"] == "value_error":  # raised by us, and already one line
        return _placed(first["ctx"]["error"], prefix, path)
    where = (prefix + ".".join(path)).replace("train.fit.", "train.")  # as it is written
    if first["type"] == "extra_forbidden":
        known = sorted(keys(_group(root, path[:-1])))
        return pages.unknown("setting", path[-1], known, where.removesuffix(path[-1]))
    if first["type"] == "missing":
        return f"{where} is missing: it has no default"
    # Which of several types it is not is of no use to anybody.
    where = re.sub(r"\.(str|(constrained-)?float|[\w-]+\[.*)$", "", where)
    return f"{where}={first['input']!r:.60}: {_in_yaml(first['msg'])}"


def _placed(error: Exception, prefix: str, path: Sequence[str]) -> str:
    """What a group or one of its fields, which lies at ``path``, says of a setting of its own."""
    if not isinstance(error, SettingError):
        return str(error)
    group = path[:-1] if path and str(error).startswith(path[-1]) else path
    return prefix + ".".join((*group, str(error)))


def _in_yaml(message: str) -> str:
    """Pydantic's words for what a value should be, in the words of YAML."""
    message = re.sub(r"valid dictionary( or instance of \w+)?", "mapping of settings", message)
    message = message.replace("valid tuple", "list").replace(" for <class 'pathlib.Path'>", "")
    return message[0].lower() + message[1:]


def _group(root: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    """The group of settings that ``path`` leads to."""
    for part in path:
        field = root.model_fields.get(part)
        inner = _models(field.annotation) if field else []
        root = inner[0] if inner else root
    return root


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
