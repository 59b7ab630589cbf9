"""The lines of a check, and which of them a factor set gets; and the faults that stop a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from rdagent_sota_bridge.check.figures import FactorFigures
from rdagent_sota_bridge.check.quality import Quality
from rdagent_sota_bridge.errors import BridgeError, FactorFileError, Failure, Reason
from rdagent_sota_bridge.qlib_files import docker, label
from rdagent_sota_bridge.qlib_files.market import Market
from rdagent_sota_bridge.qlib_files.model_yaml import Segment, Task

State = Literal["pass", "warn", "fail"]

LEAST_COVERAGE = 0.35
"""Below this share of a segment's cells a set or a factor is refused."""

GOOD_COVERAGE = 0.90
TOO_GOOD_IC = 0.2
MANY_EXTREMES = 0.01
MANY_CONSTANT_DAYS = 0.05

_SHOWN = 5


@dataclass(frozen=True)
class Line:
    """One line of `rdagent-sota check`.

    Attributes:
        name: What was looked at: lower case, the same in every run, such as `coverage`.
        state: How it came out.
        text: One sentence with the figures.
        fix: What to do about it; empty where it passed.
        figures: The figures behind the text, as JSON can hold them.
    """

    name: str
    state: State
    text: str
    fix: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        fix = f"; fix: {self.fix}" if self.fix else ""
        return f"{self.name}: {self.text}{fix}"


def worst(lines: Iterable[Line]) -> State:
    """Return the worst state of some lines; `pass` of none."""
    states = {line.state for line in lines}
    return "fail" if "fail" in states else "warn" if "warn" in states else "pass"


def lines(quality: Quality, market: Market | None, task: Task) -> list[Line]:
    """Return the lines of a check, those of the set first, then one a factor."""
    return [
        _set_line(quality),
        *_choice_lines(quality),
        *(_coverage_line(name, share, task) for name, share in quality.filled.items()),
        *_missing_days_lines(quality, market),
        _market_line(quality, market, task),
        *(_factor_line(name, found, quality) for name, found in quality.figures.items()),
        *_no_ic_line(quality, market, task),
    ]


def lines_of(error: BridgeError) -> list[Line]:
    """Return an error as failed lines: one a fault of a factor file, or else one."""
    if isinstance(error, FactorFileError):
        return [
            Line("set", "fail", f"{error.path}: {failure.fact}", failure.fix) for failure in error.failures
        ]
    return [Line("set", "fail", f"{error.fact} ({error.place})", error.fix)]


def failures(quality: Quality, task: Task) -> tuple[Failure, ...]:
    """Return why a set must not be trained on: it fills too little of the market in a segment."""
    train = f"{_shown(task.train)} as training segment"
    if not any(found.coverage["train"] for found in quality.figures.values()):
        fix = "mine the factors over the training segment too, or set the segment to where they have values"
        return (Failure(Reason.NO_TRAINING_VALUE, fix, None, len(quality.figures), (train,)),)
    found = [
        Failure(
            Reason.NO_MARKET_DAY, _segment_fix(name), None, None, (f"{name}: {_shown(task.segments[name])}",)
        )
        for name, share in quality.filled.items()
        if share is None
    ]
    for segment, share in quality.filled.items():
        shares = [(None, share), *((name, at.coverage[segment]) for name, at in quality.figures.items())]
        for column, filled in shares:
            if filled is not None and filled < LEAST_COVERAGE and (column is None or not _low(share)):
                text = f"{filled:.1%} of the {segment} segment's cells ({_shown(task.segments[segment])})"
                found.append(
                    Failure(Reason.LOW_COVERAGE, _coverage_fix(segment, column), column, None, (text,))
                )
    return tuple(found)


def _low(share: float | None) -> bool:
    return share is not None and share < LEAST_COVERAGE


def _set_line(quality: Quality) -> Line:
    held = quality.factors
    text = (
        f"{len(held.columns)} factor{'s' if len(held.columns) > 1 else ''}, {held.rows:,} rows, "
        f"{held.dates[0].date()} to {held.dates[-1].date()}"
        f", {len(held.instruments):,} instruments, {held.digest[:17]}"
    )
    figures = {
        "digest": held.digest,
        "columns": list(held.columns),
        "rows": held.rows,
        "start": str(held.dates[0]),
        "end": str(held.dates[-1]),
        "instruments": len(held.instruments),
    }
    return Line("set", "pass", text, figures=figures)


def _choice_lines(quality: Quality) -> list[Line]:
    found = []
    if quality.left_out:
        text = f"left out by SOTA_FACTORS and SOTA_FACTORS_EXCLUDE: {_some(quality.left_out)}"
        found.append(Line("choice", "pass", text, figures={"left_out": list(quality.left_out)}))
    for drop in quality.dropped:
        text = (
            f"{drop.column} is dropped: its mean daily |correlation| with {drop.kept}, which comes first, is "
            f"{drop.correlation:.4f}"
        )
        fix = "nothing; the one that is named first stays, and SOTA_MAX_CORRELATION=off keeps both"
        found.append(Line("correlation", "warn", text, fix, dataclasses.asdict(drop)))
    return found


def _coverage_line(segment: str, share: float | None, task: Task) -> Line:
    name, days = f"coverage {segment}", _shown(task.segments[segment])
    if share is None:
        return Line(name, "fail", f"there is no trading day in it ({days})", _segment_fix(segment))
    text = f"rows for {share:.1%} of the cells ({days})"
    state = _coverage_state(share)
    return Line(name, state, text, "" if state == "pass" else _coverage_fix(segment, None), {"share": share})


def _coverage_state(share: float) -> State:
    return "fail" if share < LEAST_COVERAGE else "warn" if share < GOOD_COVERAGE else "pass"


def _missing_days_lines(quality: Quality, market: Market | None) -> list[Line]:
    name = "missing days"
    if market is None:
        return []
    if not len(quality.missing_days):
        return [Line(name, "pass", "none inside the set's range", figures={"ranges": []})]
    ranges = _ranges(quality.missing_days, market.calendar.normalize())
    text = f"{len(quality.missing_days)} trading days inside the set's range have no row: {_some(ranges)}"
    return [Line(name, "warn", text, "mine the factors on data that has those days", {"ranges": ranges})]


def _market_line(quality: Quality, market: Market | None, task: Task) -> Line:
    if market is None:
        place = docker.shown(task.provider_uri)
        text = f"Qlib data is not there yet ({place}, market {task.market}): not compared with it"
        return Line("instruments", "warn", text, "download it, or let RD-Agent do so at its first run")
    held, known = len(quality.factors.instruments), quality.in_market or 0
    share = known / len(market.instruments)
    text = (
        f"{known:,} of the {len(market.instruments):,} of market {market.name} ({market.folder}) are in the "
        f"set; {held - known:,} instruments of the set are not in the market"
    )
    figures = {"in_market": known, "of_market": len(market.instruments), "of_set": held}
    if share >= GOOD_COVERAGE:
        return Line("instruments", "pass", text, figures=figures)
    return Line(
        "instruments", "warn", text, "mine the factors over the market that the model YAML names", figures
    )


def _factor_line(name: str, found: FactorFigures, quality: Quality) -> Line:
    """Return the line of one factor; a share that is as low for the whole set is told by the set's line."""
    findings: list[tuple[State, str, str]] = []
    shares = {segment: share for segment, share in found.coverage.items() if share is not None}
    for segment, share in shares.items():
        state = _coverage_state(share)
        if state not in ("pass", _coverage_state(quality.filled[segment] or 0.0)):
            findings.append(
                (state, f"fills {share:.1%} of the {segment} segment", _coverage_fix(segment, name))
            )
    if found.constant_days > MANY_CONSTANT_DAYS * found.days:
        fix = "leave it out, unless it is meant to tell days apart: on such a day it ranks nothing"
        findings.append(("warn", "is constant on many days", fix))
    if found.extreme is not None and found.extreme > MANY_EXTREMES:
        findings.append(("warn", "has many extreme values", "clip or rank them where the factor is made"))
    if found.rank_ic is not None and abs(found.rank_ic) > TOO_GOOD_IC:
        fix = "look for the future in its code: --look-ahead runs it without"
        findings.append(("warn", f"has a rank IC of {found.rank_ic:+.3f}, too good for a real market", fix))
    extreme = "half of them the same" if found.extreme is None else f"{found.extreme:.2%} extreme"
    ic = "not known" if found.rank_ic is None else f"{found.rank_ic:+.3f} ({found.rank_ic_days} days)"
    figures = (
        f"coverage {', '.join(f'{segment} {share:.0%}' for segment, share in shares.items())}; "
        f"NaN {found.missing:.1%}; values {found.low:.4g} to {found.high:.4g}, {extreme}; "
        f"constant on {found.constant_days:,} of {found.days:,} days; rank IC in the test segment {ic}"
    )
    return Line(
        f"factor {name}",
        max((state for state, _, _ in findings), key=("pass", "warn", "fail").index, default="pass"),
        "; ".join([*(text for _, text, _ in findings), figures]),
        "; ".join(fix for _, _, fix in findings),
        dataclasses.asdict(found),
    )


def _no_ic_line(quality: Quality, market: Market | None, task: Task) -> list[Line]:
    if market is None or any(found.rank_ic is not None for found in quality.figures.values()):
        return []
    if not label.is_known(task.label):
        text = f"not known: what is read is a return between two later days, and the label is {task.label}"
        return [Line("rank IC", "warn", text, "judge by the IC of a back-test")]
    text = (
        f"not known: no day of the test segment has both factors and prices for the label in {market.folder}"
    )
    return [Line("rank IC", "warn", text, "download Qlib's data whole, with its features folder")]


def _coverage_fix(segment: str, column: str | None) -> str:
    variables = f"QLIB_MODEL_{segment.upper()}_START and _END"
    if column is None:
        return f"set {variables} to dates that the set covers, or mine over that segment and market"
    return f"leave it out (SOTA_FACTORS_EXCLUDE={column}), or mine it over that segment too"


def _segment_fix(segment: str) -> str:
    return f"set QLIB_MODEL_{segment.upper()}_START and _END to days of Qlib's calendar"


def _ranges(days: pd.DatetimeIndex, calendar: pd.DatetimeIndex) -> list[str]:
    """Return days as ranges of the calendar, such as `2015-03-02 to 2015-03-06 (5 days)`."""
    positions = pd.Series(calendar.get_indexer(days), index=days)
    groups = (positions.diff() != 1).cumsum()
    return [
        str(part.index[0].date())
        if len(part) == 1
        else f"{part.index[0].date()} to {part.index[-1].date()} ({len(part)} days)"
        for _, part in positions.groupby(groups)
    ]


def _shown(segment: Segment) -> str:
    start, end = segment
    return f"{start.date()} to {'the last day' if pd.isna(end) else end.date()}"


def _some(texts: Sequence[str]) -> str:
    shown = ", ".join(texts[:_SHOWN])
    return f"{shown}, … ({len(texts)} in all)" if len(texts) > _SHOWN else shown
