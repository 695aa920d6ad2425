"""YAML becomes a frozen, typed run; an unknown key is refused with the nearest name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from demur import pages
from demur.endpoint import Server
from demur.errors import UserError
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
            raise UserError(f"model.{idle[0]} does nothing to a served model: set it at the server")
        if self.endpoint and self.chat_template and not self.tokenizer:
            raise UserError("model.chat_template of a served model needs model.tokenizer beside it")
        return self


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


class Safe(Settings):
    """Safe answers for harmful prompts that have none; a plain string is a refusal."""

    refusal: tuple[str, ...] = Field(
        (),
        description="what to say, e.g. `Sorry, I can't help with {topic}.`; of several, each "
        "prompt draws one. Beside `ask`: where that gave nothing usable",
    )
    ask: Literal["decline", "rewrite"] | None = Field(
        None,
        description="a language model is asked to `decline` helpfully, or to `rewrite` the unsafe "
        "answer into a safe one",
    )
    llm: Model | None = Field(
        None, description="who is asked, written as `model` is; null: the model to be trained"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        value = {"refusal": value} if isinstance(value, str) else value
        if isinstance(value, Mapping) and isinstance(value.get("refusal"), str):
            return {**value, "refusal": (value["refusal"],)}
        return value

    @field_validator("refusal")
    @classmethod
    def _fillable(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            try:
                filled = template.format(topic="x")
            except (LookupError, ValueError, AttributeError):
                filled = ""
            if not filled.strip():
                raise UserError(
                    f"collect.safe.refusal={template!r:.60}: write a sentence, with {{topic}} for "
                    "what is asked about and no other brace"
                )
        return templates

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not (self.refusal or self.ask):
            raise UserError("collect.safe says nothing: give `refusal` (a sentence), or `ask`")
        if self.llm and not self.ask:
            raise UserError("collect.safe.llm is asked nothing: set ask to decline or rewrite")
        return self


class Collect(Settings):
    """Sampling the model's own answers: unsafe ones to avoid, ordinary ones to keep."""

    decoding: Decoding = Field(Decoding(), description="how answers are decoded")
    min_tokens: int = Field(16, ge=0, description="shorter answers to harmful prompts are dropped")
    limit: int | None = Field(None, gt=0, description="keep at most this many unsafe answers")
    safe: Safe | None = Field(
        None, description="safe answers for harmful prompts, see below; null: those given with them"
    )


class Lora(Settings):
    """A low-rank adapter instead of full fine-tuning."""

    r: int = Field(16, gt=0, description="rank")
    alpha: int = Field(32, gt=0, description="scale, divided by the rank")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = Field("all-linear", description="as PEFT names them")


Scheduler = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
]


class Fit(Settings):
    """How the weights move: the same settings for every recipe."""

    epochs: float = Field(1.0, gt=0)
    max_steps: int = Field(-1, ge=-1, description="optimizer steps; -1 counts epochs instead")
    learning_rate: float = Field(1e-4, gt=0)
    lr_scheduler: Scheduler = Field("cosine", description="a transformers scheduler name")
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, ge=0)
    batch_size: int = Field(8, gt=0, description="rows per device and forward pass")
    accumulation: int = Field(1, gt=0, description="forward passes per optimizer step")
    max_length: int = Field(1024, gt=1, description="tokens a row may have; longer ones are cut")
    mix: dict[str, NonNegativeInt] = Field(
        {},
        description="row kinds and their parts, e.g. {learn: 3, avoid: 1}: 3 and 1 of every 4 "
        "rows, whatever a batch holds",
    )
    lora: Lora | None = Field(Lora(), description="null trains every weight")
    bf16: bool | None = Field(
        None, description="mixed precision; null: where the GPU or CPU has it"
    )
    packing: bool | None = Field(
        None,
        description="lay the rows of a pass end to end instead of padding them; null: where the "
        "model's attention keeps them apart",
    )
    gradient_checkpointing: bool = False
    save_steps: int = Field(50, gt=0, description="optimizer steps between checkpoints")
    save_total_limit: int | None = Field(2, gt=0, description="checkpoints kept")
    report_to: Literal["none", "tensorboard", "wandb"] = Field(
        "none", description="where curves go besides log.jsonl"
    )

    @field_validator("max_steps")
    @classmethod
    def _some(cls, value: int) -> int:
        if value == 0:  # transformers would take it for -1
            raise UserError("train.max_steps=0: give 1 or more, or -1 to count epochs instead")
        return value


class Train(Settings):
    """A recipe's own settings and those of the fit; both are written flat under ``train``."""

    recipe: str
    method: Any
    fit: Fit

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Give each flat key to whoever declares it."""
        if not isinstance(value, Mapping) or isinstance(value.get("fit"), Fit):
            return value
        flat = dict(value)
        recipe = _text("train.recipe", flat.pop("recipe", "ta_sft"))
        page = pages.find("recipes", recipe)
        flat = _preset(page, flat.pop("preset", None)) | flat
        mine, others = _partition(flat, keys(page.Settings), keys(Fit))
        return {"recipe": recipe, "method": settings(page, mine, "train"), "fit": others}

    def flat(self) -> dict[str, Any]:
        """Every setting under the name it has below ``train``, as plain values."""
        told: dict[str, dict[str, Any]] = self.model_dump(mode="json", exclude={"recipe"})
        return {"recipe": self.recipe} | told["method"] | told["fit"]

    @field_serializer("method")
    def _plain(self, method: Settings) -> dict[str, Any]:
        return method.model_dump(mode="json", by_alias=True)


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


class Drifting(Settings):
    """Scoring a model's own answers under the starting model, which is loaded for it."""

    kinds: tuple[Kind, ...] = Field(("everyday",), description="kinds of prompt whose answers are")
    limit: int | None = Field(50, gt=0, description="answers of each scenario and kind; null: all")


ALWAYS = ("refusal", "broken")  # judges without which no report can be made
SILENT = ("broken", "exact")  # judges that say nothing of harm


def spoken_as(judge: str) -> str:
    """The name in a judge's verdicts: of a dotted one its last part."""
    return judge.rpartition(".")[2].replace("-", "_")


class Evaluate(Settings):
    """What is asked of a model, how it is decoded, and who judges."""

    attacks: tuple[Page, ...] = Field(
        (Page(name="direct"), Page(name="prefill")), min_length=1, description="pages of `attacks`"
    )
    judges: tuple[Page, ...] = Field(
        (Page(name="refusal"), Page(name="broken"), Page(name="exact")),
        min_length=1,
        description="pages of `judges`; `refusal` and `broken`, which every report needs, are "
        "added where they are missing",
    )
    primary: str = Field(
        "refusal",
        description="the judge whose word counts for harm, one of `judges`; with `refusal`, "
        "requests that were answered are counted and harm is not",
    )
    decoding: Decoding = Field(Decoding(max_new_tokens=512), description="how answers are decoded")
    likelihood: bool | None = Field(
        None,
        description="score the starting model's held-out answers; null: where the weights are here",
    )
    drift: Drifting | None = Field(
        Drifting(), description="score answers under the starting model too; null: do not"
    )
    max_unscored: float = Field(0.05, ge=0, le=1, description="more unscored answers is an error")

    @field_validator("judges")
    @classmethod
    def _always_on(cls, judges: tuple[Page, ...]) -> tuple[Page, ...]:
        named = [spoken_as(page.name) for page in judges]
        if again := [name for name in named if named.count(name) > 1]:
            raise UserError(
                f"evaluate.judges has {again[0]!r} twice, and verdicts go by the judge's name: "
                "leave one out, and evaluate again with the other"
            )
        return (*(Page(name=name) for name in ALWAYS if name not in named), *judges)

    @field_validator("primary")
    @classmethod
    def _among_judges(cls, primary: str, info: ValidationInfo) -> str:
        known = [spoken_as(page.name) for page in info.data.get("judges", ())]
        if known and ((name := spoken_as(primary)) not in known or name in SILENT):
            able = ", ".join(name for name in known if name not in SILENT)
            raise UserError(
                f"evaluate.primary={primary!r} is no judge of harm among evaluate.judges ({able}): "
                "add it there, or choose one of them"
            )
        return spoken_as(primary)


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
            name: _variant(name, self.train, changes) for name, changes in self.variants.items()
        }


def _variant(name: str, base: Train, changes: dict[str, Any]) -> Train:
    """A variant keeps the base's fit; its method settings too where the recipe is the same."""
    try:
        return Train.model_validate(_varied(base, changes))
    except ValidationError as error:
        said = explain(error, Train, "train.")
    except UserError as error:
        said = str(error)
    raise UserError(said.replace("train.", f"variants.{name}.")) from None


def _varied(base: Train, changes: dict[str, Any]) -> dict[str, Any]:
    recipe = _text("train.recipe", changes.get("recipe", base.recipe))
    kept = base.fit.model_dump(exclude_unset=True)
    if recipe == base.recipe:
        kept |= base.method.model_dump(exclude_unset=True, by_alias=True)
    preset = _preset(pages.find("recipes", recipe), changes.get("preset"))
    own = {key: value for key, value in changes.items() if key != "preset"}
    return {"recipe": recipe} | kept | preset | own


def _preset(page: Any, name: Any) -> dict[str, Any]:
    if name is None:
        return {}
    if _text("train.preset", name) not in page.PRESETS:
        raise UserError(pages.unknown("train.preset", name, sorted(page.PRESETS)))
    return dict(page.PRESETS[name])


def _text(where: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    raise UserError(f"{where}={value!r:.60}: write a name here")


def load(path: Path | str, overrides: Sequence[str] = (), model: str | None = None) -> Run:
    """Read a run from YAML and apply ``dotted.key=value`` overrides (values are YAML too).

    ``model`` stands in for the configured one, as ``--model`` spells it; overrides come after.
    Raises UserError, one line, for a missing file, unreadable YAML or any setting refused.
    """
    tree = _read(Path(path))
    if model is not None:
        for key, value in spelled(model).items():
            _put(tree, ["model", key], value, f"--model {model}")
    return build(_merge(tree, overrides), str(path))


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
    tree: dict[str, Any] = found.tree(settings(found, chosen.settings, f"suite.{chosen.name}"))
    return tree


def _under(tree: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """``tree`` with what it lacks from ``below``, group by group; a list stands as it is."""
    both = {
        key: _under(tree[key], value)
        for key, value in below.items()
        if isinstance(tree.get(key), Mapping) and isinstance(value, Mapping)
    }
    return {**below, **tree, **both}


def settings(page: Any, values: Mapping[str, Any], where: str) -> Any:
    """A page's own settings, checked. Raises UserError naming the setting."""
    try:
        return page.Settings.model_validate({str(k): v for k, v in values.items()})
    except ValidationError as error:
        raise UserError(explain(error, page.Settings, f"{where}.")) from None


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


def _merge(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for text in sorted(overrides, key=lambda text: not text.startswith("suite=")):
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"override {text!r}: write it as section.key=value")
        _put(tree, key.split("."), given := _yaml(value, f"override {text!r}"), text)
        if key == "suite" and given:
            _make_room(tree)
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


def keys(group: type[BaseModel]) -> set[str]:
    """Every key a group of settings takes, aliases (``lambda``) instead of field names."""
    return {field.alias or name for name, field in group.model_fields.items()}


def _partition(
    flat: dict[str, Any], mine: set[str], others: set[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split flat keys between two groups; the leftovers are refused by name."""
    for key in flat:
        if key not in mine | others:
            known = sorted(mine | others | {"recipe", "preset"})
            raise UserError(pages.unknown("setting", str(key), known, "train."))
    return (
        {k: v for k, v in flat.items() if k in mine},
        {k: v for k, v in flat.items() if k not in mine},
    )


def explain(error: ValidationError, root: type[BaseModel], prefix: str = "") -> str:
    """A validation error in one line: the setting, the value, and what it may be."""
    first = error.errors()[0]
    if first["type"] == "value_error":  # raised by us, and already one line
        return str(first["ctx"]["error"])
    path = [str(part) for part in first["loc"] if not isinstance(part, int)]
    where = (prefix + ".".join(path)).replace("train.fit.", "train.")  # as it is written
    if first["type"] == "extra_forbidden":
        known = sorted(keys(_group(root, path[:-1])))
        return pages.unknown("setting", path[-1], known, where.removesuffix(path[-1]))
    if first["type"] == "missing":
        return f"{where} is missing: it has no default"
    # Which of several types it is not is of no use to anybody.
    where = re.sub(r"\.(str|(constrained-)?float|[\w-]+\[.*)$", "", where)
    return f"{where}={first['input']!r:.60}: {_in_yaml(first['msg'])}"


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
