"""The command `rdagent-sota demo`: the stages of the demo on screen, and its table."""

from __future__ import annotations

import math
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

from rdagent_sota_bridge.demo import story
from rdagent_sota_bridge.errors import BridgeError


def run(keep: Path | None) -> None:
    """Run the demo with a progress display, and print its table.

    Args:
        keep: A new or empty folder to run in and to keep; None for a temporary one.

    Raises:
        BridgeError: if something that the demo needs is missing, or a stage fails.
    """
    console = Console()
    story.check_requirements()
    # Ended from outside, the demo ends its children too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with ExitStack() as stack:
        if keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rdagent-sota-demo-")))
        else:
            folder = _empty_folder(keep)
        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TimeElapsedColumn(),
            console=console,
        )
        console.print(
            "Three runs of RD-Agent, the first two side by side: about four minutes on two idle cores."
        )
        with progress:
            rows = _tell(folder, progress)
        console.print(_table(rows))
        console.print(
            "IC is the mean daily correlation of prediction and return in the test segment.\n"
            "The demo's market moves on overnight gaps: no base feature shows them, and the\n"
            "factor run finds them."
        )
        if keep is not None:
            projects = ", ".join(f"{name}/project" for name in story.FOLDERS)
            console.print(
                f"Everything is kept in {folder}; RD-Agent's projects are {projects}", soft_wrap=True
            )


def _tell(folder: Path, progress: Progress) -> list[story.Row]:
    tasks = {stage: progress.add_task(stage.title, total=stage.steps, start=False) for stage in story.STAGES}

    def show(stage: story.Stage, done: int) -> None:
        if not progress.tasks[tasks[stage]].started:
            progress.start_task(tasks[stage])
            if not progress.console.is_terminal:  # a log has no moving bars
                progress.console.print(f"{stage.title} ...")
        progress.update(tasks[stage], completed=done)

    return story.tell(folder, show)


def _empty_folder(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BridgeError(
            "The folder for the demo is not empty", str(folder), "name a new or an empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _table(rows: Sequence[story.Row]) -> Table:
    # Narrow enough for a terminal of 80 columns.
    table = Table(
        title="Models without and with the mined factors",
        box=box.SIMPLE,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in ("run", "model"):
        table.add_column(name, no_wrap=True)
    for name in ("IC", "rank IC", "annualized return", "max drawdown", "features"):
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))
    table.add_column("factor set", no_wrap=True)
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
            str(row.features),
            row.digest or "none",
        )
    return table


def _figure(value: float, form: str) -> str:
    return "missing" if math.isnan(value) else format(value, form)
