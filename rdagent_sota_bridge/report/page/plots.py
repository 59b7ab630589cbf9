"""The plots of the page: of loops, and of factors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rdagent_sota_bridge.report import gather
from rdagent_sota_bridge.report.factor_analysis import FactorAnalysis
from rdagent_sota_bridge.report.gather import Place, Report, Role
from rdagent_sota_bridge.report.history import Run
from rdagent_sota_bridge.report.page import drawing
from rdagent_sota_bridge.report.page.drawing import Plot
from rdagent_sota_bridge.report.page.wording import loop_number, shortened
from rdagent_sota_bridge.report.tearsheet import ROLLING_DAYS, Sheet

COLOURS = 8
"""How many colours of lines the style sheet has."""

_FEW_LOOPS = 4  # so many of a run can be known by the dashes of their lines
_DASHES = ("solid", "dash", "dot", "dashdot")
_FIRST_OF_ROLE: dict[Role, int] = {"with factors": 1, "without factors": 2, "factor mining": 3}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATES = {"type": "date"}


@dataclass(frozen=True)
class LegendEntry:
    """One entry of a legend, and the look of its lines.

    `key` is what its lines are called in the plots. `group` is the run that a loop belongs to, within which
    its label is `short`; both are empty where the lines are a run's. The best of a run is `strong`.
    """

    key: str
    label: str
    colour: int
    dash: str = "solid"
    strong: bool = False
    group: str = ""
    short: str = ""


def run_colours(runs: Sequence[Run]) -> tuple[int, ...]:
    """Return the number of each run's colour: the first of a role has that role's, others what is left."""
    taken = set(_FIRST_OF_ROLE.values())
    others = itertools.cycle([number for number in range(1, COLOURS + 1) if number not in taken])
    own = dict(_FIRST_OF_ROLE)
    return tuple(own.pop(gather.role(run), 0) or next(others) for run in runs)


# --- of loops ---


def curve_legend(
    runs: Sequence[Run], places: Sequence[Place], names: Sequence[str]
) -> tuple[LegendEntry, ...]:
    """Return the legend of some loops' curves, in their order; of each run the best by IC is drawn strongly.

    Args:
        runs: What is shown.
        places: The loops.
        names: What each run is called.
    """
    colours, found = run_colours(runs), []
    for run, of_run in itertools.groupby(places, key=lambda place: place[0]):
        group = list(of_run)
        best = gather.best(runs, group) or group[0]
        dashes = iter(_DASHES[1:] if len(group) <= _FEW_LOOPS else ["solid"] * len(group))
        for place in group:
            loop = gather.loop_at(runs, place)
            short = f"{loop_number(loop)} {shortened(loop.name, 32)}"
            dash = "solid" if place == best else next(dashes)
            key, label = f"{place[0]}-{place[1]}", f"{names[run]} · {short}"
            found.append(LegendEntry(key, label, colours[run], dash, place == best, names[run], short))
    return tuple(found)


def curves(
    report: Report, places: Sequence[Place], legend: Sequence[LegendEntry], name: str
) -> tuple[Plot, ...]:
    """Return the excess return with cost, without cost, and the drawdown of some loops, a plot each.

    Args:
        report: What is shown.
        places: The loops, all of which have returns.
        legend: Of the same loops.
        name: What the legend is called.
    """
    # The strong lines last, for they lie on top.
    drawn = sorted(zip(places, legend, strict=True), key=lambda pair: pair[1].strong)
    beyond = "sum of daily returns beyond the benchmark"
    shown = {
        "excess_with_cost": ("Cumulative excess return, with cost", f"{beyond}, less the cost of trading"),
        "excess_without_cost": ("Cumulative excess return, without cost", beyond),
        "drawdown": ("Drawdown", "of the excess return with cost, from its highest value so far"),
    }
    return tuple(
        drawing.plot(
            f"{name}-{attribute.removeprefix('excess_').replace('_', '-')}",
            title,
            unit,
            [
                drawing.curve(
                    getattr(report.returns[place], attribute),
                    report.returns[place].days,
                    drawing.colour(entry.colour),
                    2.6 if entry.strong else 1.3,
                    ".2%",
                    lowest=attribute == "drawdown",
                    name=drawing.shown(entry.label),
                    line_dash=entry.dash,
                    opacity=1.0 if entry.strong else 0.45,
                    meta={"key": entry.key},
                )
                for place, entry in drawn
            ],
            "No loop here left daily returns, so there is no curve to draw.",
            height=340 if attribute == "excess_with_cost" else 300,
            wide=attribute == "excess_with_cost",
            legend=name,
            xaxis=_DATES,
            yaxis={"tickformat": "~%"},
            hovermode="closest",
        )
        for attribute, (title, unit) in shown.items()
    )


def run_legend(runs: Sequence[Run], names: Sequence[str], kind: str) -> dict[int, LegendEntry]:
    """Return the runs that have loops of a kind (`model`, `factor`), with the look of their lines."""
    return {
        position: LegendEntry(str(position), names[position], colour, strong=True)
        for position, colour in enumerate(run_colours(runs))
        if any(loop.kind == kind for loop in runs[position].loops)
    }


def over_loops(runs: Sequence[Run], legend: dict[int, LegendEntry], name: str, kind: str) -> tuple[Plot, ...]:
    """Return metrics over the loops of runs, a plot each; a loop without a result is a gap.

    Args:
        runs: What is shown.
        legend: As `run_legend` returns it.
        name: What the legend is called.
        kind: The kind of the loops.
    """
    shown = {"IC": ".3f", "rank IC": ".3f", "annualized return": ".1%", "information ratio": ".2f"}
    most = max((len(runs[position].loops) for position in legend), default=0)
    drawn = []
    for metric, form in shown.items():
        traces = []
        for position, entry in legend.items():
            loops = [loop for loop in runs[position].loops if loop.kind == kind]
            colour = drawing.colour(entry.colour)
            traces.append(
                go.Scatter(
                    x=[order if loop.number is None else loop.number for order, loop in enumerate(loops)],
                    y=drawing.finite([gather.metric(loop, metric) for loop in loops]),
                    name=drawing.shown(entry.label),
                    mode="lines+markers",
                    line={"color": colour, "width": 1.3},
                    marker={
                        "size": 8,
                        "symbol": ["circle" if loop.accepted else "circle-open" for loop in loops],
                        "color": colour,
                        "line": {"width": 1.6, "color": colour},
                    },
                    meta={"key": entry.key},
                    hovertemplate=f"loop %{{x}}  %{{y:{form}}}",
                )
            )
        drawn.append(
            drawing.plot(
                f"{name}-{metric.replace(' ', '-')}",
                metric[0].upper() + metric[1:],
                "",
                traces,
                "No loop has this metric.",
                height=240,
                legend=name,
                xaxis={"title": {"text": "loop"}, "tickformat": "d", "dtick": 1 if most <= 12 else None},
                yaxis={"tickformat": "~%" if "%" in form else None},
                hovermode="closest",
            )
        )
    return tuple(drawn)


# --- of factors ---


def of_factor(sheet: Sheet, name: str) -> tuple[Plot, ...]:
    """Return the plots of one factor: IC over time, by month, return by quantile, rank autocorrelation.

    Args:
        sheet: Its drawing.
        name: What the plots' ids begin with.
    """
    mean = f"mean of {ROLLING_DAYS} days"
    quantiles = drawing.finite(sheet.quantile_returns) * 1e4
    signs = np.where(quantiles >= 0, "var(--plot-high)", "var(--plot-low)")
    return (
        drawing.plot(
            f"{name}-ic",
            "Rank IC over time",
            f"daily, and its mean over {ROLLING_DAYS} days",
            [
                drawing.curve(sheet.ic, sheet.days, "var(--plot-faint)", 1.0, ".3f", name="daily"),
                drawing.curve(sheet.rolling_ic, sheet.days, drawing.colour(1), 2.2, ".3f", name=mean),
            ],
            "No day of the test segment has an IC.",
            wide=True,
            height=260,
            xaxis=_DATES,
        ),
        _monthly(sheet, f"{name}-months"),
        drawing.plot(
            f"{name}-quantiles",
            "Return by quantile",
            "basis points a day beyond the day's mean; 1 holds the lowest values",
            [
                go.Bar(
                    x=list(range(1, len(quantiles) + 1)),
                    y=quantiles,
                    marker={"color": list(signs)},
                    name="",
                    hovertemplate="quantile %{x}  %{y:+.1f} bp a day<extra></extra>",
                )
            ],
            "No day of the test segment could be cut into quantiles.",
            height=240,
            xaxis={"dtick": 1},
        ),
        drawing.plot(
            f"{name}-turnover",
            "Turnover",
            "rank autocorrelation with the day before: 1 trades nothing, 0 trades all",
            [
                drawing.curve(
                    sheet.autocorrelation,
                    sheet.autocorrelation_days,
                    drawing.colour(3),
                    1.3,
                    ".3f",
                    name="rank autocorrelation",
                )
            ],
            "No two days of the test segment follow each other.",
            wide=True,
            height=220,
            xaxis=_DATES,
        ),
    )


def _monthly(sheet: Sheet, name: str) -> Plot:
    months = pd.PeriodIndex(sheet.months, freq="M")
    by_month = pd.Series(sheet.monthly_ic, index=pd.MultiIndex.from_arrays([months.year, months.month]))
    table = by_month.unstack().reindex(columns=range(1, 13)).astype(np.float32)
    years = [int(year) for year in table.index]
    most = float(table.abs().max().max()) or 1.0
    return drawing.plot(
        name,
        "Rank IC by month",
        "mean of the month's days",
        [
            drawing.heatmap(
                table.to_numpy(),
                list(table.columns),
                years,
                most,
                ".2f",
                gap=2,
                customdata=[list(_MONTHS) for _ in years],
                hovertemplate="%{customdata} %{y}  %{z:.3f}<extra></extra>",
            )
        ],
        "No month of the test segment has an IC.",
        height=max(240, 90 + 30 * len(years)),
        xaxis={
            "tickvals": list(table.columns),
            "ticktext": [month[0] for month in _MONTHS],
            "showgrid": False,
        },
        yaxis={
            "tickvals": years,
            "ticktext": [str(year) for year in years],
            "showgrid": False,
            "autorange": "reversed",
            "zeroline": False,
        },
    )


def correlations(analysis: FactorAnalysis, name: str) -> Plot:
    """Return the correlation matrix of a set.

    Args:
        analysis: The set.
        name: The plot's id.
    """
    labels = _labels(analysis.names)
    axis = {"type": "category", "dtick": 1, "showgrid": False, "zeroline": False, "tickfont": {"size": 11}}
    side = 15 * len(labels)
    matrix = drawing.heatmap(
        drawing.finite(analysis.correlation).astype(np.float32),
        labels,
        labels,
        1,
        ".1f",
        gap=1,
        hovertemplate="%{x}<br>%{y}<br>%{z:.2f}<extra></extra>",
    )
    return drawing.plot(
        name,
        "Correlation",
        "of the values of one day over instruments, mean over days",
        [matrix] if len(labels) > 1 else [],
        "There is no correlation to show: it takes two columns with values on the same days.",
        height=max(300, side + 120),
        wide=True,
        least_width=side + 180 if side > 160 else 0,
        xaxis={**axis, "tickangle": -90},
        yaxis={**axis, "autorange": "reversed"},
    )


def _labels(names: Sequence[str]) -> list[str]:
    """Return names as a category axis can hold them: short, each once.

    Plotly keeps categories as properties of an object, where a name such as `constructor` is taken: a space
    of no width comes before each.
    """
    labels: list[str] = []
    for number, name in enumerate(names):
        label = "\u200b" + drawing.shown(shortened(name, 28))
        labels.append(f"{label} ({number})" if label in labels else label)
    return labels
