"""The verbs: each reads a configuration, does one stage, and says where the result lies."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from demur import __version__
from demur.errors import UserError

if TYPE_CHECKING:
    from demur.config import Run
    from demur.settings import Model


def _example(command: str) -> str:
    """Two paragraphs, as one would be filled up to the width of the terminal."""
    return f"Example:\n\n  {command}"


app = typer.Typer(
    help="Make a language model decline what it should, keep the rest helpful, and prove both.",
    epilog=_example("demur run configs/demo.yaml train.lambda=0.5 output=runs/half"),
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[Path, typer.Argument(help="The run's YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings to change, e.g. train.lambda=0.5 seed=1", show_default=False),
]
ModelName = Annotated[
    str | None,
    typer.Option("--model", help="Start from this instead: a folder or hub id, X:adapter."),
]
Training = Annotated[
    str | None,
    typer.Option("--only", help="One training of the run: `after`, or a variant's name."),
]
MaxUnscored = Annotated[
    float,
    typer.Option("--max-unscored", help="More answers unscored is an error.", min=0, max=1),
]
Json = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]


# Click's, or in later versions typer's own copy of it, which has no public name.
UsageError: Any = typer.BadParameter.__base__


def main() -> None:
    """Run the command line; what the user can mend is one line and exit code 2."""
    try:
        given = sys.argv[1:] or ["--help"]
        sys.exit(app(given, prog_name="demur", standalone_mode=False))
    except UsageError as error:
        verb = error.ctx.command_path if error.ctx else "demur"
        _complain(f"{error.format_message().rstrip('.')}; see `{verb} --help`")
    except UserError as error:
        _complain(str(error))


def _complain(text: str) -> None:
    print(f"demur: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(2)


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"demur {__version__}")
        raise typer.Exit


@app.callback()
def _any_verb(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_tell_version, is_eager=True),
    ] = False,
) -> None:
    pass


def _load(config: Path, overrides: list[str] | None, model: str | None = None) -> Run:
    from demur import config as configuration

    return configuration.load(config, overrides or [], model)


def _measured(
    config: Path | None, overrides: list[str] | None, model: str | None
) -> tuple[Run, Model | None]:
    """The run whose questions are asked, and another model to ask them: ``model.*`` is its own."""
    if config is None and model is not None:
        from demur import pipeline

        alone = pipeline.plain(model, overrides or [])
        return alone, alone.model
    if config is None:
        raise UserError("name a configuration, or a model to measure: demur evaluate --model X")
    if model is None:
        return _load(config, overrides), None
    given = overrides or []
    run = [text for text in given if not text.startswith("model.")]
    return _load(config, run), _load(config, [*given, "train=null", "variants={}"], model).model


@app.command(epilog=_example("demur run configs/demo.yaml --model path/or/hub-id output=runs/mine"))
def run(config: Config, overrides: Overrides = None, model: ModelName = None) -> None:
    """Collect, train, evaluate before and after, report; goes on where it was stopped."""
    from demur import pipeline

    print(pipeline.run(_load(config, overrides, model)))


@app.command(epilog=_example("demur collect configs/demo.yaml collect.limit=50"))
def collect(config: Config, overrides: Overrides = None, model: ModelName = None) -> None:
    """Sample the model's own answers: unsafe ones to move away from, ordinary ones to keep."""
    from demur import pipeline

    print(pipeline.collect(_load(config, overrides, model)))


@app.command(epilog=_example("demur train configs/demo.yaml --only after"))
def train(
    config: Config, overrides: Overrides = None, model: ModelName = None, only: Training = None
) -> None:
    """Train on what was collected; checkpoints resume."""
    from demur import materials, pipeline, processes

    chosen = _load(config, overrides, model)
    names, found = pipeline.names(chosen, only), materials.prepare(chosen)
    for name in names:
        folder = pipeline.train(chosen, name, found)
        if processes.first():
            print(folder)
    processes.leave()


@app.command(epilog=_example("demur evaluate configs/demo.yaml --model path/to/any-model"))
def evaluate(
    config: Annotated[
        str | None,
        typer.Argument(
            help="The run's YAML file; with --model it may be left out: suite=demo, runs/<name>.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Measure this instead: a folder or hub id, X:adapter, http://host/v1#served-name.",
        ),
    ] = None,
    only: Training = None,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Measure the trainings' saved checkpoints.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Prompts of a kind; with --checkpoints alone."),
    ] = None,
    json_: Json = False,
) -> None:
    """Measure the run's models under attack; with --model, that one instead, trained by anyone.

    A model measured with --model is also put on the run's page, beside what else was measured.
    """
    from demur import checkpoints as steps
    from demur import pipeline

    _refuse_apart(checkpoints, model, limit)
    chosen, other = _measured(*_told_apart(config, overrides), model)
    if checkpoints:
        folders = steps.evaluate(chosen, only, limit)
    else:
        folders = pipeline.evaluate_all(chosen, other, only)
    if json_:
        _print_figures(folders, chosen.evaluate.primary)
    else:
        for folder in folders:
            print(folder)
    page = _page_of(chosen) if other else None
    if page and not json_:
        print(page)


def _told_apart(
    config: str | None, overrides: list[str] | None
) -> tuple[Path | None, list[str] | None]:
    """Where there is no configuration, the first override stands in its place."""
    if config and "=" in config and not Path(config).is_file():
        return None, [config, *(overrides or [])]
    return Path(config) if config else None, overrides


def _page_of(run: Run) -> Path | None:
    """The page, or a line that says why what was measured does not stand on one."""
    from demur import pipeline, progress

    try:
        return pipeline.report(run, partial=True)
    except UserError as error:
        progress.say(f"measured, but not on a page: {error}")
        return None


def _print_figures(folders: Iterable[Path], primary: str) -> None:
    from demur import report

    told = {str(folder): report.figures_of(folder, primary) for folder in folders}
    print(json.dumps(told, indent=2))


def _refuse_apart(checkpoints: bool, model: str | None, limit: int | None) -> None:
    if checkpoints and model is not None:
        raise UserError("--checkpoints are those of the run's trainings: leave out --model")
    if limit is not None and not checkpoints:
        raise UserError(
            f"--limit {limit} is for --checkpoints: for the rest, set `limit` in data.heldout"
        )


@app.command(epilog=_example("demur judge answers.jsonl --judge refusal --json"))
def judge(
    file: Annotated[Path, typer.Argument(help="Completions, demur's or anybody's rows.")],
    judges: Annotated[
        list[str], typer.Option("--judge", help="A judge, or 'harm: {threshold: 0.6}'; repeatable.")
    ] = ["refusal", "broken"],  # noqa: B006
    kind: Annotated[
        Literal["harmful", "lookalike", "everyday"] | None,
        typer.Option("--kind", help="What the requests are whose rows name no kind."),
    ] = None,
    json_: Json = False,
    out: Annotated[Path | None, typer.Option("--out", help="Keep the verdicts here.")] = None,
    max_unscored: MaxUnscored = 0.05,
) -> None:
    """Judge saved completions again, without their model."""
    from demur import judging

    found = judging.judge(file, judges, out, max_unscored, kind)
    print(judging.as_json(found) if json_ else judging.as_lines(found))


@app.command(epilog=_example("demur calibrate refusal xstest/completions_gpt4.csv --json"))
def calibrate(
    judge: Annotated[str, typer.Argument(help="A judge, or 'harm: {threshold: 0.6}'.")],
    file: Annotated[Path, typer.Argument(help="Answers with people's labels.")],
    label: Annotated[str | None, typer.Option("--label", help="The labels' column.")] = None,
    json_: Json = False,
    max_unscored: MaxUnscored = 0.05,
) -> None:
    """Hold a judge against people's labels."""
    from demur import calibrate as page

    found = page.calibrate(judge, file, label, max_unscored)
    print(page.as_json(found) if json_ else page.as_lines(found))


@app.command(epilog=_example("demur report configs/demo.yaml --json"))
def report(
    config: Annotated[
        Path,
        typer.Argument(
            help="The run's YAML file, or where it has none its folder.", show_default=False
        ),
    ],
    overrides: Overrides = None,
    json_: Json = False,
) -> None:
    """Make the page again from what a run has measured."""
    from demur import pipeline

    whole = config.is_dir()
    if whole and overrides:
        raise UserError(f"{overrides[0]}: {config} is a folder; a setting needs a YAML file")
    page = pipeline.report_again(config) if whole else pipeline.report(_load(config, overrides))
    print(page.with_name("results.json").read_text("utf-8") if json_ else page)


@app.command(epilog=_example("demur compare runs/n50 runs/n100 --along data --out page"))
def compare(
    folders: Annotated[
        list[Path], typer.Argument(help="Runs or evaluation folders; the first is the measure.")
    ],
    along: Annotated[
        str | None,
        typer.Option("--along", help="Draw rates along `data`, or a setting, e.g. train.lambda."),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", help="Whose word counts for harm; else evaluate.primary."),
    ] = None,
    json_: Json = False,
    out: Annotated[Path | None, typer.Option("--out", help="Write a page here.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compare in spite of other judges or questions.")
    ] = False,
) -> None:
    """Compare runs with the first of them, question by question."""
    from demur import report

    found = report.side_by_side(folders, along, primary=judge, force=force)
    page = found.write(out) if out else None
    if json_:
        print(json.dumps(found.plain(), indent=2))
    else:
        print(page or found.lines())


@app.command(epilog=_example("demur export runs/mine --format inspect --out logs/mine.json"))
def export(
    folder: Annotated[Path, typer.Argument(help="An evaluation, or a run for its `after`.")],
    format: Annotated[
        str, typer.Option("--format", help="alpaca_eval, jailbreakbench or inspect.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    name: Annotated[
        str | None, typer.Option("--name", help="What to call the model; else as the page does.")
    ] = None,
    scenario: Annotated[
        str | None, typer.Option("--scenario", help="This one alone, e.g. prefill:k=5.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", help="Whose word counts for harm; else evaluate.primary."),
    ] = None,
) -> None:
    """Write an evaluation in another tool's file format."""
    from demur import exports

    print(exports.export(folder, format, out, name=name, scenario=scenario, judge=judge))


@app.command(epilog=_example("demur preview configs/demo.yaml --rows 3"))
def preview(
    config: Config,
    overrides: Overrides = None,
    model: ModelName = None,
    rows: Annotated[int, typer.Option("--rows", help="Rows of each kind.", min=1)] = 2,
) -> None:
    """Print real rows, their tokens coloured by what they are told."""
    from demur import preview as page

    page.show(_load(config, overrides, model), rows)
