"""Which lines a factor set gets in a check; and the faults that stop a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import pandas as pd

from rdagent_sota_bridge.check.figures import FactorFigures
from rdagent_sota_bridge.check.line import Line, State
from rdagent_sota_bridge.check.quality import Quality
from rdagent_sota_bridge.errors import Failure, Reason, plural, short_digest
from rdagent_sota_bridge.factor_set import panel, time_zones
from rdagent_sota_bridge.qlib_files import docker, label
from rdagent_sota_bridge.qlib_files.manifest import LEAST_SPREAD
from rdagent_sota_bridge.qlib_files.market import Market
from rdagent_sota_bridge.qlib_files.model_yaml import Task

LEAST_COVERAGE = 0.35
"""Below this share of a segment's cells a set or a factor is refused."""

GOOD_COVERAGE = 0.90
TOO_GOOD_IC = 0.2
MANY_EXTREMES = 0.01
MANY_CONSTANT_DAYS = 0.05
_SEVERAL = 3  # so many days of a weekday are no chance


def failures(quality: Quality, task: Task) -> tuple[Failure, ...]:
    """Return why a set must not be trained on: it fills too little of the market in a segment."""
    if not any(found.coverage.get("train", True) for found in quality.figures.values()):
        fix = "mine the factors over the training segment too, or set the segment to where they have values"
        train = f"{_days(task, 'train')} as training segment"
        return (Failure(Reason.NO_TRAINING_VALUE, fix, None, len(quality.figures), (train,)),)
    found = []
    for segment, share in quality.filled.items():
        days = _days(task, segment)
        if share is None:
            text = (f"{segment}: {days}",)
            found.append(Failure(Reason.NO_MARKET_DAY, _segment_fix(segment), None, None, text))
            continue
        shares = {name: at.coverage[segment] for name, at in quality.figures.items()}
        # Where the set has no rows, its factors can have no values.
        for column, filled in {None: share}.items() if share < LEAST_COVERAGE else shares.items():
            if filled is not None and filled < LEAST_COVERAGE:
                text = (f"{filled:.1%} of the {segment} segment's cells ({days})",)
                fix = _coverage_fix(segment, column)
                found.append(Failure(Reason.LOW_COVERAGE, fix, column, None, text))
    return tuple(found)


def set_lines(quality: Quality, market: Market | None, task: Task) -> list[Line]:
    """Return the lines of a set, and then one a factor."""
    return [
        _set_line(quality),
        *(
            Line("layout", "pass", f"{source.layout} ({source.path})")
            for source in quality.sources
            if source.layout
        ),
        *_choice_lines(quality),
        *_unknown_line(task),
        *(_coverage_line(name, share, task, market) for name, share in quality.filled.items()),
        *_market_lines(quality, market, task),
        *(_factor_line(name, found, quality, task) for name, found in quality.figures.items()),
        *_no_ic_line(quality, market, task),
    ]


def _set_line(quality: Quality) -> Line:
    held = quality.factors
    text = (
        f"{plural(len(held.columns), 'factor')}, {plural(held.rows, 'row')}, "
        f"{held.dates[0].date()} to {held.dates[-1].date()}"
        f", {plural(len(held.instruments), 'instrument')}, sha256:{short_digest(held.digest)}"
    )
    return Line("set", "pass", text, figures=panel.described(held))


def _choice_lines(quality: Quality) -> list[Line]:
    found = []
    if quality.left_out:
        text = f"left out by SOTA_FACTORS and SOTA_FACTORS_EXCLUDE: {_some(quality.left_out)}"
        found.append(Line("choice", "pass", text, figures={"left_out": list(quality.left_out)}))
    fix = "nothing; the one that is named first stays, and SOTA_MAX_CORRELATION=off keeps both"
    for drop in quality.dropped:
        text = f"{drop.column} is dropped: its mean daily |correlation| with {drop.kept}, which comes "
        text += f"first, is {drop.correlation:.4f}"
        found.append(Line("correlation", "warn", text, fix, asdict(drop)))
    return found


def _unknown_line(task: Task) -> list[Line]:
    """Return the line of what no check can know, for a fork may bring it when Qlib is started."""
    if not task.unknown:
        return []
    text = f"not known before a training, for nothing hands it to the YAML yet: {', '.join(task.unknown)}"
    fix = (
        "nothing; what Qlib loaded is looked at after each training, and ends the run if it lacks the factors"
    )
    return [Line("qlib data", "warn", text, fix, {"unknown": list(task.unknown)})]


def _coverage_line(segment: str, share: float | None, task: Task, market: Market | None) -> Line:
    name = f"coverage {segment}"
    if share is None:
        text = f"there is no trading day in it ({_days(task, segment)})"
        return Line(name, "fail", text, _segment_fix(segment))
    state, fix = _coverage_state(share), _coverage_fix(segment, None)
    text = f"rows for {share:.1%} of the cells ({_days(task, segment, market)})"
    return Line(name, state, text, "" if state == "pass" else fix, {"share": share})


def _coverage_state(share: float) -> State:
    return "fail" if share < LEAST_COVERAGE else "warn" if share < GOOD_COVERAGE else "pass"


def _market_lines(quality: Quality, market: Market | None, task: Task) -> list[Line]:
    """Return the lines about the set's days and instruments, against the market's."""
    if market is None and {"data folder", "market"} & set(task.unknown):
        return []
    if market is None:
        place = docker.shown(task.provider_uri)
        text = f"Qlib data is not there yet ({place}, market {task.market}): not compared with it"
        fix = "download it, or let RD-Agent do so at its first run"
        return [Line("instruments", "warn", text, fix)]
    ranges = _ranges(quality.missing_days, market.calendar.normalize())
    days = Line("missing days", "pass", "none inside the set's range", figures={"ranges": ranges})
    if ranges:
        count = plural(len(quality.missing_days), "trading day")
        text = f"no row for {count} inside the set's range: {_some(ranges)}"
        fix = "mine the factors on data that has those days"
        if weekday := _missing_weekday(quality, market):
            text = f"no {weekday} inside the set's range has a row, as where all dates are shifted by a day"
            fix = "compare a day with the source, and convert times in UTC before they become days: "
            fix += time_zones.conversion(time_zones.of_market(task.region))
        days = Line("missing days", "warn", text, fix, {"ranges": ranges})
    held, known, all_of_it = len(quality.factors.instruments), quality.in_market or 0, len(market.instruments)
    unknown = sorted(set(quality.factors.instruments) - set(market.instruments))
    text = (
        f"{known:,} of the {all_of_it:,} of market {market.name} ({market.folder}) are in the "
        f"set; not in the market: {plural(len(unknown), 'instrument')} of the set{': ' if unknown else ''}"
        f"{_some(unknown)}"
    )
    good = known >= GOOD_COVERAGE * all_of_it
    fix = "mine the factors over the market that the model YAML names, and write the codes as it does"
    fix = "" if good else f"{fix}, such as {market.instruments[0]}"
    figures = {"in_market": known, "of_market": all_of_it, "of_set": held}
    return [days, Line("instruments", "pass" if good else "warn", text, fix, figures)]


def _missing_weekday(quality: Quality, market: Market) -> str:
    """Return the one weekday of which no trading day inside the set's range has a row; empty for none."""
    first, last = quality.factors.dates[[0, -1]].normalize()
    days = market.calendar.normalize()
    there = days[(days >= first) & (days <= last)].day_name().value_counts()
    missing = quality.missing_days.day_name().value_counts()
    whole = [str(name) for name in missing.index if missing[name] == there[name]]
    return whole[0] if len(whole) == 1 and missing[whole[0]] >= _SEVERAL else ""


def _factor_line(name: str, found: FactorFigures, quality: Quality, task: Task) -> Line:
    """Return the line of one factor; a share that is as low for the whole set stands in the set's line."""
    findings: list[tuple[State, str, str]] = []
    shares = {segment: share for segment, share in found.coverage.items() if share is not None}
    for segment, share in shares.items():
        state = _coverage_state(share)
        if state not in ("pass", _coverage_state(quality.filled[segment] or 0.0)):
            text = f"fills {share:.1%} of the {segment} segment"
            findings.append((state, text, _coverage_fix(segment, name)))
    if task.is_robust:
        findings += _spread_findings(found)
    if found.constant_days > MANY_CONSTANT_DAYS * found.days:
        fix = "leave it out, unless it is meant to separate days: on such a day it ranks nothing"
        findings.append(("warn", "is constant on many days", fix))
    if found.extreme is not None and found.extreme > MANY_EXTREMES:
        findings.append(("warn", "has many extreme values", "clip or rank them where the factor is made"))
    if found.rank_ic is not None and abs(found.rank_ic) > TOO_GOOD_IC:
        fix = "look for the future in its code: --look-ahead runs it without"
        findings.append(("warn", f"has a rank IC of {found.rank_ic:+.3f}, too good for a real market", fix))
    extreme = "half of them the same" if found.extreme is None else f"{found.extreme:.2%} extreme"
    ic = (
        "not known"
        if found.rank_ic is None
        else f"{found.rank_ic:+.3f} ({plural(found.rank_ic_days, 'day')})"
    )
    figures = (
        f"coverage {', '.join(f'{segment} {share:.0%}' for segment, share in shares.items())}; "
        f"NaN {found.missing:.1%}; values {found.low:.4g} to {found.high:.4g}, {extreme}; "
        f"constant on {found.constant_days:,} of {found.days:,} days; rank IC in the test segment {ic}"
    )
    states = [state for state, _, _ in findings]
    text = "; ".join([*(text for _, text, _ in findings), figures])
    fix = "; ".join(fix for _, _, fix in findings)
    state = "fail" if "fail" in states else "warn" if states else "pass"
    return Line(f"factor {name}", state, text, fix, asdict(found))


def _spread_findings(found: FactorFigures) -> Iterator[tuple[State, str, str]]:
    """Yield what Qlib's RobustZScoreNorm loses of a factor: it adds 1e-12 to the spread, and clips at 3."""
    if found.spread is None or found.spread >= LEAST_SPREAD:
        return
    if found.spread == 0:
        text = (
            f"has one value in {found.share_of_median:.0%} of its training cells: their median absolute "
            "deviation is 0, Qlib's RobustZScoreNorm makes 1e-12 of it and clips, and of the other values "
            "little more than the sign is left"
        )
        # Of a planted alpha that is 0 below 0 the IC is 0.65 so, and 0.68 with each day's mean taken off.
        fix = "subtract each day's mean where it is made, unless its sign is what counts"
    else:
        text = (
            f"spreads too little: the median absolute deviation of its training values is {found.spread:.1e} "
            "and Qlib's RobustZScoreNorm adds 1e-12 to it, so that the model sees little or nothing of it"
        )
        fix = f"multiply it by 1e{-math.floor(math.log10(found.spread))} where it is made"
    yield "warn", text, fix


def _no_ic_line(quality: Quality, market: Market | None, task: Task) -> list[Line]:
    if market is None or task.unknown or any(found.rank_ic is not None for found in quality.figures.values()):
        return []
    text = (
        f"not known: no day of the test segment has both factors and prices for the label in {market.folder}"
    )
    fix = "download Qlib's data whole, with its features folder"
    if not label.is_known(task.label):
        text = f"not known: what is read is a return between two later days, and the label is {task.label}"
        fix = "judge by the IC of a back-test"
    return [Line("rank IC", "warn", text, fix)]


def _coverage_fix(segment: str, column: str | None) -> str:
    if column is None:
        variables = f"QLIB_MODEL_{segment.upper()}_START and _END"
        return f"set {variables} to dates that the set covers, or mine over that segment and market"
    return f"leave it out (SOTA_FACTORS_EXCLUDE={column}), or mine it over that segment too"


def _segment_fix(segment: str) -> str:
    return f"set QLIB_MODEL_{segment.upper()}_START and _END to days of Qlib's calendar"


def _ranges(days: pd.DatetimeIndex, calendar: pd.DatetimeIndex) -> list[str]:
    """Return days as ranges of the calendar, such as `2015-03-02 to 2015-03-06 (5 days)`."""
    positions = pd.Series(calendar.get_indexer(days), index=days)
    found = []
    for _, part in positions.groupby((positions.diff() != 1).cumsum()):
        first, last = part.index[0].date(), part.index[-1].date()
        found.append(str(first) if len(part) == 1 else f"{first} to {last} ({len(part)} days)")
    return found


def _days(task: Task, segment: str, market: Market | None = None) -> str:
    start, end = task.segments[segment]
    if market is not None:  # what it has no day of is not counted
        start = max(start, market.calendar[0])
        end = market.calendar[-1] if pd.isna(end) else min(end, market.calendar[-1])
    return f"{start.date()} to {'the last day' if pd.isna(end) else end.date()}"


def _some(texts: Sequence[str]) -> str:
    shown = ", ".join(texts[:5])
    return f"{shown}, … ({len(texts)} in all)" if len(texts) > 5 else shown
