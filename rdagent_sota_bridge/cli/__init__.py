"""The command line `rdagent-sota`: what its commands take. The module of a command is loaded when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from dotenv import load_dotenv
from typer.core import TyperGroup

from rdagent_sota_bridge import __version__
from rdagent_sota_bridge.bridge import cli_options
from rdagent_sota_bridge.cli import patch, store_commands
from rdagent_sota_bridge.cli.options import (
    OR_LATEST_ACCEPTED,
    SET_OR_ENVIRONMENT,
    Cluster,
    FactorData,
    Jobs,
    Json,
    Model,
    ModelType,
    or_latest,
)
from rdagent_sota_bridge.errors import BridgeError, JobError, SettingsError


class _Group(TyperGroup):
    """Ends a command with status 1 and one message at an error that the user can fix."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BridgeError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    help="Trains RD-Agent's models on the factors that its factor loops accepted.",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(store_commands.app, name="store")
app.add_typer(patch.app, name="patch")

Logs = list[str]  # typer evaluates an annotation late, when the module `cli.list` has taken the name


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"rdagent-sota-bridge {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Load `.env` from the current folder, exactly as `rdagent` does."""
    try:
        load_dotenv(".env", override=cli_options.env_file_wins())
    except (UnicodeDecodeError, OSError) as error:  # RD-Agent itself ends with a traceback
        raise SettingsError(
            f".env can't be read: {error}",
            str(Path.cwd() / ".env"),
            "write it as UTF-8, and let this user read it",
        ) from None


@app.command(name="list")
def list_command(
    accepted: Annotated[bool, typer.Option("--accepted", help="Only sets of accepted loops.")] = False,
    sort: Annotated[str, typer.Option(help="The field to sort by, greatest last.")] = "when",
    as_json: Json = False,
) -> None:
    """List the factor sets that RD-Agent left here: verdict, factors, dates, metrics. Newest last."""
    from rdagent_sota_bridge.cli import list as command

    command.run(accepted, sort, as_json)


@app.command(name="path")
def path_command(
    log: Annotated[
        str | None,
        typer.Argument(help=f"A log folder, a factor workspace, a URL, {OR_LATEST_ACCEPTED}"),
    ] = None,
) -> None:
    """Print the path of the factor set that a run would use: of LOG, or of what the environment names."""
    from rdagent_sota_bridge.cli import path

    path.run(log)


@app.command(name="check")
def check_command(
    named: Annotated[
        str | None,
        typer.Argument(metavar="[PATH|LOG]", help=SET_OR_ENVIRONMENT),
    ] = None,
    look_ahead: Annotated[
        bool, typer.Option("--look-ahead", help="Run the factors' code again on data without the future.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check a factor set as a run would, without a run: status 0 if no check fails, else 1."""
    from rdagent_sota_bridge.cli import check

    raise typer.Exit(check.run(named, look_ahead, as_json))


@app.command(name="doctor")
def doctor_command(
    as_json: Json = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show a line for each seam.")] = False,
) -> None:
    """Check this machine: RD-Agent, conda, Docker, Qlib, data, LLM. Status 0 if nothing fails, else 1."""
    from rdagent_sota_bridge.cli import doctor

    raise typer.Exit(doctor.run(as_json, verbose))


@app.command(name="compare")
def compare_command(
    named: Annotated[
        str | None,
        typer.Argument(metavar="SET", help=SET_OR_ENVIRONMENT),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Train this model too: a Python file in RD-Agent's form, with model_cls."),
    ] = None,
    model_type: Annotated[
        ModelType,
        typer.Option(help="Whether that model takes the features of a day, or of the last 20 days."),
    ] = ModelType.TABULAR,
    as_json: Json = False,
) -> None:
    """Train models on the base set with and without a factor set, and show the IC of each. No LLM call."""
    from rdagent_sota_bridge.cli import compare

    compare.run(named, model, model_type is ModelType.TIME_SERIES, as_json)


@app.command(name="verify")
def verify_command(
    log: Annotated[
        str | None,
        typer.Argument(help=f"A log folder, {or_latest('with models')} Left out: the newest job's models."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify what a run's models were trained on: status 0 if all that claim factors have them, else 1."""
    from rdagent_sota_bridge.cli import verify

    raise typer.Exit(verify.run(log, as_json))


@app.command(name="predict")
def predict_command(
    model: Model = None,
    date: Annotated[
        str, typer.Option(help="A day, FROM:TO, or latest: the last day on which every feature has values.")
    ] = "latest",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The file, .csv or .parquet; predictions.csv if left out."),
    ] = None,
    factors: Annotated[
        Path | None,
        typer.Option(help="Values of the mined factors, in place of the model's own set; a bundle has none."),
    ] = None,
    factor_data: FactorData = None,
    trust: Annotated[
        str | None, typer.Option(metavar="SHA256", help="Run the code in the bundle that has this digest.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print the bundle's digest and the code in it, and run none of it.")
    ] = False,
    changed_data: Annotated[
        bool, typer.Option("--changed-data", help="Go on where the data give other old scores than before.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score days with a trained model: datetime, instrument, score, rank (1 is the day's highest score).

    First the scores of its test segment are made again, to be compared.
    Beside the file lies a manifest, FILE.json.
    Status 0 only if every day asked for has scores.
    The model may be a bundle of `export`, too, which has no old scores.
    """
    from rdagent_sota_bridge.cli import predict

    if show:
        predict.show(model)
    else:
        predict.run(model, date, output, factors, factor_data, trust, changed_data, as_json)


@app.command(name="refresh")
def refresh_command(
    model: Model = None,
    train_end: Annotated[
        str | None,
        typer.Option(
            metavar="DAY",
            help="The last day of the training: all segments move by as many trading days. Left out, the "
            "test segment ends on the last day that has a label.",
        ),
    ] = None,
    rolling: Annotated[
        str | None,
        typer.Option(
            metavar="3M",
            help="Walk forward over the test segment and on, in pieces such as 3M, 8W or 1Y. Each is a "
            "training of its own: 14 pieces cost 14 trainings.",
        ),
    ] = None,
    factor_data: FactorData = None,
    jobs: Jobs = None,
    cluster: Cluster = None,
    as_json: Json = False,
) -> None:
    """Train a model again on later days, its processors fitted anew, and test it behind them. No LLM call.

    What the same command has trained before is not trained once more: after a stop, give it again.
    """
    from rdagent_sota_bridge.cli import refresh
    from rdagent_sota_bridge.models.trainings import How

    refresh.run(model, train_end, rolling, factor_data, How(jobs or 1, cluster or ""), as_json)


@app.command(name="push")
def push_command(
    named: Annotated[
        str,
        typer.Argument(metavar="SET", help=f"A factor workspace or file, a log folder, {OR_LATEST_ACCEPTED}"),
    ],
    url: Annotated[str, typer.Argument(metavar="URL", help="A folder, such as s3://bucket/run.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace whatever is there.")] = False,
) -> None:
    """Copy a factor set to shared storage, with a manifest; SOTA_WORKSPACE_PATH can then name its URL."""
    from rdagent_sota_bridge.cli import push

    push.run(named, url, replace)


@app.command(name="export")
def export_command(
    model: Model = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file.")] = Path("model.zip"),
) -> None:
    """Write a trained model into one file of plain parts, tried first; `predict` needs no project with it."""
    from rdagent_sota_bridge.cli import export

    export.run(model, output)


@app.command(name="report")
def report_command(
    logs: Annotated[
        Logs | None,
        typer.Argument(
            metavar="LOG",
            help=f"Log folders, {or_latest('of any command')} Left out: the newest job's.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The file; report.html if left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show runs side by side on one page: models, factors, and proof. Needs no network to read."""
    from rdagent_sota_bridge.cli import report

    report.run(logs or [], output, as_json)


@app.command(
    name="run",
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "token_normalize_func": cli_options.with_dashes,
    },
)
def run_command(
    context: typer.Context,
    factor_loops: Annotated[
        int | None, typer.Option(min=1, help="Loops of fin_factor; 10 if left out.")
    ] = None,
    model_loops: Annotated[
        int | None, typer.Option(min=1, help="Loops of fin_model; 10 if left out.")
    ] = None,
    all_duration: Annotated[
        str | None, typer.Option(help="The time for all of it, such as 12h, 30m or 1.5d.")
    ] = None,
    log_dir: Annotated[Path, typer.Option(help="The folder of the logs.")] = Path("log"),
    from_log: Annotated[
        str | None,
        typer.Option(help=f"Train on what this log accepted, {OR_LATEST_ACCEPTED} No factor stage."),
    ] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Train each model again without the mined columns, to compare.")
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="With --baseline: the best model too with seeds 1 to N, with and without."),
    ] = None,
    from_models: Annotated[
        str | None,
        typer.Option(help=f"With --baseline: models of this log, {or_latest('with models')} No loops."),
    ] = None,
    jobs: Jobs = None,
    cluster: Cluster = None,
    holdout: Annotated[
        str | None,
        typer.Option(help="Keep the last months (12M), or the days from a date on, for one test at the end."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the newest job; loop counts are of all loops.")
    ] = False,
    new: Annotated[
        bool, typer.Option("--new", help="Begin a job although the newest is not finished.")
    ] = False,
) -> None:
    """Mine factors, check them, train models on what was accepted, and report. Can be stopped and resumed.

    Runs `rdagent fin_factor` and `rdagent fin_model`. Options of theirs are passed to both of them.
    At the end it says what `verify` says and what to do next; status 0 if the models have the factors.
    """
    from rdagent_sota_bridge.cli import output, run
    from rdagent_sota_bridge.run import stages
    from rdagent_sota_bridge.run.job import FACTORS, MODELS, Options

    for name, value in (
        ("--from-log", from_log),
        ("--from-models", from_models),
        ("--holdout", holdout),
        ("--all-duration", all_duration),
        ("--cluster", cluster),
    ):
        if value is not None and not value.strip():
            place = f"option {name}; is a variable in it not set?"
            raise JobError(f"{name} is empty", place, "fill it, or leave it out")
    passed_on = tuple(context.args)
    own = [name for option in context.command.params for name in option.opts]
    names = () if from_models else (MODELS,) if from_log else (FACTORS, MODELS)
    if passed_on:
        output.echo(f"Asking RD-Agent's commands whether they take {' '.join(passed_on)} ...", err=True)
    stages.check_options(passed_on, own, names)
    given = all_duration or "", from_log or "", passed_on, from_models or "", jobs, cluster or ""
    asked = Options(factor_loops, model_loops, baseline, *given, seeds=seeds or 0, holdout=holdout or "")
    raise typer.Exit(run.run(asked, log_dir, resume=resume, anew=new))


@app.command(name="holdout")
def holdout_command(
    log: Annotated[str, typer.Argument(help=f"A log folder, {or_latest('with models')}")],
) -> None:
    """Let the best model of a run and its ablation predict the days that were kept back, and count that."""
    from rdagent_sota_bridge.cli import holdout

    holdout.run(log)
