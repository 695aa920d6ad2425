"""behaviors → attempts → completions → verdicts, each stage a file that resumes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur import (
    identity,
    language,
    manifest,
    models,
    pages,
    processes,
    records,
    rejudging,
    sampler,
    tokenizers,
)
from demur.asking import Evaluate
from demur.attempts import Chosen, attempted
from demur.errors import UserError
from demur.evaluated import Likelihood
from demur.records import Behavior, Completion, Verdict
from demur.settings import Model, Page, page_settings

if TYPE_CHECKING:
    from demur.drift import Trace

AT_ONCE = 50  # verdicts kept together: what a judge that is killed has to say again


def evaluate(
    model: Model,
    behaviors: Sequence[Behavior],
    settings: Evaluate,
    out: Path,
    seed: int = 0,
    known: Iterable[Completion] = (),
    start: Model | None = None,
) -> None:
    """Measure one model on ``behaviors``, leaving JSONL files and a manifest in ``out``.

    ``known`` are completions this very model has given before; they are not asked again.
    ``start`` is the model this one was trained from (or is), for the drift between the two.
    Where all is answered, by whatever judges, no weight is loaded again: what is left to judge is
    judged, and where other judges are wanted they are asked.
    Raises UserError for wrong settings, before any weight is loaded, and when more answers stay
    unscored than ``max_unscored`` allows.
    """
    processes.alone("evaluate")
    check(settings, behaviors)
    _refuse_weightless(model, settings)
    models.check(model)
    start = start if settings.drift and not model.endpoint else None
    inputs = {
        "model": identity.identity(model),
        "behaviors": manifest.of(behaviors),
        "evaluate": settings.identity(),
        "seed": seed,
    }
    if start is not None:
        check_start(start, model)
        inputs["start"] = identity.identity(start)
    if files := _files(settings):
        inputs["files"] = files
    template = tokenizers.template_of(model)
    facts = {"model": model.model_dump(), "chat_template": template, "seed": seed}
    answered = rejudging.reopen(out, inputs)
    facts |= {"primary": settings.primary} | ({rejudging.ANSWERED: True} if answered else {})
    if manifest.begin(out, inputs, facts):
        manifest.note(out, primary=settings.primary)
        return
    if answered:
        completions = records.read(out / "completions.jsonl", Completion)
    else:
        completions, trace = _ask(model, behaviors, settings, out, seed, known, start)
        if trace is not None:
            _drift(trace, model, start, out)
        manifest.note(out, **{rejudging.ANSWERED: True})
    verdicts = judge(completions, settings.judges, out / "verdicts.jsonl")
    refuse_doubt(completions, verdicts, settings.max_unscored, "evaluate.max_unscored")
    manifest.finish(out, completions=len(completions), verdicts=len(verdicts))


def _refuse_weightless(model: Model, settings: Evaluate) -> None:
    """A served model has no gradients and no likelihoods. Raises UserError before it is asked."""
    if not model.endpoint:
        return
    served = f"needs the weights, and {model.name!r} is served at {model.endpoint.base_url}"
    if settings.likelihood:
        raise UserError(f"evaluate.likelihood=true {served}: leave it null")
    if settings.drift and "drift" in settings.model_fields_set:
        raise UserError(f"evaluate.drift {served}: leave it out, or set it null")
    for page in settings.attacks:
        if getattr(pages.find("attacks", page.name), "WEIGHTS", False):
            raise UserError(f"attack {page.name!r} {served}: take it out of evaluate.attacks")


def check(settings: Evaluate, behaviors: Iterable[Behavior] = ()) -> None:
    """Every attack and judge exists and takes the settings it is given, or a UserError.

    So does a judge of tasks, where there are any, and whatever an attack is kept to.
    """
    behaviors = list(behaviors)
    for page in settings.attacks:
        _page("attacks", page)
        _check_sources(page, sorted({behavior.source for behavior in behaviors}))
    check_judges(settings.judges)
    if all(page.name != "exact" for page in settings.judges) and any(
        behavior.kind == "task" for behavior in behaviors
    ):
        raise UserError("data.heldout.task needs the judge `exact`: add it to evaluate.judges")


def _check_sources(attack: Page, known: Sequence[str]) -> None:
    for source in attack.sources:
        if known and source not in known:
            raise UserError(
                pages.unknown(f"source of evaluate.attacks.{attack.name}", source, known)
            )


def check_judges(judges: Iterable[Page], where: str = "evaluate.judges.") -> None:
    """Raises UserError for an unknown judge or wrong settings, saying ``where`` they stand."""
    for page in judges:
        page_settings(pages.find("judges", page.name), page.settings, f"{where}{page.name}")
        if page.sources:
            raise UserError(f"judge {page.name!r}: it judges every answer; sources are an attack's")


def _files(settings: Evaluate) -> dict[str, str]:
    """What lies in the files that attacks and judges are told to read."""
    chosen = {"attacks": settings.attacks, "judges": settings.judges}
    return manifest.files(_page(folder, page)[1] for folder in chosen for page in chosen[folder])


def _page(folder: str, page: Page) -> tuple[Any, Any]:
    found = pages.find(folder, page.name)
    return found, page_settings(found, page.settings, f"evaluate.{folder}.{page.name}")


def _ask(
    model: Model,
    behaviors: Sequence[Behavior],
    settings: Evaluate,
    out: Path,
    seed: int,
    known: Iterable[Completion],
    start: Model | None,
) -> tuple[list[Completion], Trace | None]:
    """What takes the model; what it returns holds no more of it than its output layer."""
    target: Any = sampler.sampler(model)
    attacks = [Chosen(*_page("attacks", each), each.sources) for each in settings.attacks]
    attempts = attempted(attacks, behaviors, target, out, seed)
    target.check(attempts)
    records.write(out / "behaviors.jsonl", behaviors)
    records.write(out / "attempts.jsonl", attempts)
    path = out / "completions.jsonl"
    if not path.exists():
        wanted = {attempt.id for attempt in attempts}
        records.write(path, [c for c in known if c.attempt in wanted and c.model == target.name])
    completions = sampler.complete(target, behaviors, attempts, settings.decoding, path)
    if not (likely := out / "likelihood.jsonl").exists():
        wants = settings.likelihood is not False and not model.endpoint
        records.write(likely, _likelihood(target, behaviors) if wants else [])
    if start is None or settings.drift is None or (out / language.FILE).exists():
        return completions, None
    from demur import drift

    return completions, drift.trace(target, attempts, completions, settings.drift)


def _drift(trace: Trace, model: Model, start: Model | None, out: Path) -> None:
    from demur import drift

    same = start is None or identity.identity(start) == identity.identity(model)
    records.write(out / language.FILE, drift.measure(trace, None if same else start))


def check_start(start: Model, model: Model) -> None:
    """A distribution over other tokens cannot be compared. Raises UserError before any weight."""
    models.check(start)
    if tokenizers.load(start).get_vocab() != tokenizers.load(model).get_vocab():
        raise UserError(
            f"start={start.name!r} has another vocabulary than the model: set evaluate.drift=null"
        )


def judge(completions: Sequence[Completion], judges: Iterable[Page], path: Path) -> list[Verdict]:
    """Ask every judge about every completion, appending to ``path``; what is there is kept.

    But for what stayed unscored: an endpoint that was down may be up again. The order in the file
    is that of judges and completions, however often it was interrupted.
    """
    chosen = [(judge, _page("judges", judge)[0]) for judge in judges]
    kept = [v for v in records.resume(path, Verdict) if v.label != "unscored"]
    records.write(path, kept)
    have = {_asked(v) for v in kept}
    for judge, page in chosen:
        missing = [c for c in completions if _key(page, c) not in have]
        for some in records.batched(verdicts(judge, missing), AT_ONCE):
            records.append(path, some)
    wanted = [_key(page, c) for _, page in chosen for c in completions]
    place = {key: n for n, key in enumerate(wanted)}
    found = sorted(records.read(path, Verdict), key=lambda v: place.get(_asked(v), len(place)))
    records.write(path, found)
    return found


def _key(judge: Any, completion: Completion) -> tuple[str, str, str]:
    return judge.__name__.rpartition(".")[2], judge.VERSION, completion.id


def _asked(verdict: Verdict) -> tuple[str, str, str]:
    return verdict.judge, verdict.version, verdict.completion


def verdicts(judge: Page, completions: Sequence[Completion]) -> Iterator[Verdict]:
    """What one judge says of each completion, in order, as it comes.

    Then, of those that a server's filter blocked, that nobody can say: no judge is asked.
    """
    page, settings = _page("judges", judge)
    yield from page.judge([c for c in completions if not c.blocked], settings)
    tasks_alone = getattr(page, "TASKS", False)
    for completion in completions:
        if completion.blocked and (completion.expected is not None or not tasks_alone):
            name, version, _ = _key(page, completion)
            yield Verdict(
                completion=completion.id,
                label="unscored",
                judge=name,
                version=version,
                reason="content_filter: the server let no answer through",
            )


def refuse_doubt(
    answers: Iterable[Completion], verdicts: Iterable[Verdict], limit: float, setting: str
) -> None:
    """Raises UserError, naming the ``setting``, where a judge left a larger share unscored.

    Of an empty answer there is no doubt, as it is broken; of a blocked one there is.
    """
    said = {c.id for c in answers if c.text.strip() or c.blocked}
    spoken = [verdict for verdict in verdicts if verdict.completion in said]
    for name in sorted({verdict.judge for verdict in spoken}):
        mine = [v for v in spoken if v.judge == name]
        doubt = [v for v in mine if v.label == "unscored"]
        if len(doubt) > limit * len(mine):
            why = f", the first for {doubt[0].reason!r}" if doubt[0].reason else ""
            raise UserError(
                f"judge {name!r} could not score {len(doubt) / len(mine):.0%} of {len(mine)} "
                f"answers{why} ({setting}={limit}): mend that, or allow for more"
            )


def _likelihood(target: Any, behaviors: Sequence[Behavior]) -> Iterator[Likelihood]:
    """How likely the model finds each given answer: harmful unsafe ones, harmless good ones."""
    from demur import generate

    given = [(b, a) for b in behaviors if b.kind != "task" and (a := b.unsafe or b.answer)]
    rows = (generate.row(target, behavior.prompt, answer) for behavior, answer in given)
    scored = generate.likelihood(target, rows)
    for (behavior, _), (nll, tokens) in zip(given, scored, strict=True):
        yield Likelihood(behavior=behavior.id, kind=behavior.kind, nll=nll, tokens=tokens)
