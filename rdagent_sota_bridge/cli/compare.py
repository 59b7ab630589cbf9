"""The command `rdagent-sota compare`: a table of what models make of a set, or its figures as JSON."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rdagent_sota_bridge.cli.output import echo, print_json, print_notes, progress
from rdagent_sota_bridge.cli.path import find_sets
from rdagent_sota_bridge.errors import one_line, plural
from rdagent_sota_bridge.models import compare
from rdagent_sota_bridge.models.compare import BASE, DIFFERENCE, METRICS, MINED, Comparison
from rdagent_sota_bridge.report.statistics import LEAST_DAYS, Estimate, interval
from rdagent_sota_bridge.settings import read_settings

SEEN = (
    "RD-Agent chooses factors and models by the days of the test segment: they are not unseen. The intervals "
    "are of the days: the luck of a training is not in them."
)
"""What stands below every comparison."""

_NAMES = {BASE: "base set", MINED: "base + mined", DIFFERENCE: "difference"}


def run(named: str | None, model: Path | None, takes_steps: bool, as_json: bool) -> None:
    """Train, and print what came of it; progress goes to stderr.

    Args:
        named: A factor workspace or file, a URL, a log folder or `latest`; None for what the environment
            names.
        model: The file of a model in RD-Agent's form, or None.
        takes_steps: Whether that model is one of time series.
        as_json: Print JSON.

    Raises:
        BridgeError: if the set, Qlib's environment or the model can't be used.
    """
    settings = read_settings()
    located = find_sets(named, settings)
    print_notes(note for at in located for note in at.notes)
    done = compare.compare(settings, located, model, progress(), takes_steps=takes_steps)
    if as_json:
        print_json(_described(done))
    else:
        show(done, Console())


def _described(done: Comparison) -> dict[str, object]:
    held, models = done.found.quality.factors, done.estimates()
    return {
        "digest": held.digest,
        "columns": held.columns,
        "base_set": {"name": done.found.base.name, "columns": done.found.base.names},
        "training": done.found.task.as_record(),
        "models": models,
        "verdicts": {name: verdict(figures[DIFFERENCE]["IC"]) for name, figures in models.items()},
        "note": SEEN,
    }


def show(done: Comparison, console: Console) -> None:
    """Print the table, and below it what the mined columns do to each model."""
    held, base, models = done.found.quality.factors, done.found.base, done.estimates()
    verdicts = [f"{name}: {verdict(figures[DIFFERENCE]['IC'])}" for name, figures in models.items()]
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    for title in ("trained on", *(f"{metric} [95 %]" for metric in METRICS)):
        table.add_column(title, no_wrap=True)
    for name, figures in models.items():
        for which, by_metric in figures.items():
            cells = ("" if which != BASE else one_line(name), _NAMES[which], *map(str, by_metric.values()))
            table.add_row(*map(Text, cells), end_section=which == DIFFERENCE)
    echo(f"Factor set: {', '.join(str(source.path) for source in done.found.quality.sources)}")
    echo(f"{len(held.columns)} mined and {len(base.features)} base features ({base.name})")
    console.print(table, highlight=False)
    for line in (*verdicts, SEEN):
        echo(line)


def verdict(difference: Estimate) -> str:
    """Return in one of three forms what the mined columns do to the daily IC."""
    days = plural(difference.days, "day")
    mean, low, high = difference.mean, difference.low, difference.high
    if difference.days < LEAST_DAYS:
        return f"no difference can be told ({days}: too few for an interval)"
    if difference.answer == "better":
        return f"the mined columns add {mean:.4f}{interval(low, high)} to the daily IC ({days})"
    if difference.answer == "worse":
        return f"the mined columns take {-mean:.4f}{interval(-high, -low)} from the daily IC ({days})"
    return f"no difference can be told ({difference}, {days})"
