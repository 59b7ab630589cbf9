"""The plots of the page, of loops and of factors.

Plotly's JSON holds names of CSS variables, and `page.js` puts the colours in. What has no points is no plot,
but a sentence that says so.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rdagent_sota_bridge.report import gather
from rdagent_sota_bridge.report.factor_analysis import FactorAnalysis
from rdagent_sota_bridge.report.gather import Report, Role
from rdagent_sota_bridge.report.history import Run
from rdagent_sota_bridge.report.page.wording import (
    CORRELATION,
    FORMS,
    PERCENT,
    loop_number,
    shortened,
    words,
)
from rdagent_sota_bridge.report.tearsheet import ROLLING_DAYS, Sheet

COLOURS = 8
"""How many colours of lines the style sheet has."""

MOST_POINTS = 900
"""A curve has no more points than a wide screen has pixels for it."""

_FEW_LOOPS = 4  # so many of a run can be known by the dashes of their lines
_DASHES = ("solid", "dash", "dot", "dashdot")
_FIRST_OF_ROLE: dict[Role, int] = {"with factors": 1, "without factors": 2, "factor mining": 3}
_BARE = {"showgrid": False, "zeroline": False}
_DATES = {"type": "date"}
_AXIS = {
    "gridcolor": "var(--plot-grid)",
    "zerolinecolor": "var(--plot-zero)",
    "linecolor": "var(--plot-grid)",
    "automargin": True,
    "ticks": "",
}
_HOVER = {"bgcolor": "var(--plot-label)", "bordercolor": "var(--plot-grid)"}
_LAYOUT = {
    "template": go.layout.Template(),
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"color": "var(--plot-muted)", "size": 12},
    "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
    "showlegend": False,
    "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "var(--plot-zero)", "activecolor": "var(--plot-text)"},
    "hoverlabel": {"namelength": -1, "font": {"color": "var(--plot-text)", "size": 12}, **_HOVER},
}


@dataclass(frozen=True)
class Plot:
    """One plot, or the sentence `missing` that stands in its place where `figure`, plotly's JSON, is empty.

    `legend` names the legend that shows and hides its lines. It scrolls in its box where there are fewer
    pixels than `least_width`.
    """

    id: str
    title: str
    unit: str
    figure: str
    missing: str
    height: int = 300
    legend: str = ""
    wide: bool = False
    least_width: int = 0


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


# --- how a plot is drawn ---


def _plot(
    id_: str,
    texts: Sequence[str],
    traces: Sequence[Any],
    *,
    xaxis: dict[str, Any] = _DATES,
    yaxis: dict[str, Any] | None = None,
    hovermode: str = "x",
    **others: Any,
) -> Plot:
    """Return a plot with the layout that all have, of those traces that have a number.

    `texts` are its title, its unit, and the sentence in its place where there is none.
    """
    title, unit, missing = texts
    drawn = [one for one in traces if np.isfinite(one.z if isinstance(one, go.Heatmap) else one.y).any()]
    axes = {
        "xaxis": {**_AXIS, **_BARE, **xaxis},
        "yaxis": {**_AXIS, "zeroline": True, **(yaxis or {})},
    }
    layout = {**_LAYOUT, **axes, "hovermode": hovermode}
    text = str(go.Figure(drawn, layout).to_json()) if drawn else ""
    for sign in "<>&\u2028\u2029":  # JSON that means the same, and that no HTML parser takes for markup
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Plot(id_, title, unit, text, missing, **others)


def _finite(values: Any) -> Any:
    """Return values as an array that has NaN for all that is no number."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def _text(text: str) -> str:
    """Return a text that plotly shows as it is: it knows tags (`<b>`, `<a href>`) and entities of its own."""
    return html.escape(" ".join(text.split()), quote=False)


def _curve(
    values: Any,
    days: pd.DatetimeIndex,
    colour: str,
    width: float,
    form: str,
    lowest: bool = False,
    **more: Any,
) -> Any:
    """Return a line over days, thinned to `MOST_POINTS`: of each group its last, or its lowest, value."""
    values = _finite(values)
    groups = min(len(values), MOST_POINTS)
    starts = np.arange(groups) * len(values) // max(groups, 1)
    ends = np.append(starts[1:], len(values))[:groups] - 1
    return go.Scatter(
        # Milliseconds since 1970, which a date axis takes too, and which are shorter than dates.
        x=days[ends].values.astype("datetime64[ms]").astype(np.float64),
        y=(np.fmin.reduceat(values, starts) if lowest and groups else values[ends]).astype(np.float32),
        mode="lines",
        line={"color": f"var(--plot-{colour})", "width": width},
        hovertemplate=f"%{{x|%Y-%m-%d}}  %{{y:{form}}}",
        **more,
    )


def _heatmap(values: Any, x: Any, y: Any, most: float, form: str, gap: int, **more: Any) -> Any:
    """Return a map of values from `-most` to `most`, blue above zero and orange below."""
    font = {"size": 11, "color": "var(--plot-muted)"}
    return go.Heatmap(
        z=_finite(values).astype(np.float32),
        x=x,
        y=y,
        zmin=-most,
        zmax=most,
        xgap=gap,
        ygap=gap,
        hoverongaps=False,
        colorscale=[[0, "var(--plot-low)"], [0.5, "var(--plot-middle)"], [1, "var(--plot-high)"]],
        colorbar={"thickness": 8, "outlinewidth": 0, "tickformat": form, "nticks": 5, "tickfont": font},
        **more,
    )


# --- of loops ---


def run_colours(runs: Sequence[Run]) -> tuple[int, ...]:
    """Return the number of each run's colour: the first of a role has that role's, others what is left."""
    own = dict(_FIRST_OF_ROLE)
    others = itertools.cycle(sorted({*range(1, COLOURS + 1)} - {*own.values()}))
    return tuple(own.pop(gather.role(run), 0) or next(others) for run in runs)


def curves(report: Report, names: Sequence[str], kind: str) -> tuple[list[LegendEntry], list[Plot]]:
    """Return the excess return with and without cost, and the drawdown, of the loops of a kind.

    Args:
        report: What is shown.
        names: What each run is called.
        kind: `model` or `factor`.

    Returns:
        The legend, an entry for each loop with daily returns (the best of a run is strong); and the plots.
    """
    runs, colours, legend = report.runs, run_colours(report.runs), {}
    places = sorted(place for place in report.returns if gather.loop_at(runs, place).kind == kind)
    for run, of_run in itertools.groupby(places, key=lambda place: place[0]):
        group = list(of_run)
        best = gather.best(runs, group) or group[0]
        dashes = iter(_DASHES[1:] if len(group) <= _FEW_LOOPS else ["solid"] * len(group))
        for place in group:
            loop = gather.loop_at(runs, place)
            short = f"{loop_number(loop)} {shortened(loop.name, 32)}"
            dash = "solid" if place == best else next(dashes)
            key, label = f"{place[0]}-{place[1]}", f"{names[run]} · {short}"
            legend[place] = LegendEntry(key, label, colours[run], dash, place == best, names[run], short)
    plots = []
    for field, texts in words.curve_plots.items():
        wide = field == "excess_with_cost"
        traces = []
        # The strong lines last, for they lie on top.
        for place, entry in sorted(legend.items(), key=lambda pair: pair[1].strong):
            returns, width = report.returns[place], 2.6 if entry.strong else 1.3
            more = {"name": _text(entry.label), "line_dash": entry.dash, "meta": {"key": entry.key}}
            values, lowest = getattr(returns, field), field == "drawdown"
            traces.append(_curve(values, returns.days, str(entry.colour), width, ".2%", lowest, **more))
        plots.append(
            _plot(
                f"{kind}-curves-{field.removeprefix('excess_').replace('_', '-')}",
                [*texts, words.no_curve],
                traces,
                height=340 if wide else 300,
                wide=wide,
                legend=f"{kind}-curves",
                yaxis={"tickformat": "~%"},
                hovermode="closest",
            )
        )
    return list(legend.values()), plots


def over_loops(runs: Sequence[Run], names: Sequence[str], kind: str) -> tuple[list[LegendEntry], list[Plot]]:
    """Return metrics over the loops of a kind, with the legend of the runs; a loop without a result is a gap.

    Args:
        runs: What is shown.
        names: What each run is called.
        kind: `model` or `factor`.
    """
    loops_of = {at: [loop for loop in run.loops if loop.kind == kind] for at, run in enumerate(runs)}
    colours = run_colours(runs)
    legend = {
        at: LegendEntry(str(at), names[at], colours[at], strong=True)
        for at, loops in loops_of.items()
        if loops
    }
    most = max((len(runs[at].loops) for at in legend), default=0)
    plots = []
    for metric in ("IC", "rank IC", "annualized return", "information ratio"):
        traces, title = [], words.metrics[metric]
        for at, entry in legend.items():
            loops, colour = loops_of[at], f"var(--plot-{entry.colour})"
            symbols = ["circle" if loop.accepted else "circle-open" for loop in loops]
            line = {"width": 1.6, "color": colour}
            traces.append(
                go.Scatter(
                    x=[order if loop.number is None else loop.number for order, loop in enumerate(loops)],
                    y=_finite([gather.metric(loop, metric) for loop in loops]),
                    name=_text(entry.label),
                    mode="lines+markers",
                    line={"color": colour, "width": 1.3},
                    marker={"size": 8, "symbol": symbols, "color": colour, "line": line},
                    meta={"key": entry.key},
                    hovertemplate=f"{words.loop} %{{x}}  %{{y:{FORMS[metric]}}}",
                )
            )
        plots.append(
            _plot(
                f"{kind}-loops-{metric.replace(' ', '-')}",
                (title[0].upper() + title[1:], "", words.no_metric),
                traces,
                height=240,
                legend=f"{kind}-loops",
                xaxis={"title": {"text": words.loop}, "tickformat": "d", "dtick": 1 if most <= 12 else None},
                yaxis={"tickformat": "~%" if FORMS[metric] == PERCENT else None},
                hovermode="closest",
            )
        )
    return list(legend.values()), plots


# --- of factors ---


def of_factor(sheet: Sheet, name: str) -> list[Plot]:
    """Return the plots of one factor: IC over time, by month, return by quantile, rank autocorrelation.

    Args:
        sheet: Its figures.
        name: What the plots' ids begin with.
    """
    daily, mean = words.daily, words.mean_of_days.format(ROLLING_DAYS)
    quantiles = _finite(sheet.quantile_returns) * 1e4
    signs = np.where(quantiles >= 0, "var(--plot-high)", "var(--plot-low)")
    bars = go.Bar(
        x=list(range(1, len(quantiles) + 1)),
        y=quantiles,
        marker={"color": list(signs)},
        name="",
        hovertemplate=f"{words.quantile} %{{x}}  %{{y:+.1f}} {words.basis_points}<extra></extra>",
    )
    days, turnover = sheet.autocorrelation_days, sheet.autocorrelation
    return [
        _plot(
            f"{name}-ic",
            [text.format(days=ROLLING_DAYS) for text in words.factor_plots["ic"]],
            [
                _curve(sheet.ic, sheet.days, "faint", 1.0, CORRELATION, name=daily),
                _curve(sheet.rolling_ic, sheet.days, "1", 2.2, CORRELATION, name=mean),
            ],
            wide=True,
            height=260,
        ),
        _monthly(sheet, f"{name}-months"),
        _plot(
            f"{name}-quantiles",
            words.factor_plots["quantiles"],
            [bars],
            height=240,
            xaxis={"dtick": 1},
        ),
        _plot(
            f"{name}-turnover",
            words.factor_plots["turnover"],
            [_curve(turnover, days, "3", 1.3, CORRELATION, name=words.autocorrelation)],
            wide=True,
            height=220,
        ),
    ]


def _monthly(sheet: Sheet, name: str) -> Plot:
    months = pd.PeriodIndex(sheet.months, freq="M")
    by_month = pd.Series(sheet.monthly_ic, index=pd.MultiIndex.from_arrays([months.year, months.month]))
    table = by_month.unstack().reindex(columns=range(1, 13)).astype(np.float64)
    years, numbers = [int(year) for year in table.index], list(table.columns)
    hover = "%{customdata} %{y}  %{z:.3f}<extra></extra>"
    more = {"customdata": [words.months] * len(years), "hovertemplate": hover}
    heatmap = _heatmap(table, numbers, years, float(table.abs().max().max()) or 1.0, ".2f", 2, **more)
    return _plot(
        name,
        words.factor_plots["months"],
        [heatmap],
        height=max(240, 90 + 30 * len(years)),
        xaxis={"tickvals": numbers, "ticktext": words.month_ticks},
        yaxis={"tickvals": years, "ticktext": list(map(str, years)), "autorange": "reversed", **_BARE},
    )


def correlations(analysis: FactorAnalysis, name: str) -> Plot:
    """Return the correlation matrix of a set.

    Args:
        analysis: The set.
        name: The plot's id.
    """
    labels: list[str] = []
    for number, column in enumerate(analysis.names):
        # Plotly keeps categories as properties of an object, where a name such as `constructor` is taken: a
        # space of no width comes before each.
        label = "\u200b" + _text(shortened(column, 28))
        labels.append(f"{label} ({number})" if label in labels else label)
    axis = {"type": "category", "dtick": 1, "tickfont": {"size": 11}, **_BARE}
    side, hover = 15 * len(labels), "%{x}<br>%{y}<br>%{z:.2f}<extra></extra>"
    matrix = _heatmap(analysis.correlation, labels, labels, 1, ".1f", 1, hovertemplate=hover)
    return _plot(
        name,
        words.factor_plots["correlation"],
        [matrix] if len(labels) > 1 else [],
        height=max(300, side + 120),
        wide=True,
        least_width=side + 180 if side > 160 else 0,
        xaxis={**axis, "tickangle": -90},
        yaxis={**axis, "autorange": "reversed"},
    )
