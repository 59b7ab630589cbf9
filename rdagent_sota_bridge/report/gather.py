"""What a report says of some runs: gathered from their logs, as figures that a page or JSON then shows."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge.check.quality import Source
from rdagent_sota_bridge.errors import BridgeError, FactorFileError, NothingAcceptedError
from rdagent_sota_bridge.factor_set import locate, parquet
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files.model_yaml import Task
from rdagent_sota_bridge.report import comparison, factor_analysis, history, portfolio_returns
from rdagent_sota_bridge.report.comparison import Place
from rdagent_sota_bridge.report.factor_analysis import Appraisal
from rdagent_sota_bridge.report.history import Factor, Loop, Run
from rdagent_sota_bridge.report.portfolio_returns import Returns


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
        appraisals: One for each factor set that a run was given or accepted, each once.
        notes: What is missing, and why.
        origins: By (digest of the set, factor), the loop that brought it; factors that no log names are
            left out.
    """

    created: datetime.datetime
    runs: tuple[Run, ...]
    returns: dict[Place, Returns]
    appraisals: tuple[Appraisal, ...]
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
    appraisals = tuple(factor_analysis.appraise(one.digest, one.sources, one.task) for one in given.values())
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
                returns = portfolio_returns.read(loop.workspace)
            except BridgeError as error:
                notes.append(f"Loop {loop.number} of {run.log.name}: {error.fact} ({error.place})")
                continue
            if returns is not None:
                found[position, number] = returns
    return found


@dataclass(frozen=True)
class _GivenSet:
    """A factor set, before it is appraised; `mined_in` has the log and the loop of each source."""

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
                one = _set_of_manifest(loop.manifest, loop, comparison.task_of(run, loop))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                notes.append(
                    f"The manifest of loop {loop.number} of {run.log.name} has a form that is not known "
                    f"({type(error).__name__}: {error})"
                )
                continue
            found.setdefault(one.digest, one)
    for run in runs:
        if comparison.role(run) == "factor mining" or any(loop.kind == "factor" for loop in run.loops):
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
    except FactorFileError:  # the appraisal of the file says why, where nothing else has the values
        return False


def _accepted_set(run: Run) -> _GivenSet:
    located = locate.named(str(run.log))
    digest, columns = parquet.current_digest(located.path), parquet.read_footer(located.path).columns
    accepted = [loop for loop in run.loops if loop.kind == "factor" and loop.number == located.loop]
    loop = accepted[-1] if accepted else None
    return _GivenSet(
        digest,
        (Source(located.path, digest, tuple(columns)),),
        comparison.task_of(run, loop),
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


# --- as JSON ---


def as_plain(report: Report) -> dict[str, Any]:
    """Return a report as JSON can hold it: NaN as None, days and paths as text, arrays as lists."""
    whole = dataclasses.asdict(report)
    for run, plain in zip(report.runs, whole["runs"], strict=True):
        plain |= {"role": comparison.role(run), "judged": dataclasses.asdict(comparison.judged(run))}
    whole["returns"] = [{"run": run, "loop": loop, **one} for (run, loop), one in whole["returns"].items()]
    whole["origins"] = [
        {"digest": digest, "column": column, **one} for (digest, column), one in whole["origins"].items()
    ]
    whole["comparison"] = [dataclasses.asdict(one) for one in comparison.compare(report.runs)]
    whole["tested_alike"] = comparison.tested_alike(report.runs)
    whole["judged_alike"] = comparison.judged_alike(report.runs)
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
