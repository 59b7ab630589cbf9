"""Models beside what they are without the mined columns: the pairs that the headline is made of.

An ablation is a training whose manifest has `retrained`: `of` names the workspace of the model, and no mined
column is left. Only that differs, so the daily differences of a pair are what the factors did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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


@dataclass(frozen=True)
class Difference:
    """With less without, the mean over loops and days; a loop with several seeds counts once.

    Attributes:
        ic: Of the IC.
        excess: Of the excess return with cost of a day; None where a model left no returns.
        seeds: How many pairs the loop with the most has.
    """

    ic: Estimate
    excess: Estimate | None
    seeds: int


def pairs(runs: Sequence[Run], notes: list[str]) -> tuple[Pair, ...]:
    """Return the pairs of the runs' models, in the order of runs and loops; what can't be read is noted.

    A training of a seed is paired with the ablation of that seed, and with the loop's own without one. What
    was trained again of an earlier training in the same workspace is left out.
    """
    places = [
        ((position, number), loop, loop.workspace)
        for position, run in enumerate(runs)
        for number, loop in enumerate(run.loops)
        if loop.kind == "model" and loop.metrics and loop.manifest and loop.workspace
    ]
    known = {root: list(_retrained(root, notes)) for root in {place.parent for *_, place in places}}
    found = []
    for place, loop, workspace in places:
        again = [one for one in known[workspace.parent] if _is_of(one[1]["retrained"], loop, workspace)]
        with_seed = {_seed(one): folder for folder, one in again if _mined(one) == _mined(loop.manifest)}
        for folder, one in again:
            if _mined(one) == []:
                ours = _trained(with_seed.get(_seed(one), workspace), notes)
                found.append(Pair(place, _seed(one), ours, _trained(folder, notes)))
    return tuple(found)


def _retrained(root: Path, notes: list[str]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the workspaces of models that were trained again on their own segments, with their manifests."""
    for file in sorted(root.glob(f"*/{MANIFEST_FILE}")):
        with history.noting(notes, file):
            content = read_json(file)
            made = content.get("retrained") if isinstance(content, dict) else None
            if made is not None and not made["change"].get("segments"):
                yield file.parent, content


def _is_of(retrained: Mapping[str, Any], loop: Loop, workspace: Path) -> bool:
    recorder = retrained.get("recorder")
    same = loop.record is None or recorder in (None, loop.record.recorder)
    return Path(str(retrained.get("of"))).name == workspace.name and same


def _seed(manifest: Mapping[str, Any]) -> int | None:
    seed = manifest["retrained"]["change"].get("seed")
    return seed if isinstance(seed, int) else None


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
