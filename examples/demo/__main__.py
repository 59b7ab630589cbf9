"""`python -m examples.demo`: the demo's stages on screen, its table, and its report."""

from __future__ import annotations

import math
import shlex
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.demo import story
from rdagent_sota_bridge.cli import report
from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.report.history import Loop
from rdagent_sota_bridge.run import job
from rdagent_sota_bridge.system.files import write_whole

DEFAULT_REPORT = Path("demo_report.html")
"""Where the report goes, in the current folder, if no folder is named to keep all."""


def main(
    keep: Annotated[
        Path | None,
        typer.Option(
            help="Run in this new or empty folder and keep it; or go on with the demo there.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Mine a factor, then train models with it and without it, on a small synthetic market.

    RD-Agent, Qlib's training and the back-tests are real; only the LLM's answers come from a script. Takes a
    few minutes on two cores, needs no network, and leaves its report, demo_report.html, in the current
    folder; with --keep all is in that folder.
    """
    # Ended from outside, the demo ends its children too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        _run(Console(), keep)
    except BridgeError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _run(console: Console, keep: Path | None) -> None:
    target = Path.cwd() / DEFAULT_REPORT
    with ExitStack() as stack:
        if keep is None:
            report.check_target(target)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rdagent-sota-demo-")))
        else:
            folder = _checked(keep.expanduser().absolute())
        if story.job_in(folder) is None:
            console.print("Three stages of one `rdagent-sota run`; RD-Agent and Qlib are real.")
        else:
            console.print("Going on with the demo that was begun here.")
        try:
            rows, written = _tell(folder, console, is_kept=keep is not None)
        except KeyboardInterrupt:
            again = "" if keep is None else f" Go on with it: {story.COMMAND}{shlex.quote(str(keep))}"
            console.print(f"Stopped.{again}", soft_wrap=True)
            raise
        console.print(_table(rows))
        console.print(
            "IC is the mean daily correlation of prediction and return in the test segment.\n"
            "The demo's market moves on overnight gaps: no base feature shows them, and the\n"
            "factor run finds them."
        )
        if keep is None:
            # Under its own name at once: a copy that was cut off could not be told from a whole one.
            write_whole(target, written.read_text(encoding="utf-8"))
            written = target
        else:
            console.print(
                f"Everything is kept in {folder}; RD-Agent's project is project, all output is in run.txt.",
                soft_wrap=True,
            )
        console.print(f"The report, for a browser: {written}", soft_wrap=True)


def _checked(folder: Path) -> Path:
    """Return a folder in which the demo may run."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    begun = story.job_in(folder)
    if begun is not None and begun.end:
        raise BridgeError(
            "The folder holds a demo that has ended",
            f"{folder}; its report is {job.report_file(begun)}",
            "name a new or an empty folder",
        )
    if not story.sandbox_in(folder).is_made:
        raise BridgeError(
            "The folder for the demo is not empty", str(folder), "name a new or an empty folder"
        )
    return folder


def _tell(folder: Path, console: Console, *, is_kept: bool) -> tuple[list[tuple[str, Loop]], Path]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks = {
            name: progress.add_task(title, total=story.STEPS, start=False)
            for name, title in story.TITLES.items()
        }

        def show(stage: str, done: int) -> None:
            if not progress.tasks[tasks[stage]].started:
                progress.start_task(tasks[stage])
                if not console.is_terminal:  # a log has no moving bars
                    console.print(f"{story.TITLES[stage]} ...")
            progress.update(tasks[stage], completed=done)
            if done == story.STEPS:
                progress.stop_task(tasks[stage])

        return story.tell(folder, show, is_kept=is_kept)


def _table(rows: list[tuple[str, Loop]]) -> Table:
    # Narrow enough for a terminal of 80 columns.
    title = "Models with the mined factors, and without"
    table = Table(title=title, box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("run", "model"):
        table.add_column(name, no_wrap=True)
    for name in ("IC", "rank IC", "annualized return", "max drawdown", "features"):
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))
    table.add_column("set", no_wrap=True)
    previous = ""
    for run, loop in rows:
        if previous and run != previous:
            table.add_section()
        previous = run
        table.add_row(
            run,
            loop.name,
            _figure(loop, "IC", ".3f"),
            _figure(loop, "Rank IC", ".3f"),
            _figure(loop, "1day.excess_return_with_cost.annualized_return", "+.1%"),
            _figure(loop, "1day.excess_return_with_cost.max_drawdown", ".1%"),
            "missing" if loop.features is None else str(loop.features),
            "none" if loop.manifest is None else str(loop.manifest["factor_set"]["digest"])[7:15],
        )
    return table


def _figure(loop: Loop, metric: str, form: str) -> str:
    value = loop.metrics.get(metric, math.nan)
    return "missing" if math.isnan(value) else format(value, form)


if __name__ == "__main__":
    typer.run(main)
