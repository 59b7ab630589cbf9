"""Arguments and options that several commands of `rdagent-sota` take, each described once."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, with all names, paths and figures.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Train so many models again at once on this machine; 1 if left out.")
]
Cluster = Annotated[
    str | None, typer.Option(help="Train them on the workers of this Dask scheduler: tcp://host:8786.")
]
Model = Annotated[
    str | None,
    typer.Argument(
        help="A log (its accepted model of the highest IC in the test segment), LOG:LOOP, or a model's "
        "workspace. Left out: the newest log with models."
    ),
]
FactorData = Annotated[
    str | None,
    typer.Option(
        help="Where the set ends before those days: the folder of the data that its code is run on again, or "
        "fresh to make them from Qlib's; RD-Agent's own if left out."
    ),
]


class ModelType(enum.Enum):
    """RD-Agent's names of the kinds of models."""

    TABULAR = "Tabular"
    TIME_SERIES = "TimeSeries"


def or_latest(which: str) -> str:
    """Return the half sentence that says what `latest` is among logs of a kind."""
    return f"or latest: the newest log below ./log {which}, by the times in the sessions."


OR_LATEST_ACCEPTED = or_latest("that accepted a factor")
SET_OR_ENVIRONMENT = (
    f"A factor workspace or file, a URL, a log folder, {OR_LATEST_ACCEPTED} "
    "The environment's set if left out."
)
