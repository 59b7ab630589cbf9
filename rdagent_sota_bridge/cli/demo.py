"""The command `rdagent-sota demo`: the stages of the demo on screen, its table, and its report."""

from __future__ import annotations

import math
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from rdagent_sota_bridge.cli import report
from rdagent_sota_bridge.demo import story
from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.files import write_whole
from rdagent_sota_bridge.run import job

DEFAULT_REPORT = Path("demo_report.html")
"""Where the report goes, in the current folder, if no folder is named to keep all."""


def run(keep: Path | None) -> None:
    """Run the demo with a progress display, print its table, and name its report.

    Args:
        keep: A new or empty folder to run in and to keep, or one in which a demo was ended, to go on with it;
            None for a temporary one.

    Raises:
        BridgeError: if something that the demo needs is missing, or a stage fails.
    """
    console = Console()
    story.check_requirements()
    # Ended from outside, the demo ends its children too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    target = Path.cwd() / DEFAULT_REPORT
    with ExitStack() as stack:
        if keep is None:
            report.check_target(target)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rdagent-sota-demo-")))
        else:
            folder = _folder(keep)
        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TimeElapsedColumn(),
            console=console,
        )
        if story.job_in(folder) is None:
            console.print("Three stages of one `rdagent-sota run`; RD-Agent and Qlib are real.")
        else:
            console.print("Going on with the demo that was begun here.")
        try:
            with progress:
                told = _tell(folder, progress, is_kept=keep is not None)
        except KeyboardInterrupt:
            goes_on = (
                "" if keep is None else f" Go on with it: rdagent-sota demo --keep {shlex.quote(str(keep))}"
            )
            console.print(f"Stopped.{goes_on}", soft_wrap=True)
            raise
        console.print(_table(told.rows))
        console.print(
            "IC is the mean daily correlation of prediction and return in the test segment.\n"
            "The demo's market moves on overnight gaps: no base feature shows them, and the\n"
            "factor run finds them."
        )
        if keep is None:
            # Under its own name at once: a copy that was cut off could not be told from a whole one.
            write_whole(target, told.report.read_text(encoding="utf-8"))
            console.print(f"The report, for a browser: {target}", soft_wrap=True)
        else:
            console.print(
                f"Everything is kept in {folder}; RD-Agent's project is project, all output is in run.txt.\n"
                f"The report, for a browser: {told.report}",
                soft_wrap=True,
            )


def _tell(folder: Path, progress: Progress, *, is_kept: bool) -> story.Told:
    tasks = {
        name: progress.add_task(title, total=story.STEPS, start=False) for name, title in story.TITLES.items()
    }

    def show(stage: str, done: int) -> None:
        if not progress.tasks[tasks[stage]].started:
            progress.start_task(tasks[stage])
            if not progress.console.is_terminal:  # a log has no moving bars
                progress.console.print(f"{story.TITLES[stage]} ...")
        progress.update(tasks[stage], completed=done)
        if done == story.STEPS:
            progress.stop_task(tasks[stage])

    return story.tell(folder, show, is_kept=is_kept)


def _folder(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    if not story.is_begun(folder):
        raise BridgeError(
            "The folder for the demo is not empty", str(folder), "name a new or an empty folder"
        )
    begun = story.job_in(folder)
    if begun is not None and begun.end:
        raise BridgeError(
            "The folder holds a demo that has ended",
            f"{folder}; its report is {job.report_file(begun)}",
            "name a new or an empty folder",
        )
    return folder


def _table(rows: Sequence[story.Row]) -> Table:
    # Narrow enough for a terminal of 80 columns.
    table = Table(
        title="Models with the mined factors, and without",
        box=box.SIMPLE,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in ("run", "model"):
        table.add_column(name, no_wrap=True)
    for name in ("IC", "rank IC", "annualized return", "max drawdown", "features"):
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))
    table.add_column("set", no_wrap=True)
    previous = ""
    for row in rows:
        if previous and row.run != previous:
            table.add_section()
        previous = row.run
        table.add_row(
            row.run,
            row.model,
            _figure(row.ic, ".3f"),
            _figure(row.rank_ic, ".3f"),
            _figure(row.annualized_return, "+.1%"),
            _figure(row.max_drawdown, ".1%"),
            "missing" if row.features is None else str(row.features),
            row.digest or "none",
        )
    return table


def _figure(value: float, form: str) -> str:
    return "missing" if math.isnan(value) else format(value, form)
