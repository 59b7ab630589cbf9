"""The tables of the page, as rows of plain cells: one macro of the template writes them all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, repeat
from typing import Any

from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files.manifest import MANIFEST_FILE
from rdagent_sota_bridge.report import ablation, gather
from rdagent_sota_bridge.report.daily_ic import DailyIC
from rdagent_sota_bridge.report.factor_analysis import FactorAnalysis
from rdagent_sota_bridge.report.gather import METRICS, Place, Report
from rdagent_sota_bridge.report.history import Loop, Run
from rdagent_sota_bridge.report.page import wording
from rdagent_sota_bridge.report.page.plots import run_colours
from rdagent_sota_bridge.report.page.wording import (
    CORRELATION,
    FORMS,
    MISSING,
    PERCENT,
    RATIO,
    counted,
    figure,
    loop_number,
    words,
)
from rdagent_sota_bridge.report.statistics import Estimate, estimate, false_discovery_rates
from rdagent_sota_bridge.report.trials import YEAR


@dataclass(frozen=True)
class Cell:
    """One cell of a table, or the head of a column, whose classes `css` are those of all its cells.

    `order` is what the column is sorted by (empty: last); None where that is the text. `link` is the id on
    this page that it leads to, `below` a second, smaller line, `colour` the number of a dot's colour.
    """

    text: str
    order: str | None = None
    best: bool = False
    css: str = ""
    link: str = ""
    below: str = ""
    colour: int = 0
    span: int = 1


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows."""

    caption: str
    heads: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False


def _heads(texts: Iterable[str], *css: str) -> list[Cell]:
    """Return the heads of a table; of those past the classes that are given, each has the last one's."""
    return [Cell(text, css=one) for text, one in zip(texts, chain(css, repeat(css[-1])), strict=False)]


def _answer(value: bool | None) -> Cell:
    return Cell(MISSING if value is None else words.answers[value])


def _number(value: float | None, text: str, best: bool = False, below: str = "") -> Cell:
    """Return a cell that is sorted by a number, and last without one."""
    order = "" if value is None or not math.isfinite(value) else repr(float(value))
    return Cell(text, order, best, below=below)


def _error(metric: str, daily: DailyIC | None) -> str:
    """Return half of the 95 % interval of a mean over days, as text; empty for a metric that is none."""
    if metric not in ("IC", "rank IC"):
        return ""
    series = None if daily is None else daily.ic if metric == "IC" else daily.rank_ic
    return f"± {figure(None if series is None else estimate(series.to_frame()).error, FORMS[metric])}"


def _greatest(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return max(known) if len(known) > 1 else math.nan  # of one value there is no best


# --- runs and loops ---


def runs_table(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """Return what each run was, when, how long its loops took, and what became of them."""
    rows = []
    for run, name, colour in zip(runs, names, run_colours(runs), strict=True):
        began = min((loop.started for loop in run.loops if loop.started is not None), default=None)
        seconds = [loop.seconds for loop in run.loops if loop.seconds is not None]
        without = sum(not loop.metrics for loop in run.loops)
        accepted = sum(bool(loop.accepted) for loop in run.loops)
        counts = words.run_counts.format(loops=counted(len(run.loops), words.loops), accepted=accepted)
        counts += words.without_result.format(without) * bool(without)
        took = wording.duration(math.fsum(seconds) if seconds else None)
        texts = (run.command, counts, wording.moment(began), took, str(run.log))
        rows.append([Cell(name, colour=colour), *map(Cell, texts)])
    heads = _heads(words.runs_heads, *["left"] * 4, "", "left path")
    return Table(words.runs, heads, rows)


def loops_of(runs: Sequence[Run], kind: str) -> list[Place]:
    """Return the loops of a kind (`model`, `factor`) of all runs: the highest IC first, those without last.

    Loops that have no experiment yet stand among those that their run is for.
    """

    def rank(place: Place) -> float:
        value = gather.metric(gather.loop_at(runs, place), "IC")
        return -value if math.isfinite(value) else math.inf

    places = []
    for position, run in enumerate(runs):
        aim = "model" if run.command == "fin_model" else "factor"
        kinds = [aim if loop.kind == "unknown" else loop.kind for loop in run.loops]
        places += [(position, number) for number, one in enumerate(kinds) if one == kind]
    return sorted(places, key=rank)


def leaderboard(report: Report, names: Sequence[str], kind: str) -> Table:
    """Return the loops of a kind of all runs, a row each; one without a result says why."""
    runs = report.runs
    loops = {place: gather.loop_at(runs, place) for place in loops_of(runs, kind)}
    values = [[gather.metric(loop, name) for name in METRICS] for loop in loops.values()]
    best = [_greatest(column) for column in zip(*values, strict=True)]
    of_models, colours = kind == "model", run_colours(runs)
    named, *others = words.leaderboard_heads[kind]
    metric_heads = [words.short_metrics.get(name, words.metrics[name]) for name in METRICS]
    css = [*[""] * (1 + len(metric_heads)), *["left"] * (1 + of_models), ""]
    heads = _heads([named, *metric_heads, *others], *css)
    rows = []
    for ((run, number), loop), metrics in zip(loops.items(), values, strict=True):
        where, link = wording.place(names[run], loop.number), f"loop-{run}-{number}"
        row = [Cell(wording.loop_name(loop), link=link, below=where, colour=colours[run])]
        if loop.metrics:
            row += [
                _number(
                    value,
                    figure(value, FORMS[name]),
                    value == greatest,
                    _error(name, report.daily.get((run, number))) if math.isfinite(value) else "",
                )
                for name, value, greatest in zip(METRICS, metrics, best, strict=True)
            ]
            row.append(Cell(words.accepted, css="accepted") if loop.accepted else _answer(loop.accepted))
            row += [Cell(loop.model_type or MISSING)] * of_models
            row.append(_number(loop.features, MISSING if loop.features is None else str(loop.features)))
            row.append(_number(loop.seconds, wording.duration(loop.seconds)))
            row.append(_answer(loop.cached))
        else:
            why = wording.shortened(why_no_result(loop), 300)
            row.append(Cell(words.no_result.format(why), css="left failure", span=len(heads) - 1))
        rows.append(row)
    return Table(words.leaderboard_caption[kind], heads, rows, sortable=True)


def why_no_result(loop: Loop) -> str:
    """Return why a loop has no result; empty where it has one."""
    return "" if loop.metrics else loop.failure or words.left_no_result


def pairs_table(report: Report, names: Sequence[str]) -> Table:
    """Return each model beside the same without the mined columns, and the mean of several loops."""

    def shown(said: ablation.Difference | None) -> list[Cell]:
        return [_signed(said.ic, "+.3f"), _signed(said.excess, "+.1%", YEAR)] if said else [Cell(MISSING)] * 2

    rows = []
    for (run, number), of_loop in groupby(report.pairs, lambda pair: pair.place):
        loop = report.runs[run].loops[number]
        named = wording.place(names[run], loop.number)
        for pair in of_loop:
            seed = "" if pair.seed is None else f" · {words.seed.format(pair.seed)}"
            row = [Cell(wording.loop_name(loop), link=f"loop-{run}-{number}", below=named + seed)]
            for one in (pair.ours, pair.base):
                value = figure(one.metrics.get(METRICS["IC"]), FORMS["IC"])
                row.append(Cell(value, below=_error("IC", one.daily)))
            rows.append([*row, *shown(ablation.difference([pair]))])
        ic, annual = (
            ablation.over_seeds(report.pairs, (run, number), METRICS[name])
            for name in ("IC", "annualized return")
        )
        if ic is not None:
            cells = [_spread(one, FORMS["IC"]) for one in (ic.ours, ic.base)]
            cells += [_spread(ic.difference, "+.3f"), _spread(annual.difference if annual else None, "+.1%")]
            rows.append([Cell(words.mean_of_seeds.format(ic.seeds), below=named), *cells])
    together = ablation.difference(report.pairs)
    if together is not None and together.ic.loops > 1:
        named = words.mean_over_loops.format(together.ic.loops)
        rows.append([Cell(named), Cell(""), Cell(""), *shown(together)])
    return Table(words.adds_caption, _heads(words.adds_heads, *[""] * 3, "difference"), rows)


def _signed(one: Estimate | None, form: str, times: int = 1) -> Cell:
    """Return a difference with half of its 95 % interval."""
    if one is None:
        return Cell(MISSING)
    return Cell(figure(one.mean * times, form), below=f"± {figure(one.error * times, form.lstrip('+'))}")


def _spread(one: ablation.Spread | None, form: str) -> Cell:
    """Return a mean over seeds with its standard deviation."""
    if one is None:
        return Cell(MISSING)
    return Cell(figure(one.mean, form), below=words.sd.format(figure(one.deviation, form.lstrip("+"))))


# --- factors ---

# Mean rank IC, ICIR, t-statistic, false-discovery rate, top less bottom, autocorrelation, coverage.
_FACTOR_FORMS = (CORRELATION, RATIO, RATIO, PERCENT, "+.1f", CORRELATION, PERCENT)


def factor_table(analysis: FactorAnalysis, position: int, brought_by: Mapping[str, str]) -> Table:
    """Return the overview of a set, a row for each factor, in the set's order.

    Args:
        analysis: The set.
        position: Its position in the report.
        brought_by: By factor, which loop of which run brought it.
    """
    rates = false_discovery_rates(
        [sheet.t_statistic for sheet in analysis.sheets], [len(sheet.ic) for sheet in analysis.sheets]
    )
    known = {
        sheet.name: (
            sheet.mean_ic,
            sheet.icir,
            sheet.t_statistic,
            rate,
            float(sheet.quantile_returns[-1] - sheet.quantile_returns[0]) * 1e4,
            sheet.mean_autocorrelation,
            sheet.coverage,
        )
        for sheet, rate in zip(analysis.sheets, rates, strict=True)
    }
    # A factor whose IC is negative is as good as its opposite.
    strongest = [_greatest([abs(values[at]) for values in known.values()]) for at in (0, 1)]
    rows = []
    for number, column in enumerate(analysis.columns):
        values = known.get(column, (math.nan,) * len(_FACTOR_FORMS))
        cells = [
            _number(value, figure(value, form), at < 2 and abs(value) == strongest[at])
            for at, (value, form) in enumerate(zip(values, _FACTOR_FORMS, strict=True))
        ]
        named = Cell(column, link=f"factor-{position}-{number}")
        rows.append([named, *cells, Cell(brought_by.get(column, MISSING))])
    heads = _heads(words.set_heads, *[""] * 8, "left")
    return Table(words.set_caption, heads, rows, sortable=True)


# --- proof ---


def sources_table(run: Run) -> Table:
    """Return the files of the sets that the manifests of a run name, each once."""
    rows: dict[tuple[Cell, ...], None] = {}
    for loop in run.loops:
        factor_set = entry(loop.manifest, "factor_set")
        listed = entry(factor_set, "sources")
        for one in listed if isinstance(listed, list) and listed else [factor_set]:
            if entry(one, "path") is not None:
                mined = wording.place(text(entry(one, "log")), text(entry(one, "loop")))
                columns = ", ".join(names_in(entry(one, "columns"))) or MISSING
                digest = text(entry(one, "digest"))
                cells = (text(entry(one, "path")), digest, mined if entry(one, "log") else MISSING, columns)
                rows[tuple(map(Cell, cells))] = None
    return Table(words.sources, _heads(words.sources_heads, "left path"), list(rows))


def loaded_table(run: Run) -> Table:
    """Return what Qlib loaded in each model loop of a run, as the manifests say."""
    rows = []
    for loop in run.loops:
        if loop.kind != "model" or loop.manifest is None:
            continue
        found = entry(loop.manifest, "qlib_loaded")
        loaded = names_in(entry(found, "columns"))
        empty = names_in(entry(found, "columns_without_training_values"))
        cells = (
            str(len(loaded)) if loaded else MISSING,
            text(entry(found, "num_features")),
            ", ".join(empty) or (words.none if loaded else MISSING),
            text(entry(loop.manifest, "factor_set", "stored", "placed_as")),
            MISSING if loop.workspace is None else str(loop.workspace / MANIFEST_FILE),
        )
        rows.append([Cell(loop.name, below=words.loop_number.format(loop_number(loop))), *map(Cell, cells)])
    texts = (head.format(FACTOR_FILE) for head in words.loaded_heads)
    heads = _heads(texts, *[""] * 3, *["left"] * 2, "left path")
    return Table(words.loaded, heads, rows)


def entry(manifest: Any, *names: str) -> Any:
    """Return an entry of a manifest; None where it is missing, or where something else is in its place."""
    for name in names:
        manifest = manifest.get(name) if isinstance(manifest, Mapping) else None
    return manifest


def names_in(value: Any) -> tuple[str, ...]:
    """Return the names in a list or a mapping of a manifest; none where it holds something else."""
    return tuple(map(str, value)) if isinstance(value, (list, tuple, Mapping)) else ()


def text(value: Any) -> str:
    """Return a value of a manifest as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return MISSING if value is None else str(value)
