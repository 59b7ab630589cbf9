"""`python -m examples.demo`: the demo's stages on screen, its table, and its report."""

from __future__ import annotations

import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from examples.demo import story
from rdagent_sota_bridge.cli import report
from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.run import job
from rdagent_sota_bridge.system.files import write_whole

REPORT = "demo_report.html"
"""Where the report goes, in the current folder, if no folder is named to keep all."""

console = Console()


def main(
    keep: Annotated[
        Path | None,
        typer.Option(
            help="Run in this new or empty folder and keep it; or continue the demo there.",
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
        if keep is None:
            written = Path.cwd() / REPORT
            report.check(written)
            with tempfile.TemporaryDirectory(prefix="rdagent-sota-demo-") as folder:
                page = _run(Path(folder), is_kept=False).read_text(encoding="utf-8")
                # Under its own name at once: a copy that was cut off would look like a whole one.
                write_whole(written, page)
        else:
            kept = _checked(keep.expanduser().absolute())
            written = _run(kept, is_kept=True)
            said = f"Everything is kept in {kept}; RD-Agent's project is project, all output is in run.txt."
            console.print(said, soft_wrap=True)
    except BridgeError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        again = f" Continue it: {story.COMMAND}{shlex.quote(str(keep))}" if keep else ""
        console.print(f"Stopped.{again}", soft_wrap=True)
        raise
    console.print(f"The report, for a browser: {written}", soft_wrap=True)


def _checked(folder: Path) -> Path:
    """Return a folder in which the demo may run; it is made."""
    begun = story.job_in(folder) if folder.is_dir() else None
    if begun is not None and begun.end:
        where = f"{folder}; its report is {job.report_file(begun)}"
        raise BridgeError("The folder holds a demo that has ended", where, "name a new or an empty folder")
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free and not story.sandbox_in(folder).is_made:
        raise BridgeError(
            "The folder for the demo is not empty", str(folder), "name a new or an empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(folder: Path, *, is_kept: bool) -> Path:
    """Run the demo in a folder, show its progress and its table, and return its report."""
    if story.job_in(folder) is None:
        console.print("Three stages of one `rdagent-sota run`; RD-Agent and Qlib are real.")
    else:
        console.print("Continuing the demo that was begun here.")
    begun: list[str] = []
    with console.status("starting") as status:

        def show(stage: str, done: int) -> None:
            if stage not in begun:
                begun.append(stage)
                console.print(f"{story.TITLES[stage]} ...")
            steps = f": {done} of {story.STEPS} steps" * (done > 0)
            status.update(f"{story.TITLES[stage]}{steps}")

        done = story.play(folder, show, is_kept=is_kept)
    console.print(story.table(done))
    console.print(
        "IC is the mean daily correlation of prediction and return in the test segment.\n"
        "The demo's market moves on overnight gaps: no base feature shows them, and the\n"
        "factor run finds them."
    )
    return job.report_file(done)


if __name__ == "__main__":
    typer.run(main)
