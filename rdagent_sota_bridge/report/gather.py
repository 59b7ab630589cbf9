"""What a report says of some runs, gathered from their logs, and how their models compare."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rdagent_sota_bridge.bridge.verdict import DECISION, REPLACE
from rdagent_sota_bridge.check.quality import Source
from rdagent_sota_bridge.errors import FactorFileError
from rdagent_sota_bridge.factor_set import locate, parquet
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files.model_yaml import Task
from rdagent_sota_bridge.report import ablation, daily_ic, factor_analysis, history, portfolio_returns, trials
from rdagent_sota_bridge.report.ablation import Pair
from rdagent_sota_bridge.report.daily_ic import DailyIC
from rdagent_sota_bridge.report.factor_analysis import FactorAnalysis
from rdagent_sota_bridge.report.history import Factor, Loop, Run
from rdagent_sota_bridge.report.holdout import Opening
from rdagent_sota_bridge.report.holdout import newest as newest_opening
from rdagent_sota_bridge.report.portfolio_returns import Returns
from rdagent_sota_bridge.report.trials import Trials

Place = tuple[int, int]
"""Position of a run among the runs, and of a loop in that run."""

Role = Literal["with factors", "without factors", "factors unknown", "factor mining"]
"""What a run is in a comparison."""

METRICS = {
    "IC": "IC",
    "ICIR": "ICIR",
    "rank IC": "Rank IC",
    "rank ICIR": "Rank ICIR",
    "annualized return": "1day.excess_return_with_cost.annualized_return",
    "information ratio": "1day.excess_return_with_cost.information_ratio",
    "max drawdown": "1day.excess_return_with_cost.max_drawdown",
}
"""The metrics that a report shows, by the names that it shows; of each the greater value is the better."""


@dataclass(frozen=True)
class FactorOrigin:
    """The loop that brought a factor of a set: its run, its number (None if unknown), and its texts."""

    log: Path
    loop: int | None
    hypothesis: str
    factor: Factor


@dataclass(frozen=True, eq=False)
class Report:
    """All that the page shows.

    Attributes:
        created: When it was made (UTC).
        runs: In the order that they were named.
        returns: The back-tests' daily returns; loops without are left out.
        factor_analyses: One for each factor set that a run was given or accepted, each once.
        notes: What is missing, and why.
        origins: By (digest of the set, factor), the loop that brought it; factors that no log names are
            left out.
        daily: The ICs by day; loops without are left out.
        pairs: The models that were trained again without the mined columns, beside what they were.
        trials: What was tried on the test segment of the best model; None where that is not known.
        holdout: The newest look at days that the runs' models have not seen; None where there was none.
    """

    created: datetime.datetime
    runs: tuple[Run, ...]
    returns: dict[Place, Returns]
    factor_analyses: tuple[FactorAnalysis, ...]
    notes: tuple[str, ...]
    origins: dict[tuple[str, str], FactorOrigin] = field(default_factory=dict)
    daily: dict[Place, DailyIC] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
    trials: Trials | None = None
    holdout: Opening | None = None


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


def gather(logs: Sequence[Path]) -> Report:
    """Read the logs, and what they lead to: returns, factor sets, Qlib's data.

    Args:
        logs: Log folders; one that is named twice is read once.

    Raises:
        SessionError: if a log has no session that can be read. Whatever else is missing is a note.
    """
    read = [history.read_run(log) for log in dict.fromkeys(log.resolve() for log in logs)]
    runs = tuple({run.log: run for run in read}.values())
    notes: list[str] = []
    returns, daily = {}, {}
    for position, run in enumerate(runs):
        for number, loop in enumerate(run.loops):
            with history.noting(notes, f"Loop {loop.number} of {run.log.name}"):
                earned = None if loop.workspace is None else portfolio_returns.read(loop.workspace)
                if earned is not None:
                    returns[position, number] = earned
            if loop.metrics and loop.record is not None and loop.workspace is not None:
                with history.noting(notes, f"Loop {loop.number} of {run.log.name}"):
                    daily[position, number] = daily_ic.read(loop.workspace, loop.record.recorder)
    sets = _factor_sets(runs, notes)
    analyses = tuple(factor_analysis.analyse(one.digest, one.sources, one.task) for one in sets.values())
    origins = _origins(runs, sets.values(), notes)
    pairs = ablation.pairs(runs, notes)
    chosen = best_model(runs)
    task = None if chosen is None else task_of(runs[chosen[0]], loop_at(runs, chosen))
    tried = None if task is None else trials.count([run.log for run in runs], task.test, notes)
    opened = None
    with history.noting(notes, "Whether a holdout was opened"):
        opened = newest_opening(run.log for run in runs)
    created = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    found = created, runs, returns, analyses, tuple(dict.fromkeys(notes)), origins, daily, pairs, tried
    return Report(*found, holdout=opened)


# --- factor sets ---


@dataclass(frozen=True)
class _GivenSet:
    """A factor set before it is analysed; `mined` has log and loop of each source, with its factors."""

    digest: str
    sources: tuple[Source, ...]
    task: Task | None
    mined: tuple[tuple[Path | None, int | None, tuple[str, ...]], ...]


def _factor_sets(runs: Sequence[Run], notes: list[str]) -> dict[str, _GivenSet]:
    """Return the sets that models were given, by digest, then those that only a factor run accepted."""
    found: dict[str, _GivenSet] = {}
    for run in runs:
        for loop in run.loops:
            if loop.manifest is not None:
                with history.noting(notes, f"The manifest of loop {loop.number} of {run.log.name}"):
                    one = _set_of_manifest(loop.manifest["factor_set"], loop, task_of(run, loop))
                    found.setdefault(one.digest, one)
    for run in runs:
        if role(run) == "factor mining" or any(loop.kind == "factor" for loop in run.loops):
            with history.noting(notes, f"The accepted set of {run.log.name}"):
                one = _accepted_set(run)
                found.setdefault(one.digest, one)
    return found


def _set_of_manifest(factor_set: Any, loop: Loop, task: Task | None) -> _GivenSet:
    # The first manifests of this package knew one file a set, and named it in `factor_set` itself.
    listed = factor_set.get("sources") or [factor_set]
    sources = tuple(Source(Path(one["path"]), str(one["digest"]), _columns(one)) for one in listed)
    mined = tuple(
        (Path(one["log"]) if one.get("log") else None, one.get("loop"), _columns(one)) for one in listed
    )
    stored = factor_set.get("stored")
    if stored is not None and loop.workspace is not None and not all(map(_is_there, sources)):
        kept = loop.workspace / FACTOR_FILE
        if kept.is_file():  # it holds the same values as what is gone or changed
            sources = (Source(kept, str(stored["digest"]), _columns(factor_set)),)
    return _GivenSet(str(factor_set["digest"]), sources, task, mined)


def _columns(entry: Any) -> tuple[str, ...]:
    return tuple(map(str, entry["columns"]))


def _is_there(source: Source) -> bool:
    """Return whether a file is there as it was."""
    try:
        return source.path.exists() and parquet.current_digest(source.path) == source.digest
    except FactorFileError:  # the analysis of the file says why, where nothing else has the values
        return False


def _accepted_set(run: Run) -> _GivenSet:
    found = locate.named(str(run.log))
    digest, columns = parquet.current_digest(found.path), tuple(parquet.read_footer(found.path).columns)
    loops = [loop for loop in run.loops if loop.kind == "factor" and loop.number == found.loop]
    task = task_of(run, loops[-1] if loops else None)
    return _GivenSet(digest, (Source(found.path, digest, columns),), task, ((run.log, found.loop, columns),))


def _origins(
    runs: Sequence[Run], sets: Iterable[_GivenSet], notes: list[str]
) -> dict[tuple[str, str], FactorOrigin]:
    known: dict[Path, Run | None] = {run.log: run for run in runs}
    found = {}
    for one in sets:
        for log, last, columns in one.mined:
            named = runs if log is None else [_run_of(log, known, notes)]
            for run in filter(None, named):
                for loop in run.loops:
                    # The last loop counts whatever its verdict, for a set can be named by its workspace.
                    late = last is not None and loop.number is not None and loop.number > last
                    if late or not (loop.accepted or (last is not None and loop.number == last)):
                        continue
                    for factor in loop.factors:  # of two of a name the later is kept
                        if factor.name in columns:
                            origin = FactorOrigin(run.log, loop.number, loop.hypothesis, factor)
                            found[one.digest, factor.name] = origin
    return found


def _run_of(log: Path, known: dict[Path, Run | None], notes: list[str]) -> Run | None:
    """Return the run of a log, which may have moved with its project since."""
    if log not in known:
        moved = [run for path, run in known.items() if path.name == log.name and not log.exists()]
        known[log] = next(iter(moved), None)
        if not moved:
            with history.noting(notes, "The log that mined a factor set"):
                known[log] = history.read_run(log)
    return known[log]


# --- runs side by side ---


def has_factors(loop: Loop) -> bool | None:
    """Return whether a model was given mined factors; None where neither a manifest nor Qlib's record says.

    Nothing is known of a model that was never trained, or whose workspace is gone.
    """
    if loop.manifest is not None:
        return True
    if loop.record is not None:
        return loop.record.has_factor_file
    # A result without a record is one of RD-Agent's cache.
    return False if loop.workspace is not None and loop.metrics else None


def role(run: Run) -> Role:
    """Return what a run is in a comparison."""
    given = [has_factors(loop) for loop in run.loops if loop.kind == "model"]
    if not given and run.command != "fin_model":
        return "factor mining"
    if any(given):
        return "with factors"
    return "without factors" if False in given else "factors unknown"


def models(runs: Sequence[Run], which: Role) -> tuple[Place, ...]:
    """Return the models with results that belong to one side of a comparison.

    A loop without factors in a run that has them (`SOTA_ON_ERROR=baseline`) belongs to neither.
    """
    return tuple(
        (position, number)
        for position, run in enumerate(runs)
        if role(run) == which
        for number, loop in enumerate(run.loops)
        if loop.kind == "model" and loop.metrics
        if which != "with factors" or has_factors(loop)
    )


def metric(loop: Loop, name: str) -> float:
    """Return one of `METRICS` of a loop; NaN where it has none."""
    return float(loop.metrics.get(METRICS[name], math.nan))


def best(runs: Sequence[Run], places: Iterable[Place]) -> Place | None:
    """Return the loop of the highest IC; None where none has one."""
    by_ic = {place: metric(loop_at(runs, place), "IC") for place in places}
    known = {place: value for place, value in by_ic.items() if math.isfinite(value)}
    return max(known, key=lambda place: known[place]) if known else None


def best_model(runs: Sequence[Run]) -> Place | None:
    """Return the model of the highest IC: with factors, else without, else of which neither is known."""
    sides: tuple[Role, ...] = ("with factors", "without factors", "factors unknown")
    return next((place for side in sides if (place := best(runs, models(runs, side))) is not None), None)


def is_best(runs: Sequence[Run], name: str) -> bool:
    """Return whether a workspace's name is that of the best model; True where that one's is not known."""
    place = best_model(runs)
    workspace = None if place is None else loop_at(runs, place).workspace
    return workspace is None or workspace.name == name


def loop_at(runs: Sequence[Run], place: Place) -> Loop:
    """Return the loop at a place."""
    return runs[place[0]].loops[place[1]]


def tested_alike(runs: Sequence[Run]) -> bool:
    """Return whether all models of these runs have one data, market, test segment and label.

    A run whose records say none of it is not known to differ.
    """
    tasks = {
        # Data is known by its folder's name; where it is can differ between machines.
        (Path(task.provider_uri).name, task.market, str(task.test), "".join(task.label.split()))
        for run in runs
        for loop in run.loops
        if loop.kind == "model" and loop.metrics and (task := task_of(run, loop)) is not None
    }
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
    """Return whether models with and without factors are not known to be judged by different verdicts."""
    counts = [judged(run) for run in runs if role(run) in ("with factors", "without factors")]
    return not (any(one.read for one in counts) and any(one.unread for one in counts))


def task_of(run: Run, loop: Loop | None) -> Task | None:
    """Return what a loop was trained and tested on; else what another loop of its run was."""
    records = [one.record for one in (loop, *run.loops) if one is not None and one.record is not None]
    return next((record.task for record in records if record.task is not None), None)
