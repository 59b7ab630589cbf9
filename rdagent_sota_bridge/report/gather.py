"""What a report says of some runs: gathered from their logs, as figures that a page or JSON then shows."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from rdagent_sota_bridge.bridge.verdict import DECISION, REPLACE
from rdagent_sota_bridge.check.quality import Source
from rdagent_sota_bridge.errors import BridgeError, FactorFileError, NothingAcceptedError
from rdagent_sota_bridge.factor_set import locate, parquet
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files.model_yaml import Task
from rdagent_sota_bridge.report import factor_analysis, history, portfolio_returns
from rdagent_sota_bridge.report.factor_analysis import FactorAnalysis
from rdagent_sota_bridge.report.history import Factor, Loop, Run
from rdagent_sota_bridge.report.portfolio_returns import Returns

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
class FactorOrigin:
    """The loop that brought a factor of a set.

    Attributes:
        log: The log folder of its run.
        loop: The number of the loop; None where the session does not say.
        hypothesis: What that loop set out to show.
        factor: The factor, with its code.
    """

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
        returns: By (position of the run, position of the loop in it), the back-test's daily returns; loops
            without are left out.
        factor_analyses: One for each factor set that a run was given or accepted, each once.
        notes: What is missing, and why.
        origins: By (digest of the set, factor), the loop that brought it; factors that no log names are
            left out.
    """

    created: datetime.datetime
    runs: tuple[Run, ...]
    returns: dict[Place, Returns]
    factor_analyses: tuple[FactorAnalysis, ...]
    notes: tuple[str, ...]
    origins: dict[tuple[str, str], FactorOrigin] = field(default_factory=dict)


# --- gathering ---


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
    returns = _returns(runs, notes)
    given = _given_sets(runs, notes)
    factor_analyses = tuple(
        factor_analysis.analyse(one.digest, one.sources, one.task) for one in given.values()
    )
    origins = _origins(runs, given.values(), notes)
    created = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    return Report(created, runs, returns, factor_analyses, tuple(dict.fromkeys(notes)), origins)


def _returns(runs: tuple[Run, ...], notes: list[str]) -> dict[Place, Returns]:
    found = {}
    for position, run in enumerate(runs):
        for number, loop in enumerate(run.loops):
            if loop.workspace is None:
                continue
            try:
                returns = portfolio_returns.read(loop.workspace)
            except BridgeError as error:
                notes.append(f"Loop {loop.number} of {run.log.name}: {error.fact} ({error.place})")
                continue
            if returns is not None:
                found[position, number] = returns
    return found


@dataclass(frozen=True)
class _GivenSet:
    """A factor set, before it is analysed; `mined_in` has the log and the loop of each source."""

    digest: str
    sources: tuple[Source, ...]
    task: Task | None
    mined_in: tuple[tuple[Path | None, int | None], ...]


def _given_sets(runs: tuple[Run, ...], notes: list[str]) -> dict[str, _GivenSet]:
    """Return the sets that models were given, by digest, then those that only a factor run accepted."""
    found: dict[str, _GivenSet] = {}
    for run in runs:
        for loop in run.loops:
            if loop.manifest is None:
                continue
            try:
                one = _set_of_manifest(loop.manifest, loop, task_of(run, loop))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                notes.append(
                    f"The manifest of loop {loop.number} of {run.log.name} has a form that is not known "
                    f"({type(error).__name__}: {error})"
                )
                continue
            found.setdefault(one.digest, one)
    for run in runs:
        if role(run) == "factor mining" or any(loop.kind == "factor" for loop in run.loops):
            try:
                one = _accepted_set(run)
            except NothingAcceptedError as error:
                notes.append(f"{run.log.name}: {error.fact}")
                continue
            except BridgeError as error:
                notes.append(f"The accepted set of {run.log.name} is not shown: {error.fact} ({error.place})")
                continue
            found.setdefault(one.digest, one)
    return found


def _set_of_manifest(manifest: Mapping[str, Any], loop: Loop, task: Task | None) -> _GivenSet:
    factor_set = manifest["factor_set"]
    # The first manifests of this package knew one file a set, and named it in `factor_set` itself.
    listed = factor_set.get("sources") or [factor_set]
    sources = tuple(
        Source(Path(one["path"]), str(one["digest"]), tuple(map(str, one["columns"]))) for one in listed
    )
    mined_in = tuple((Path(one["log"]) if one.get("log") else None, one.get("loop")) for one in listed)
    stored = factor_set.get("stored")
    if stored is not None and loop.workspace is not None:
        kept = loop.workspace / FACTOR_FILE
        if kept.is_file() and not all(map(_is_there, sources)):
            # What the factor run left is gone or changed; the model's workspace holds the same values.
            sources = (Source(kept, str(stored["digest"]), tuple(map(str, factor_set["columns"]))),)
    return _GivenSet(str(factor_set["digest"]), sources, task, mined_in)


def _is_there(source: Source) -> bool:
    """Tell whether a file is there as it was."""
    try:
        return source.path.is_file() and parquet.current_digest(source.path) == source.digest
    except FactorFileError:  # the analysis of the file says why, where nothing else has the values
        return False


def _accepted_set(run: Run) -> _GivenSet:
    located = locate.named(str(run.log))
    digest, columns = parquet.current_digest(located.path), parquet.read_footer(located.path).columns
    accepted = [loop for loop in run.loops if loop.kind == "factor" and loop.number == located.loop]
    loop = accepted[-1] if accepted else None
    return _GivenSet(
        digest,
        (Source(located.path, digest, tuple(columns)),),
        task_of(run, loop),
        ((run.log, located.loop),),
    )


def _origins(
    runs: tuple[Run, ...], given: Iterable[_GivenSet], notes: list[str]
) -> dict[tuple[str, str], FactorOrigin]:
    known: dict[Path, Run | None] = {run.log: run for run in runs}
    found = {}
    for one in given:
        for source, (log, loop) in zip(one.sources, _spread(one), strict=True):
            named = runs if log is None else tuple(filter(None, [_run_of(log, known, notes)]))
            for column in source.columns:
                origin = _origin(column, named, loop)
                if origin is not None:
                    found[one.digest, column] = origin
    return found


def _spread(one: _GivenSet) -> tuple[tuple[Path | None, int | None], ...]:
    # One file of the workspace can stand for several sources: then any of the runs may have mined a factor.
    return one.mined_in if len(one.mined_in) == len(one.sources) else ((None, None),) * len(one.sources)


def _run_of(log: Path, known: dict[Path, Run | None], notes: list[str]) -> Run | None:
    same_name = [run for path, run in known.items() if path.name == log.name and run is not None]
    if log not in known and same_name and not log.exists():
        return same_name[0]  # the project has moved since
    if log not in known:
        try:
            known[log] = history.read_run(log)
        except BridgeError as error:
            known[log] = None
            notes.append(f"The log that mined a factor set is not shown: {error.fact} ({error.place})")
    return known[log]


def _origin(column: str, runs: Iterable[Run], last: int | None) -> FactorOrigin | None:
    """Return the last accepted loop, up to one, that set out to mine a factor; of two of a name it is kept.

    `last` itself counts whatever its verdict, for a set can be named by its workspace.
    """
    found = None
    for run in runs:
        for loop in run.loops:
            late = last is not None and loop.number is not None and loop.number > last
            if late or not (loop.accepted or (last is not None and loop.number == last)):
                continue
            for factor in loop.factors:
                if factor.name == column:
                    found = FactorOrigin(run.log, loop.number, loop.hypothesis, factor)
    return found


# --- runs side by side ---


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


# --- as JSON ---


def as_plain(report: Report) -> dict[str, Any]:
    """Return a report as JSON can hold it: NaN as None, days and paths as text, arrays as lists."""
    whole = dataclasses.asdict(report)
    for run, plain in zip(report.runs, whole["runs"], strict=True):
        plain |= {"role": role(run), "judged": dataclasses.asdict(judged(run))}
    whole["returns"] = [{"run": run, "loop": loop, **one} for (run, loop), one in whole["returns"].items()]
    whole["origins"] = [
        {"digest": digest, "column": column, **one} for (digest, column), one in whole["origins"].items()
    ]
    whole["comparison"] = [dataclasses.asdict(one) for one in compare(report.runs)]
    whole["tested_alike"] = tested_alike(report.runs)
    whole["judged_alike"] = judged_alike(report.runs)
    text = json.dumps(whole, default=_plain, ensure_ascii=False)
    text = text.encode("utf-8", "replace").decode()  # half of a surrogate pair is no character
    plain_report: dict[str, Any] = json.loads(text, parse_constant=lambda _: None)
    return plain_report


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return None if pd.isna(value) else value.isoformat()
    if isinstance(value, pd.DatetimeIndex):
        return list(value.strftime("%Y-%m-%d"))
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a report holds a {type(value).__name__}")
