"""Runs side by side: what each was given, how its models were judged, and which of them are the better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from rdagent_sota_bridge.bridge.verdict import DECISION, REPLACE
from rdagent_sota_bridge.qlib_files.model_yaml import Task
from rdagent_sota_bridge.report.history import Loop, Run

Place = tuple[int, int]
"""Position of a run among the runs, and of a loop in that run."""

Role = Literal["with factors", "without factors", "factors unknown", "factor mining"]
"""What a run is in a comparison."""

WITH_COST = "1day.excess_return_with_cost"
"""What Qlib calls the daily return less that of the benchmark and the cost of trading."""

METRICS = {
    "IC": "IC",
    "ICIR": "ICIR",
    "rank IC": "Rank IC",
    "rank ICIR": "Rank ICIR",
    "annualized return": f"{WITH_COST}.annualized_return",
    "information ratio": f"{WITH_COST}.information_ratio",
    "max drawdown": f"{WITH_COST}.max_drawdown",
}
"""The metrics that a report compares, by the names that it shows; of each the greater value is the better."""


@dataclass(frozen=True)
class MetricComparison:
    """One metric of the models with factors against those without.

    Attributes:
        metric: One of `METRICS`.
        best_with: The best value of any loop with factors; NaN where none has it, as with the others.
        best_without: The best value of any loop without.
        mean_with: The mean over loops with factors.
        mean_without: The mean over loops without.
        loops_with: How many loops with factors have it: the best of more tries is the higher by luck alone.
        loops_without: How many loops without have it.
    """

    metric: str
    best_with: float
    best_without: float
    mean_with: float
    mean_without: float
    loops_with: int = 0
    loops_without: int = 0


@dataclass(frozen=True)
class VerdictCount:
    """By what verdicts the models of a run were judged.

    Attributes:
        read: How many were judged in a form that RD-Agent reads.
        unread: How many were asked for in a form that RD-Agent does not read: none of them could be accepted.
        in_vain: How many of these the LLM said yes to.
    """

    read: int = 0
    unread: int = 0
    in_vain: int = 0


def has_factors(loop: Loop) -> bool | None:
    """Tell whether a model was given mined factors; None where neither a manifest nor Qlib's record says.

    Nothing is known of a model that was never trained, or whose workspace is gone.
    """
    if loop.manifest is not None:
        return True
    if loop.record is not None:
        return loop.record.has_factor_file
    # A result without a record is one of the cache; a model that was not trained was given nothing yet.
    return False if loop.workspace is not None and loop.metrics else None


def role(run: Run) -> Role:
    """Return what a run is in a comparison."""
    models = [has_factors(loop) for loop in run.loops if loop.kind == "model"]
    if not models and run.command != "fin_model":
        return "factor mining"
    if any(models):
        return "with factors"
    return "without factors" if False in models else "factors unknown"


def models(runs: Sequence[Run], which: Role) -> tuple[Place, ...]:
    """Return the models with results that belong to one side of a comparison.

    A loop without factors in a run that has them (`SOTA_ON_ERROR=baseline`) belongs to neither.
    """
    places = []
    for position, run in enumerate(runs):
        for number, loop in enumerate(run.loops):
            mine = loop.kind == "model" and loop.metrics and role(run) == which
            if mine and (which != "with factors" or has_factors(loop)):
                places.append((position, number))
    return tuple(places)


def metric(loop: Loop, name: str) -> float:
    """Return one of `METRICS` of a loop; NaN where it has none."""
    return float(loop.metrics.get(METRICS[name], math.nan))


def best(runs: Sequence[Run], places: Iterable[Place]) -> Place | None:
    """Return the loop of the highest IC; None where none has one."""
    by_ic = {place: metric(loop_at(runs, place), "IC") for place in places}
    known = {place: value for place, value in by_ic.items() if math.isfinite(value)}
    return max(known, key=lambda place: known[place]) if known else None


def loop_at(runs: Sequence[Run], place: Place) -> Loop:
    """Return the loop at a place."""
    return runs[place[0]].loops[place[1]]


def compare(runs: Sequence[Run]) -> tuple[MetricComparison, ...]:
    """Return every metric of the models with factors against those without; empty where a side is missing.

    A result that RD-Agent's cache gave again counts once on its side.
    """
    ours, base = (_results(runs, which) for which in ("with factors", "without factors"))
    if ours.empty or base.empty:
        return ()
    return tuple(
        MetricComparison(
            metric=name,
            best_with=float(ours[name].max()),
            best_without=float(base[name].max()),
            mean_with=float(ours[name].mean()),
            mean_without=float(base[name].mean()),
            loops_with=int(ours[name].count()),
            loops_without=int(base[name].count()),
        )
        for name in METRICS
    )


def _results(runs: Sequence[Run], which: Role) -> pd.DataFrame:
    """Return the metrics of one side, a row for each result, without those that the cache gave again."""
    loops = [loop_at(runs, place) for place in models(runs, which)]
    rows = [{name: metric(loop, name) for name in METRICS} for loop in loops]
    table = pd.DataFrame(rows, columns=list(METRICS)).replace([math.inf, -math.inf], math.nan)
    results = pd.Series([repr(sorted(loop.metrics.items())) for loop in loops], dtype=object)
    cached = pd.Series([bool(loop.cached) for loop in loops], dtype=bool).sort_values(kind="stable")
    again = cached & results[cached.index].duplicated()  # what was trained comes first
    return table[~again.sort_index()]


def tested_alike(runs: Sequence[Run]) -> bool:
    """Tell whether all models of these runs have one data, market, test segment and label.

    A run whose records say none of it is not known to differ.
    """
    tasks = set()
    for run in runs:
        for loop in run.loops:
            task = task_of(run, loop)
            if loop.kind == "model" and loop.metrics and task is not None:
                # Data is known by its folder's name; where it is can differ between machines.
                data = task.provider_uri.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
                tasks.add((data, task.market, str(task.test), "".join(task.label.split())))
    return len(tasks) <= 1


def judged(run: Run) -> VerdictCount:
    """Return how the verdicts on the models of a run came about, as far as its log says.

    RD-Agent reads "Decision" (0.5 to 1.0). A fork that reads the other form shows it by an accepted model.
    """
    requests = [(loop, loop.asked) for loop in run.loops if loop.kind == "model" and loop.asked is not None]
    known = {DECISION}
    for loop, asked in requests:
        if loop.accepted and DECISION not in asked.answered:
            known |= set(asked.answered)
    read = [asked for _, asked in requests if known & {*asked.shown, *asked.answered}]
    unread = [asked for _, asked in requests if asked not in read and REPLACE in asked.shown]
    return VerdictCount(len(read), len(unread), sum(asked.says_yes for asked in unread))


def judged_alike(runs: Sequence[Run]) -> bool:
    """Tell whether models with and without factors are not known to be judged by different verdicts."""
    roles: tuple[Role, Role] = ("with factors", "without factors")
    ways = set()
    for run in runs:
        if role(run) in roles:
            verdicts = judged(run)
            ways |= {True} if verdicts.read else set()
            ways |= {False} if verdicts.unread else set()
    return len(ways) <= 1


def task_of(run: Run, loop: Loop | None) -> Task | None:
    """Return what a loop was trained and tested on; else what another loop of its run was."""
    records = [one.record for one in (loop, *run.loops) if one is not None and one.record is not None]
    return next((record.task for record in records if record.task is not None), None)
