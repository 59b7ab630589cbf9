"""What the template shows: a report's figures as words, each beside the number that it is sorted by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rdagent_sota_bridge import report as reports
from rdagent_sota_bridge.appraisal import Appraisal
from rdagent_sota_bridge.history import Loop, Run
from rdagent_sota_bridge.locate import FACTOR_FILE
from rdagent_sota_bridge.manifest import MANIFEST_FILE
from rdagent_sota_bridge.page import wording
from rdagent_sota_bridge.page.plots import run_colours
from rdagent_sota_bridge.page.wording import MISSING
from rdagent_sota_bridge.report import METRICS, Place, Report
from rdagent_sota_bridge.tearsheet import Sheet

SHORT_NAMES = {
    "IC": "IC",
    "ICIR": "ICIR",
    "rank IC": "rank IC",
    "rank ICIR": "rank ICIR",
    "annualized return": "return p.a.",
    "information ratio": "inf. ratio",
    "max drawdown": "max drawdown",
}
"""The metrics in the heads of tables."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, what it is sorted by (empty: last), and whether it is the best."""

    text: str
    order: str = ""
    best: bool = False


@dataclass(frozen=True)
class LoopRow:
    """One loop on a leaderboard: `failure` is in place of the cells of one without a result."""

    name: str
    run: str
    loop: str
    anchor: str
    accepted: str
    metrics: tuple[Cell, ...]
    others: tuple[Cell, ...]
    failure: str
    source: Loop
    colour: int


@dataclass(frozen=True)
class Tile:
    """One figure of the headline, with what it is compared to."""

    label: str
    value: str
    beside: str


@dataclass(frozen=True)
class Headline:
    """The answer to "was it worth it?"."""

    sentence: str
    rest: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class FactorRow:
    """One factor of a set: the cells of the overview, and the loop that brought it."""

    name: str
    anchor: str
    origin: reports.Origin | None
    brought_by: str
    cells: tuple[Cell, ...]
    sheet: Sheet | None


@dataclass(frozen=True)
class Proof:
    """What the manifests of one run say; all texts, for a manifest may hold anything."""

    run: str
    facts: tuple[tuple[str, str], ...]
    sources: tuple[tuple[str, str, str, str], ...]
    loops: tuple[tuple[str, ...], ...]
    columns: tuple[tuple[str, tuple[str, ...]], ...] = field(default_factory=tuple)


# --- runs ---


def run_names(report: Report) -> tuple[str, ...]:
    """Return what each run is called on the page: its role, with a number where two have the same."""
    roles = [reports.role(run) for run in report.runs]
    names = []
    for position, role in enumerate(roles):
        number = f" {roles[: position + 1].count(role)}" if roles.count(role) > 1 else ""
        names.append(f"{role}{number}")
    return tuple(names)


def run_facts(run: Run) -> dict[str, str]:
    """Return when a run was, how long its loops took, and what became of them."""
    began = [loop.started for loop in run.loops if loop.started is not None]
    seconds = [loop.seconds for loop in run.loops if loop.seconds is not None]
    accepted = sum(bool(loop.accepted) for loop in run.loops)
    without = sum(not loop.metrics for loop in run.loops)
    counts = [f"{len(run.loops)} loops", f"{accepted} accepted"]
    if without:
        counts.append(f"{without} without a result")
    return {
        "began": wording.moment(min(began, default=None)),
        "took": wording.duration(math.fsum(seconds) if seconds else None),
        "loops": ", ".join(counts),
    }


def facts(report: Report) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the facts that all runs share or differ in: market, segments, label, sets, versions."""
    tasks = [
        (task, name)
        for run, name in zip(report.runs, run_names(report), strict=True)
        for loop in run.loops
        if loop.record is not None and (task := loop.record.task) is not None
    ]
    manifests = [loop.manifest for run in report.runs for loop in run.loops if loop.manifest is not None]
    digests = [(one.digest, len(one.columns)) for one in report.appraisals]
    bases = [
        f"{_text(_at(base, 'name'))} ({len(_names(_at(base, 'features')))} features)"
        for base in (_at(told, "base_set") for told in manifests)
    ]
    versions = [_versions(told) for told in manifests]
    rows = {
        "Market": _by_run([(f"{task.market} in {task.provider_uri}", run) for task, run in tasks]),
        "Training": _by_run([(_days(task.train), run) for task, run in tasks]),
        "Validation": _by_run([(_days(task.valid), run) for task, run in tasks]),
        "Test": _by_run([(_days(task.test), run) for task, run in tasks]),
        "Label": _by_run([(task.label, run) for task, run in tasks]),
        "Factor set": [f"{digest} ({count} factor{'s' * (count != 1)})" for digest, count in digests],
        "Base set": bases,
        "Verdict on models": _by_run(_verdicts(report)),
        "Versions": versions,
    }
    return tuple((name, tuple(dict.fromkeys(values)) or (MISSING,)) for name, values in rows.items())


def _verdicts(report: Report) -> list[tuple[str, str]]:
    """Return how the models of each run were judged, with the run; nothing where its log does not tell."""
    told = []
    for run, name in zip(report.runs, run_names(report), strict=True):
        judged = reports.judged(run)
        if judged.read:
            told.append(("asked for in the form that RD-Agent reads", name))
        if judged.unread:
            text = (
                "asked for in a form that RD-Agent does not read: "
                f"none of {judged.unread} could be accepted; the LLM said yes to {judged.in_vain}"
            )
            told.append((text, name))
    return told


def _by_run(told: Sequence[tuple[str, str]]) -> list[str]:
    """Return what runs tell, each once; with the runs, where they differ."""
    runs: dict[str, dict[str, None]] = {}
    for value, run in told:
        runs.setdefault(value, {})[run] = None
    if len(runs) < 2:
        return list(runs)
    return [f"{value} ({', '.join(of_runs)})" for value, of_runs in runs.items()]


def _versions(manifest: Mapping[str, Any]) -> str:
    found: dict[str, str] = {}
    for side in ("rd_agent_side", "qlib_side"):
        told = _at(manifest, "versions", side)
        if isinstance(told, Mapping):
            found |= {str(name): str(value) for name, value in told.items()}
    wanted = ("rdagent-sota-bridge", "rdagent", "qlib", "torch", "python", "pandas", "pyarrow")
    return ", ".join(f"{name} {found[name]}" for name in wanted if name in found) or MISSING


def _days(segment: Any) -> str:
    start, end = (f"{day:%Y-%m-%d}" if day == day else "open" for day in segment)  # NaT is not itself
    return f"{start} to {end}"


# --- the headline ---


def headline(report: Report) -> Headline:
    """Return the answer in a sentence or two, and the figures of the best model."""
    ours, base = (reports.models(report, role) for role in ("with factors", "without factors"))
    best, best_base = reports.best(report, ours), reports.best(report, base)
    if best is not None and best_base is not None:
        return _compared(report, best, best_base)
    if best is not None:
        rest = "No run without the factors is among these logs, so this page can't tell what they added."
        return Headline(_best_is(report, best, "with the factors"), rest, _tiles(report, best, None))
    if best_base is not None:
        rest = "No run with the factors is among these logs."
        return Headline(_best_is(report, best_base, "without factors"), rest, _tiles(report, best_base, None))
    unknown = reports.best(report, reports.models(report, "factors unknown"))
    if unknown is not None:
        rest = "Its workspaces are gone: nothing here tells whether it was given factors."
        return Headline(_best_is(report, unknown, ""), rest, _tiles(report, unknown, None))
    return _mined(report)


def _compared(report: Report, best: Place, base: Place) -> Headline:
    value, before = (reports.metric(reports.loop_at(report, place), "IC") for place in (best, base))
    shown, shown_before = wording.correlation(value), wording.correlation(before)
    if shown == shown_before:
        sentence = f"The factors made no difference to the best model’s IC: {shown} with and without them."
    else:
        verb = "rose" if value > before else "fell"
        sentence = f"With the factors, the best model’s IC {verb} from {shown_before} to {shown}."
    compared = {one.metric: one for one in reports.comparison(report)}
    mean = compared["IC"]
    with_mean, without_mean = (wording.correlation(one) for one in (mean.mean_with, mean.mean_without))
    rest = f"The mean over loops went from {without_mean} to {with_mean}."
    if (value > before) != (mean.mean_with > mean.mean_without) and with_mean != without_mean:
        rest = f"Mind that the mean over loops went the other way, from {without_mean} to {with_mean}."
    if not reports.tested_alike(report):
        rest += " The runs were not tested on the same market, days and label: the two don’t compare."
    return Headline(sentence, rest, _tiles(report, best, base))


def _best_is(report: Report, place: Place, which: str) -> str:
    loop = reports.loop_at(report, place)
    return f"The best model {which} has an IC of {wording.correlation(reports.metric(loop, 'IC'))}.".replace(
        "  ", " "
    )


def _tiles(report: Report, best: Place, base: Place | None) -> tuple[Tile, ...]:
    tiles = []
    for name in ("IC", "information ratio", "annualized return", "max drawdown"):
        value = reports.metric(reports.loop_at(report, best), name)
        beside = ""
        if base is not None:
            before = reports.metric(reports.loop_at(report, base), name)
            beside = f"{wording.FORMS[name](before)} without factors"
        tiles.append(Tile(name[0].upper() + name[1:], wording.FORMS[name](value), beside))
    return tuple(tiles)


def _mined(report: Report) -> Headline:
    count = sum(len(one.columns) for one in report.appraisals)
    accepted = [
        (position, number)
        for position, run in enumerate(report.runs)
        for number, loop in enumerate(run.loops)
        if loop.kind == "factor" and loop.accepted and loop.metrics
    ]
    best = reports.best(report, accepted)
    if best is None:
        return Headline("No loop of these runs has a result yet.", "", ())
    what = f"{count} factor{'s' * (count != 1)}" if count else "Factors"
    sentence = (
        f"{what} accepted; the best accepted loop has an IC of "
        f"{wording.correlation(reports.metric(reports.loop_at(report, best), 'IC'))}."
    )
    rest = (
        "RD-Agent judges factors with a LightGBM of its own. No model run is among these logs, so this page "
        "can’t tell what the factors add to a model."
    )
    return Headline(sentence, rest, _tiles(report, best, None))


def best_model(report: Report) -> str:
    """Return which loop the headline's figures are of; empty without one."""
    names = run_names(report)
    for which in ("with factors", "without factors", "factors unknown"):
        best = reports.best(report, reports.models(report, which))
        if best is not None:
            loop = reports.loop_at(report, best)
            return f"{loop.name or 'unnamed'}, loop {_number(loop.number)}, {names[best[0]]}"
    return ""


# --- loops ---


def leaderboard(report: Report, kind: str) -> tuple[LoopRow, ...]:
    """Return the loops of a kind (`model`, `factor`) of all runs: the highest IC first, those without last.

    Loops that have no experiment yet stand among those that their run is for.
    """
    names, colours = run_names(report), run_colours(report)
    places = [
        (position, number)
        for position, run in enumerate(report.runs)
        for number, loop in enumerate(run.loops)
        if kind == (loop.kind if loop.kind != "unknown" else _kind_of(run))
    ]
    values = {
        place: [reports.metric(reports.loop_at(report, place), name) for name in METRICS] for place in places
    }
    best = [_greatest([values[place][at] for place in places]) for at in range(len(METRICS))]
    places.sort(key=lambda place: _rank(values[place][0]))
    return tuple(
        _loop_row(report, place, names[place[0]], colours[place[0]], values[place], best) for place in places
    )


def _kind_of(run: Run) -> str:
    return "model" if run.command == "fin_model" else "factor"


def _greatest(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return max(known) if len(known) > 1 else math.nan  # of one value there is no best


def _rank(value: float) -> float:
    return -value if math.isfinite(value) else math.inf


def _loop_row(
    report: Report, place: Place, run: str, colour: int, values: Sequence[float], best: Sequence[float]
) -> LoopRow:
    loop = reports.loop_at(report, place)
    metrics = tuple(
        Cell(wording.FORMS[name](value), _order(value), value == greatest)
        for name, value, greatest in zip(METRICS, values, best, strict=True)
    )
    others = (
        Cell(MISSING if loop.features is None else str(loop.features), _order(loop.features)),
        Cell(wording.duration(loop.seconds), _order(loop.seconds)),
        Cell(MISSING if loop.cached is None else "yes" if loop.cached else "no"),
    )
    failure = "" if loop.metrics else loop.failure or "The loop left no result."
    accepted = {True: "yes", False: "no", None: MISSING}[loop.accepted]
    anchor = f"loop-{place[0]}-{place[1]}"
    name = loop.name or "unnamed"
    return LoopRow(name, run, _number(loop.number), anchor, accepted, metrics, others, failure, loop, colour)


def _order(value: float | int | None) -> str:
    return "" if value is None or not math.isfinite(value) else repr(float(value))


def _number(number: int | None) -> str:
    return "?" if number is None else str(number)


def comparison(report: Report) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the rows of the table of models without against with factors: best, mean, differences."""
    rows = []
    for one in reports.comparison(report):
        form = wording.FORMS[one.metric]
        rows.append(
            (
                one.metric,
                (
                    form(one.best_without),
                    form(one.best_with),
                    wording.difference(one.metric, one.best_with - one.best_without),
                    form(one.mean_without),
                    form(one.mean_with),
                    wording.difference(one.metric, one.mean_with - one.mean_without),
                ),
            )
        )
    return tuple(rows)


def counted(report: Report) -> str:
    """Return over how many loops the comparison is, and what follows from that; empty without one."""
    compared = reports.comparison(report)
    if not compared:
        return ""
    ours = max(one.loops_with for one in compared)
    base = max(one.loops_without for one in compared)
    told = f"Results are of {_loops(ours)} with the factors and {base} without"
    places = [*reports.models(report, "with factors"), *reports.models(report, "without factors")]
    again = len(places) - ours - base
    if again:
        told += f"; {_loops(again)} without a new result (cached, or no number) not counted"
    luck = " The best of more tries is the higher by luck alone: the means compare better."
    return f"{told}.{luck if ours != base else ''}{_widths(report)}"


def _widths(report: Report) -> str:
    """Return how many features the models on each side had: the base sets can differ too."""
    sides = []
    for which in ("with factors", "without factors"):
        loops = (reports.loop_at(report, place) for place in reports.models(report, which))
        sides.append(sorted({loop.features for loop in loops if loop.features is not None}))
    if not all(sides):
        return ""
    ours, base = (" or ".join(map(str, widths)) for widths in sides)
    return f" Models had {ours} features with the factors and {base} without."


def _loops(count: int) -> str:
    return f"{count} loop{'s' * (count != 1)}"


def without_returns(report: Report, kind: str) -> str:
    """Return which loops with results left no daily returns, so that their curves are missing; or nothing."""
    names = run_names(report)
    missing = [
        f"{names[position]} loop {_number(loop.number)}"
        for position, run in enumerate(report.runs)
        for number, loop in enumerate(run.loops)
        if loop.kind == kind and loop.metrics and (position, number) not in report.returns
    ]
    return ", ".join(missing)


# --- factors ---

FACTOR_HEADS = (
    "mean rank IC",
    "ICIR",
    "t-statistic",
    "top − bottom",
    "autocorrelation",
    "coverage",
)
"""The columns of a set's overview."""


def factor_rows(report: Report, appraisal: Appraisal, position: int) -> tuple[FactorRow, ...]:
    """Return the overview of a set, a row for each factor, in the set's order.

    Args:
        report: What is shown.
        appraisal: The set.
        position: Its position in the report.
    """
    sheets = {sheet.name: sheet for sheet in appraisal.sheets}
    names = {run.log: name for run, name in zip(report.runs, run_names(report), strict=True)}
    figures = {name: _figures(sheets[name]) for name in appraisal.columns if name in sheets}
    # A factor whose IC is negative is as good as its opposite.
    strongest = [_greatest([abs(values[at]) for values in figures.values()]) for at in (0, 1)]
    rows = []
    for number, column in enumerate(appraisal.columns):
        origin = report.origins.get((appraisal.digest, column))
        brought_by = ""
        if origin is not None:
            brought_by = f"{names.get(origin.log, origin.log.name)}, loop {_number(origin.loop)}"
        cells: tuple[Cell, ...] = (Cell(MISSING),) * len(FACTOR_HEADS)
        if column in figures:
            values = figures[column]
            texts = (
                wording.correlation(values[0]),
                wording.ratio(values[1]),
                wording.ratio(values[2]),
                wording.basis_points(values[3]),
                wording.correlation(values[4]),
                wording.percent(values[5]),
            )
            cells = tuple(
                Cell(text, _order(value), at < 2 and abs(value) == strongest[at])
                for at, (text, value) in enumerate(zip(texts, values, strict=True))
            )
        anchor = f"factor-{position}-{number}"
        rows.append(FactorRow(column, anchor, origin, brought_by, cells, sheets.get(column)))
    return tuple(rows)


def _figures(sheet: Sheet) -> tuple[float, ...]:
    quantiles = np.asarray(sheet.quantile_returns, dtype=np.float64)
    spread = float(quantiles[-1] - quantiles[0]) if len(quantiles) > 1 else math.nan
    return (
        sheet.mean_ic,
        sheet.icir,
        sheet.t_statistic,
        spread,
        sheet.mean_autocorrelation,
        sheet.coverage,
    )


# --- proof ---


def proofs(report: Report) -> tuple[Proof, ...]:
    """Return what the manifests of each run with models say."""
    return tuple(
        _proof(run, name)
        for run, name in zip(report.runs, run_names(report), strict=True)
        if any(loop.kind == "model" for loop in run.loops)
    )


def _proof(run: Run, name: str) -> Proof:
    facts: dict[str, list[str]] = {}
    sources: dict[tuple[str, str, str, str], None] = {}
    columns: dict[tuple[str, ...], list[str]] = {}
    rows = []
    for loop in run.loops:
        if loop.kind != "model" or loop.manifest is None:
            continue
        told = loop.manifest
        factor_set = _at(told, "factor_set")
        described = {
            "Digest of the set": _at(factor_set, "digest"),
            "Rows": _at(factor_set, "rows"),
            "Instruments": _at(factor_set, "instruments"),
            "First day": _at(factor_set, "start"),
            "Last day": _at(factor_set, "end"),
            "Base set": _at(told, "base_set", "name"),
            "Digest of the base set": _at(told, "base_set", "digest"),
            "Gave way to mined columns": ", ".join(_names(_at(told, "base_set", "replaced_by_mined")))
            or "none",
        }
        for fact, value in described.items():
            facts.setdefault(fact, []).append(_count(value))
        for one in _at(factor_set, "sources") or [factor_set]:
            mined = (
                f"{_text(_at(one, 'log'))}, loop {_text(_at(one, 'loop'))}" if _at(one, "log") else MISSING
            )
            names = ", ".join(_names(_at(one, "columns")))
            sources[_text(_at(one, "path")), _text(_at(one, "digest")), mined, names or MISSING] = None
        loaded = _names(_at(told, "qlib_loaded", "columns"))
        if loaded:
            columns.setdefault(loaded, []).append(_number(loop.number))
        empty = _names(_at(told, "qlib_loaded", "columns_without_training_values"))
        rows.append(
            (
                _number(loop.number),
                loop.name,
                str(len(loaded)) if loaded else MISSING,
                _text(_at(told, "qlib_loaded", "num_features")),
                ", ".join(empty) or ("none" if loaded else MISSING),
                "RD-Agent’s cache" if _at(told, "from_cache") is True else "training",
                _text(_at(factor_set, "stored", "placed_as")),
                MISSING if loop.workspace is None else str(loop.workspace / MANIFEST_FILE),
            )
        )
    return Proof(
        name,
        tuple((fact, "; ".join(dict.fromkeys(values))) for fact, values in facts.items()),
        tuple(sources),
        tuple(rows),
        tuple((", ".join(loops), names) for names, loops in columns.items()),
    )


PROOF_HEADS = (
    "loop",
    "model",
    "columns loaded",
    "network’s width",
    "without training values",
    "result from",
    f"{FACTOR_FILE} placed as",
    "manifest",
)
"""The columns of a proof's loops."""


def _at(told: Any, *names: str) -> Any:
    """Return an entry of a manifest; None where it is missing, or where something else is in its place."""
    for name in names:
        told = told.get(name) if isinstance(told, Mapping) else None
    return told


def _names(told: Any) -> tuple[str, ...]:
    return tuple(map(str, told)) if isinstance(told, (list, tuple, Mapping)) else ()


def _text(told: Any) -> str:
    return MISSING if told is None else str(told)


def _count(told: Any) -> str:
    return f"{told:,}" if isinstance(told, int) and not isinstance(told, bool) else _text(told)
