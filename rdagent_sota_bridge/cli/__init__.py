"""The command line `rdagent-sota`: what its commands are. How they run stands in the modules they call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from dotenv import load_dotenv

from rdagent_sota_bridge import __version__
from rdagent_sota_bridge.bridge import cli_options
from rdagent_sota_bridge.errors import BridgeError, JobError, SettingsError

# Not in the annotation: typer evaluates that late, when the module `cli.list` may have taken the name.
Texts = list[str]

app = typer.Typer(
    help="Trains RD-Agent's models on the factors that its factor loops accepted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"rdagent-sota-bridge {__version__}")
        raise typer.Exit


@contextmanager
def _errors_as_messages() -> Iterator[None]:
    """End a command with status 1 and one message at an error that the user can fix."""
    try:
        yield
    except BridgeError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Load `.env` from the current folder, exactly as `rdagent` does."""
    with _errors_as_messages():
        try:
            load_dotenv(".env")
        except (UnicodeDecodeError, OSError) as error:  # RD-Agent itself ends on it with a traceback
            raise SettingsError(
                f".env can't be read: {error}",
                str(Path.cwd() / ".env"),
                "write it as UTF-8, and let this user read it",
            ) from None


@app.command(name="list")
def list_command(
    accepted: Annotated[bool, typer.Option("--accepted", help="Only sets of accepted loops.")] = False,
    sort: Annotated[str, typer.Option(help="The field to sort by, greatest last.")] = "when",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all names and paths.")] = False,
) -> None:
    """List the factor sets that RD-Agent left here: verdict, factors, dates, metrics. Newest last."""
    from rdagent_sota_bridge.cli import list as listing

    listing.run(accepted, sort, as_json)


@app.command(name="path")
def path_command(
    log: Annotated[str | None, typer.Argument(help="A log folder, or latest.", show_default=False)] = None,
) -> None:
    """Print the path of the factor set that a run would use: of LOG, or of what the environment names."""
    from rdagent_sota_bridge.cli import path

    with _errors_as_messages():
        path.run(log)


@app.command(name="check")
def check_command(
    named: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATH|LOG]",
            help="A factor workspace or file, a URL, a log folder, or latest; the environment's set if left "
            "out.",
            show_default=False,
        ),
    ] = None,
    look_ahead: Annotated[
        bool, typer.Option("--look-ahead", help="Run the factors' code again on data without the future.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all figures.")] = False,
) -> None:
    """Check a factor set as a run would, without a run: status 0 if nothing fails, else 1."""
    from rdagent_sota_bridge.cli import check

    raise typer.Exit(check.run(named, look_ahead, as_json))


@app.command(name="verify")
def verify_command(
    log: Annotated[str, typer.Argument(help="A log folder, or latest.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all that was looked at.")] = False,
) -> None:
    """Verify what a run's models were trained on: status 0 if all that claim factors have them, else 1."""
    from rdagent_sota_bridge.cli import verify

    with _errors_as_messages():
        raise typer.Exit(verify.run(log, as_json))


@app.command(name="push")
def push_command(
    named: Annotated[
        str,
        typer.Argument(
            metavar="SET", help="A factor workspace or file, a log folder, or latest.", show_default=False
        ),
    ],
    url: Annotated[
        str, typer.Argument(metavar="URL", help="A folder, such as s3://bucket/run.", show_default=False)
    ],
    replace: Annotated[bool, typer.Option("--replace", help="Put it there whatever is there.")] = False,
) -> None:
    """Put a factor set on shared storage, with a manifest that names it, for SOTA_WORKSPACE_PATH to name."""
    from rdagent_sota_bridge.cli import push

    with _errors_as_messages():
        push.run(named, url, replace)


store_app = typer.Typer(help="The copies of factor sets that models' workspaces link.")
app.add_typer(store_app, name="store")


@store_app.callback(invoke_without_command=True)
def store_command(context: typer.Context) -> None:
    """List the stored sets, where no command of the store is named."""
    if context.invoked_subcommand is None:
        store_list_command()


@store_app.command(name="list")
def store_list_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all names and paths.")] = False,
) -> None:
    """List the stored sets: what they were made of, size, links, last use. Last used last."""
    from rdagent_sota_bridge.cli import store

    with _errors_as_messages():
        store.show(as_json)


@store_app.command(name="verify")
def store_verify_command() -> None:
    """Read every stored set whole: status 0 if all are as they were written, else 1."""
    from rdagent_sota_bridge.cli import store

    with _errors_as_messages():
        raise typer.Exit(store.verify())


@store_app.command(name="prune")
def store_prune_command(
    keep_days: Annotated[
        float, typer.Option(min=0, max=36_500, help="Keep what was used in so many days.")
    ] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove stored sets that were not used for some days. Models' workspaces keep what they hold of them."""
    from rdagent_sota_bridge.cli import store

    with _errors_as_messages():
        store.prune(keep_days, dry_run)


patch_app = typer.Typer(
    help="RD-Agent's source with four lines that call this package, in place of the import hook.",
    no_args_is_help=True,
)
app.add_typer(patch_app, name="patch")

Source = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The root of RD-Agent's repository, or its package rdagent; the installed one if left out.",
        show_default=False,
    ),
]


@patch_app.command(name="status")
def patch_status_command(source: Source = None) -> None:
    """Say whether the source is patched: none, applied, or old (a diff of release 0.1.0)."""
    from rdagent_sota_bridge.cli import patch

    with _errors_as_messages():
        patch.status(source)


@patch_app.command(name="apply")
def patch_apply_command(source: Source = None) -> None:
    """Put the four lines at the end of the source; twice is once."""
    from rdagent_sota_bridge.cli import patch

    with _errors_as_messages():
        patch.apply(source)


@patch_app.command(name="revert")
def patch_revert_command(source: Source = None) -> None:
    """Take the patch out again, to the byte."""
    from rdagent_sota_bridge.cli import patch

    with _errors_as_messages():
        patch.revert(source)


@app.command(name="report")
def report_command(
    logs: Annotated[
        Texts, typer.Argument(metavar="LOG...", help="Log folders, or latest.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The file; report.html if left out.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all figures.")] = False,
) -> None:
    """Show runs side by side on one page: models, factors, and proof. Needs no network to read."""
    from rdagent_sota_bridge.cli import report

    with _errors_as_messages():
        report.run(logs, output, as_json)


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
        int | None, typer.Option(min=1, help="Loops of fin_factor; 10 if left out.", show_default=False)
    ] = None,
    model_loops: Annotated[
        int | None, typer.Option(min=1, help="Loops of fin_model; 10 if left out.", show_default=False)
    ] = None,
    all_duration: Annotated[
        str | None, typer.Option(help="The time for all of it, such as 12h, 30m or 1.5d.", show_default=False)
    ] = None,
    log_dir: Annotated[Path, typer.Option(help="The folder of the logs.")] = Path("log"),
    from_log: Annotated[
        str | None, typer.Option(help="Train on what this log accepted; no factor stage.", show_default=False)
    ] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Train as many models without the factors, to compare.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest job; loop counts are of all loops.")
    ] = False,
    new: Annotated[
        bool, typer.Option("--new", help="Begin a job although the newest is not finished.")
    ] = False,
) -> None:
    """Mine factors, check them, train models on what was accepted, and report. Can be stopped and resumed.

    Runs `rdagent fin_factor` and `rdagent fin_model`. Options that are not listed go on to both of them.
    """
    from rdagent_sota_bridge.cli import run
    from rdagent_sota_bridge.run.job import Options

    with _errors_as_messages():
        for name, value in (("--from-log", from_log), ("--all-duration", all_duration)):
            if value is not None and not value.strip():
                raise JobError(
                    f"{name} is empty",
                    f"option {name}; is a variable in it not set?",
                    "fill it, or leave it out",
                )
        asked = Options(
            factor_loops, model_loops, baseline, all_duration or "", from_log or "", tuple(context.args)
        )
        raise typer.Exit(run.run(asked, log_dir, resume=resume, anew=new))
