"""The command `rdagent-sota refresh`: a table of what a model makes of later days, or the same as JSON."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from rdagent_sota_bridge.cli.output import echo, print_json, print_notes, progress
from rdagent_sota_bridge.models import refresh
from rdagent_sota_bridge.models.choose import chosen
from rdagent_sota_bridge.models.refresh import Refreshed
from rdagent_sota_bridge.models.trainings import How
from rdagent_sota_bridge.report.statistics import estimate
from rdagent_sota_bridge.run import locks

_IN_SAMPLE = {True: "yes", False: "no", None: "not known"}


def run(
    model: str | None,
    train_end: str | None,
    rolling: str | None,
    factor_data: str | None,
    how: How,
    as_json: bool,
) -> None:
    """Train, and print what came of it; progress goes to stderr.

    Args:
        model: What `chosen` takes.
        train_end: As `refresh.refresh` takes it; and `rolling`.
        rolling: The length of a piece.
        factor_data: As `fresh.covering` takes it.
        how: Where the trainings go.
        as_json: Print JSON.

    Raises:
        BridgeError: if the model can't be trained on such segments, or not on all.
    """
    found = chosen(model)
    print_notes(found.notes)
    try:
        with locks.stops():
            done = refresh.refresh(found.workspace, train_end, rolling, factor_data, how, progress())
    except locks.Stopped as stopped:
        echo("Stopped. The same command trains what is missing, and nothing twice.", err=True)
        raise typer.Exit(128 + stopped.number) from None
    if as_json:
        print_json(_described(found.workspace, done))
    else:
        show(done, Console())


def _described(model: Path, done: Refreshed) -> dict[str, Any]:
    pieces = [
        {
            **{"workspace": one.workspace, "segments": one.segments, "ic": estimate(one.ic.to_frame())},
            "in_sample": one.in_sample,
        }
        for one in done.pieces
    ]
    joined = {"joined": done.joined(), "joined_unseen": done.joined(unseen=True)}
    return {"model": model, "pieces": pieces, **joined, "mined_on": done.mined_on, "note": note(done)}


def show(done: Refreshed, console: Console) -> None:
    """Print a row a piece, the IC of all of them, and what to do with the newest model."""
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    # Two lines a piece, so that 80 columns hold them.
    for title in ("trained on\ntested on", "\ndays", "\nIC [95 %]", "\nin sample"):
        table.add_column(title, no_wrap=True)
    for one in done.pieces:
        spans = "\n".join(" to ".join(one.segments[name]) for name in ("train", "test"))
        ic = estimate(one.ic.to_frame())
        cells = (str(ic.days), str(ic), _IN_SAMPLE[one.in_sample])
        table.add_row(spans, *(f"\n{cell}" for cell in cells))
    console.print(table, highlight=False)
    for title, joined in (("all days", done.joined()), ("days not in sample", done.joined(unseen=True))):
        if joined is not None:
            echo(f"IC of {title}: {joined} ({joined.days} days)")
    echo(note(done))
    newest = shlex.quote(os.path.relpath(done.pieces[-1].workspace))
    echo(f"Predict with the newest model: rdagent-sota predict {newest}")


def note(done: Refreshed) -> str:
    """Return what `in sample` says, and what the intervals do not."""
    known = "what days the mining of the factors knew is not recorded"
    if all(one.in_sample is False for one in done.pieces):
        known = "no piece, as far as the factors go"
    if done.mined_on is not None:
        known = f"the factors were mined and chosen by the days from {done.mined_on[0]} to {done.mined_on[1]}"
    return (
        f"In sample: {known}. RD-Agent chose the network by the days of its own test segment. The intervals "
        "are of the days: the luck of a training is not in them."
    )
