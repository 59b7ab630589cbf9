"""What a report says of some runs: gathered from their logs, as figures that a page or JSON then shows."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from rdagent_sota_bridge import alpha, appraisal, factors, history, locate, performance
from rdagent_sota_bridge.appraisal import Appraisal
from rdagent_sota_bridge.errors import BridgeError, FactorFileError, NothingAcceptedError
from rdagent_sota_bridge.history import Factor, Loop, Run
from rdagent_sota_bridge.model_verdict import DECISION, REPLACE
from rdagent_sota_bridge.performance import Returns
from rdagent_sota_bridge.qlib_config import Task
from rdagent_sota_bridge.quality import Source

Place = tuple[int, int]
"""Position of a run in the report, and of a loop in that run."""

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
class Origin:
    """The loop that brought a factor of a set.

    Attributes:
        log: The log folder of its run.
        loop: The number of the loop; None where the session does not tell.
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
        appraisals: One for each factor set that a run was given or accepted, each once.
        notes: What is missing, and why.
        origins: By (digest of the set, factor), the loop that brought it; factors that no log tells of are
            left out.
    """

    created: datetime.datetime
    runs: tuple[Run, ...]
    returns: dict[Place, Returns]
    appraisals: tuple[Appraisal, ...]
    notes: tuple[str, ...]
    origins: dict[tuple[str, str], Origin] = field(default_factory=dict)


@dataclass(frozen=True)
class Compared:
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
class Judged:
    """By what verdicts the models of a run were judged.

    Attributes:
        read: How many were judged in a form that RD-Agent reads.
        unread: How many were asked for in a form that RD-Agent does not read: none of them could be accepted.
        in_vain: How many of these the LLM said yes to.
    """

    read: int = 0
    unread: int = 0
    in_vain: int = 0


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
    appraisals = tuple(
        appraisal.appraise(one.digest, one.sources, one.base, one.task) for one in given.values()
    )
    origins = _origins(runs, given.values(), notes)
    created = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    return Report(created, runs, returns, appraisals, tuple(dict.fromkeys(notes)), origins)


def _returns(runs: tuple[Run, ...], notes: list[str]) -> dict[Place, Returns]:
    found = {}
    for position, run in enumerate(runs):
        for number, loop in enumerate(run.loops):
            if loop.workspace is None:
                continue
            try:
                returns = performance.read(loop.workspace)
            except BridgeError as error:
                notes.append(f"Loop {loop.number} of {run.log.name}: {error.fact} ({error.place})")
                continue
            if returns is not None:
                found[position, number] = returns
    return found


@dataclass(frozen=True)
class _Given:
    """A factor set, before it is appraised; `mined_in` has the log and the loop of each source."""

    digest: str
    sources: tuple[Source, ...]
    base: dict[str, str]
    task: Task | None
    mined_in: tuple[tuple[Path | None, int | None], ...]


def _given_sets(runs: tuple[Run, ...], notes: list[str]) -> dict[str, _Given]:
    """Return the sets that models were given, by digest, then those that only a factor run tells of."""
    found: dict[str, _Given] = {}
    for run in runs:
        for loop in run.loops:
            if loop.manifest is None:
                continue
            try:
                one = _set_of_manifest(loop.manifest, loop, _task_of(run, loop))
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


def _set_of_manifest(manifest: Mapping[str, Any], loop: Loop, task: Task | None) -> _Given:
    told = manifest["factor_set"]
    # The first manifests of this package knew one file a set, and named it in `factor_set` itself.
    listed = told.get("sources") or [told]
    sources = tuple(
        Source(Path(one["path"]), str(one["digest"]), tuple(map(str, one["columns"]))) for one in listed
    )
    mined_in = tuple((Path(one["log"]) if one.get("log") else None, one.get("loop")) for one in listed)
    stored = told.get("stored")
    if stored is not None and loop.workspace is not None:
        kept = loop.workspace / locate.FACTOR_FILE
        if kept.is_file() and not all(map(_is_there, sources)):
            # What the factor run left is gone or changed; the model's workspace holds the same values.
            sources = (Source(kept, str(stored["digest"]), tuple(map(str, told["columns"]))),)
    base = {str(name): str(expression) for name, expression in manifest["base_set"]["features"].items()}
    return _Given(str(told["digest"]), sources, base, task, mined_in)


def _is_there(source: Source) -> bool:
    """Tell whether a file is there as it was."""
    try:
        return source.path.is_file() and factors.current_digest(source.path) == source.digest
    except FactorFileError:  # the appraisal of what it gave tells, where nothing else has the values
        return False


def _accepted_set(run: Run) -> _Given:
    located = locate.named(str(run.log))
    digest, columns = factors.current_digest(located.path), factors.read_footer(located.path).columns
    accepted = [loop for loop in run.loops if loop.kind == "factor" and loop.number == located.loop]
    loop = accepted[-1] if accepted else None
    # RD-Agent judges factors beside its own list, unless told otherwise; then no record has the names.
    beside_its_own = loop is not None and loop.record is not None
    beside_its_own = beside_its_own and loop.record.base_features in (None, len(alpha.ALPHA20))  # type: ignore[union-attr]
    return _Given(
        digest,
        (Source(located.path, digest, tuple(columns)),),
        dict(alpha.ALPHA20) if beside_its_own else {},
        _task_of(run, loop),
        ((run.log, located.loop),),
    )


def _task_of(run: Run, loop: Loop | None) -> Task | None:
    """Return what a loop was trained and tested on; where it does not tell, what another of its run was."""
    records = [one.record for one in (loop, *run.loops) if one is not None and one.record is not None]
    return next((record.task for record in records if record.task is not None), None)


def _origins(
    runs: tuple[Run, ...], given: Iterable[_Given], notes: list[str]
) -> dict[tuple[str, str], Origin]:
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


def _spread(one: _Given) -> tuple[tuple[Path | None, int | None], ...]:
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


def _origin(column: str, runs: Iterable[Run], last: int | None) -> Origin | None:
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
                    found = Origin(run.log, loop.number, loop.hypothesis, factor)
    return found


# --- what follows from it ---


def has_factors(loop: Loop) -> bool | None:
    """Tell whether a model was given mined factors; None where neither a manifest nor Qlib's record tells.

    Nothing tells of a model that was never trained, or whose workspace is gone.
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


def models(report: Report, which: Role) -> tuple[Place, ...]:
    """Return the models with results that belong to one side of a comparison.

    A loop without factors in a run that has them (`SOTA_ON_ERROR=baseline`) belongs to neither.
    """
    places = []
    for position, run in enumerate(report.runs):
        for number, loop in enumerate(run.loops):
            mine = loop.kind == "model" and loop.metrics and role(run) == which
            if mine and (which != "with factors" or has_factors(loop)):
                places.append((position, number))
    return tuple(places)


def metric(loop: Loop, name: str) -> float:
    """Return one of `METRICS` of a loop; NaN where it has none."""
    return float(loop.metrics.get(METRICS[name], math.nan))


def best(report: Report, places: Iterable[Place]) -> Place | None:
    """Return the loop of the highest IC; None where none has one."""
    by_ic = {place: metric(loop_at(report, place), "IC") for place in places}
    known = {place: value for place, value in by_ic.items() if math.isfinite(value)}
    return max(known, key=lambda place: known[place]) if known else None


def loop_at(report: Report, place: Place) -> Loop:
    """Return the loop at a place."""
    return report.runs[place[0]].loops[place[1]]


def comparison(report: Report) -> tuple[Compared, ...]:
    """Return every metric of the models with factors against those without; empty where a side is missing.

    A result that RD-Agent's cache gave again counts once on its side.
    """
    roles: tuple[Role, Role] = ("with factors", "without factors")
    sides = [_once(report, models(report, which)) for which in roles]
    if not all(sides):
        return ()
    compared = []
    for name in METRICS:
        values = [[metric(loop_at(report, place), name) for place in side] for side in sides]
        known = [[value for value in side if math.isfinite(value)] for side in values]
        bests = [max(side, default=math.nan) for side in known]
        means = [math.fsum(side) / len(side) if side else math.nan for side in known]
        ours, base = (len(side) for side in known)
        compared.append(Compared(name, bests[0], bests[1], means[0], means[1], ours, base))
    return tuple(compared)


def _once(report: Report, places: Sequence[Place]) -> tuple[Place, ...]:
    """Return the places without those whose result the cache gave again."""
    results = {place: repr(sorted(loop_at(report, place).metrics.items())) for place in places}
    trained = {results[place] for place in places if not loop_at(report, place).cached}
    kept = []
    for place in places:
        if loop_at(report, place).cached:
            if results[place] in trained:
                continue
            trained.add(results[place])
        kept.append(place)
    return tuple(kept)


def tested_alike(report: Report) -> bool:
    """Tell whether all models that the report ranks have one data, market, test segment and label.

    A run whose records tell none of it is not known to differ.
    """
    tasks = set()
    for run in report.runs:
        for loop in run.loops:
            task = _task_of(run, loop)
            if loop.kind == "model" and loop.metrics and task is not None:
                # The folder's name tells data apart; where it is can differ between machines.
                data = task.provider_uri.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
                tasks.add((data, task.market, str(task.test), "".join(task.label.split())))
    return len(tasks) <= 1


def judged(run: Run) -> Judged:
    """Return how the verdicts on the models of a run came about, as far as its log tells.

    RD-Agent reads "Decision" (0.5 to 1.0). A fork that reads the other form shows it by an accepted model.
    """
    told = [(loop, loop.asked) for loop in run.loops if loop.kind == "model" and loop.asked is not None]
    known = {DECISION}
    for loop, asked in told:
        if loop.accepted and DECISION not in asked.answered:
            known |= set(asked.answered)
    read = [asked for _, asked in told if known & {*asked.shown, *asked.answered}]
    unread = [asked for _, asked in told if asked not in read and REPLACE in asked.shown]
    return Judged(len(read), len(unread), sum(asked.says_yes for asked in unread))


def judged_alike(report: Report) -> bool:
    """Tell whether models with and without factors are not known to be judged by different verdicts."""
    roles: tuple[Role, Role] = ("with factors", "without factors")
    ways = set()
    for run in report.runs:
        if role(run) in roles:
            verdicts = judged(run)
            ways |= {True} if verdicts.read else set()
            ways |= {False} if verdicts.unread else set()
    return len(ways) <= 1


# --- as JSON ---


def as_plain(report: Report) -> dict[str, Any]:
    """Return a report as JSON can hold it: NaN as None, days and paths as text, arrays as lists."""
    whole = {name.name: getattr(report, name.name) for name in dataclasses.fields(report)}
    whole["runs"] = [{"role": role(run), "judged": judged(run), **_fields(run)} for run in report.runs]
    whole["returns"] = [
        {"run": run, "loop": loop, **_fields(found)} for (run, loop), found in report.returns.items()
    ]
    whole["origins"] = [
        {"digest": digest, "column": column, **_fields(origin)}
        for (digest, column), origin in report.origins.items()
    ]
    whole["comparison"] = comparison(report)
    whole["tested_alike"] = tested_alike(report)
    whole["judged_alike"] = judged_alike(report)
    plain: dict[str, Any] = _plain(whole)
    return plain


def _fields(value: Any) -> dict[str, Any]:
    return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}


def _plain(value: Any) -> Any:
    if value is None or value is pd.NaT:
        return None
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half of a surrogate pair is no character
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, pd.DatetimeIndex):
        return [day.date().isoformat() for day in value]
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return _plain(str(value))
    if isinstance(value, np.ndarray):
        return [_plain(one) for one in value.tolist()]
    if isinstance(value, Mapping):
        return {_plain(str(name)): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if dataclasses.is_dataclass(value):
        return _plain(_fields(value))
    raise TypeError(f"a report holds a {type(value).__name__}")
