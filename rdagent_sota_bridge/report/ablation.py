"""Models beside what they are without the mined columns: the pairs that the headline is made of.

An ablation is a training whose manifest has `retrained`: `of` names the workspace of the model, and no mined
column is left. Only that differs, so the daily differences of a pair are what the factors did. With a seed
both sides of a pair are trained again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import training_record
from rdagent_sota_bridge.qlib_files.manifest import MANIFEST_FILE
from rdagent_sota_bridge.report import daily_ic, history, portfolio_returns
from rdagent_sota_bridge.report.daily_ic import DailyIC
from rdagent_sota_bridge.report.history import Loop, Run
from rdagent_sota_bridge.report.portfolio_returns import Returns
from rdagent_sota_bridge.report.statistics import Estimate, estimate
from rdagent_sota_bridge.system.files import read_json


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training left; `daily` and `returns` are None where that can't be read.

    Attributes:
        workspace: Its workspace.
        metrics: Qlib's metrics by Qlib's names.
        daily: Its IC by day.
        returns: The daily returns of its back-test.
    """

    workspace: Path
    metrics: dict[str, float]
    daily: DailyIC | None
    returns: Returns | None


@dataclass(frozen=True, eq=False)
class Pair:
    """A model of a loop, with the mined columns and without.

    Attributes:
        place: The loop: position of its run among the runs, and of the loop in it.
        seed: What both were seeded with; None where chance drew.
        ours: With the mined columns.
        base: Without.
    """

    place: tuple[int, int]
    seed: int | None
    ours: Trained
    base: Trained


@dataclass(frozen=True, eq=False)
class Again:
    """A model of a loop that was trained again on its own days and values, whatever its columns.

    Attributes:
        place: The loop, as in `Pair`.
        seed: What it was seeded with; None where chance drew.
        workspace: Its workspace.
        manifest: Its manifest.
    """

    place: tuple[int, int]
    seed: int | None
    workspace: Path
    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """With less without, the mean over loops and days; a loop with several seeds counts once.

    Attributes:
        ic: Of the IC.
        excess: Of the excess return with cost of a day; None where a model left no returns.
        seeds: How many pairs the loop with the most has; its own training is one of them.
    """

    ic: Estimate
    excess: Estimate | None
    seeds: int


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class OverSeeds:
    """A metric of one model, trained with several seeds.

    Attributes:
        seeds: How many.
        ours: With the mined columns.
        base: Without.
        difference: With less without, of the same seed.
    """

    seeds: int
    ours: Spread
    base: Spread
    difference: Spread


def pairs(runs: Sequence[Run], notes: list[str]) -> tuple[Pair, ...]:
    """Return the pairs of the runs' models, in the order of runs, loops and seeds; unreadable ones are noted.

    An ablation with a seed is paired with the training of that seed, and is none without it; one without a
    seed is paired with the loop's own training. A seed gives one pair, the newest: another number of torch's
    threads gives other bits, and makes no second seed of it.
    """
    known = trained_again(runs, notes)

    def loop(one: Again) -> Loop:
        return runs[one.place[0]].loops[one.place[1]]

    ours = {_draw(one): one.workspace for one in known if _mined(one.manifest) == _mined(loop(one).manifest)}
    found = {}
    for one in known:
        side = loop(one).workspace if one.seed is None else ours.get(_draw(one))
        if _mined(one.manifest) == [] and side:
            found[one.place, one.seed] = (side, one.workspace)
    return tuple(Pair(*key, *(_trained(side, notes) for side in sides)) for key, sides in found.items())


def trained_again(runs: Sequence[Run], notes: list[str]) -> list[Again]:
    """Return what was trained again of the runs' models, in the order of runs, loops and seeds.

    Of one seed that with the mined columns is first. What was trained again of an earlier training in the
    same workspace is left out.
    """
    places = [
        ((position, number), loop, loop.workspace)
        for position, run in enumerate(runs)
        for number, loop in enumerate(run.loops)
        if loop.kind == "model" and loop.metrics and loop.manifest and loop.workspace
    ]
    known = {root: _retrained(root, notes) for root in {place.parent for *_, place in places}}
    found = [
        Again(place, _seed(one), folder, one)
        for place, loop, workspace in places
        for folder, one in known[workspace.parent]
        if _is_of(one["retrained"], loop, workspace)
    ]
    return sorted(found, key=lambda one: (one.place, one.seed or 0, not _mined(one.manifest)))


def _retrained(root: Path, notes: list[str]) -> list[tuple[Path, Mapping[str, Any]]]:
    """Return the workspaces of models that were trained again on the same days and values.

    With their manifests; the newest is last.
    """
    found = []
    for file in root.glob(f"*/{MANIFEST_FILE}"):
        with history.noting(notes, file):
            content = read_json(file)
            made = content.get("retrained") if isinstance(content, dict) else None
            if made is not None and not made["change"].keys() - {"columns", "seed"}:
                found.append((file.stat().st_mtime, file.parent, content))
    return [(folder, content) for _, folder, content in sorted(found, key=lambda one: one[:2])]


def _is_of(retrained: Mapping[str, Any], loop: Loop, workspace: Path) -> bool:
    recorder = retrained.get("recorder")
    same = loop.record is None or recorder in (None, loop.record.recorder)
    return Path(str(retrained.get("of"))).name == workspace.name and same


def _seed(manifest: Mapping[str, Any]) -> int | None:
    seed = manifest["retrained"]["change"].get("seed")
    return seed if isinstance(seed, int) else None


def _draw(one: Again) -> Any:
    """Return what both sides of a pair have in common."""
    return one.place, one.seed, str(one.manifest.get("threads"))


def _mined(manifest: Mapping[str, Any] | None) -> Any:
    return None if manifest is None else manifest.get("mined_columns")


def _trained(workspace: Path, notes: list[str]) -> Trained:
    metrics: dict[str, float] = {}
    daily = returns = None
    with history.noting(notes, f"The result in {workspace}"):
        metrics = training_record.metrics_beside(workspace / FACTOR_FILE)
    with history.noting(notes, f"The model in {workspace}"):
        record = training_record.read(workspace)
        daily = daily_ic.read(workspace, record.recorder if record else "")
    with history.noting(notes, f"The returns in {workspace}"):
        returns = portfolio_returns.read(workspace)
    return Trained(workspace, metrics, daily, returns)


# --- what they say ---


def difference(found: Iterable[Pair]) -> Difference | None:
    """Return what pairs say together; None without a pair whose IC is known by day on both sides."""
    ics: dict[Any, list[pd.Series]] = {}
    returns: dict[Any, list[pd.Series]] = {}
    for one in found:
        ours, base = one.ours, one.base
        if ours.daily is None or base.daily is None:
            continue
        ics.setdefault(one.place, []).append((ours.daily.ic - base.daily.ic).dropna())
        if ours.returns is not None and base.returns is not None:
            less = (ours.returns.daily_excess - base.returns.daily_excess).dropna()
            returns.setdefault(one.place, []).append(less)
    if not ics:
        return None
    counts = [sum(map(len, side.values())) for side in (ics, returns)]
    excess = _over_loops(returns) if counts[0] == counts[1] else None
    return Difference(_over_loops(ics), excess, max(map(len, ics.values())))


def _over_loops(series: Mapping[Any, Sequence[pd.Series]]) -> Estimate:
    by_loop = {place: pd.concat(of_seeds, axis=1).mean(axis=1) for place, of_seeds in series.items()}
    return estimate(pd.concat(by_loop, axis=1).sort_index())


def over_seeds(found: Iterable[Pair], place: tuple[int, int], metric: str = "IC") -> OverSeeds | None:
    """Return what seeds make of a metric (by Qlib's name) of a loop's model; None for fewer than two."""
    known = [
        (one.ours.metrics.get(metric, math.nan), one.base.metrics.get(metric, math.nan))
        for one in found
        if one.place == place and one.seed is not None
    ]
    known = [(ours, base) for ours, base in known if math.isfinite(ours - base)]
    if len(known) < 2:
        return None
    sides = (*zip(*known, strict=True), [ours - base for ours, base in known])
    return OverSeeds(len(known), *(Spread(fmean(side), stdev(side)) for side in sides))
