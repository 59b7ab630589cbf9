"""The plots of the page, as plotly's JSON. Colours are names of CSS variables: `page.js` puts the colours in.

What has no points is no plot, but a sentence that says so.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from rdagent_sota_bridge import report as reports
from rdagent_sota_bridge.appraisal import Appraisal
from rdagent_sota_bridge.page.wording import shortened
from rdagent_sota_bridge.report import Place, Report, Role
from rdagent_sota_bridge.tearsheet import ROLLING_DAYS, Sheet

MOST_POINTS = 900
"""A curve has no more points than a wide screen has pixels for it."""

COLOURS = 8
"""How many colours of lines the style sheet has."""

_FEW_LOOPS = 4  # so many of a run can be told apart by the dashes of their lines
_DASHES = ("solid", "dash", "dot", "dashdot")
_FIRST_OF_ROLE: dict[Role, int] = {"with factors": 1, "without factors": 2, "factor mining": 3}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class Plot:
    """One plot, or the sentence that stands in its place.

    Attributes:
        id: The element's id, without spaces.
        title: What it shows.
        unit: What the axis counts; may be empty.
        figure: Plotly's JSON, without signs that end a script; empty where nothing is drawn.
        missing: Why nothing is drawn.
        height: In pixels.
        legend: The legend that shows and hides its lines; empty for none.
        wide: True for one that takes the whole width.
        least_width: It scrolls in its box where there are fewer pixels; 0 where it fits any width.
    """

    id: str
    title: str
    unit: str = ""
    figure: str = ""
    missing: str = ""
    height: int = 300
    legend: str = ""
    wide: bool = False
    least_width: int = 0


@dataclass
class Days:
    """The lists of days that curves share, each kept once: a page of thirty factors has sixty such curves."""

    lists: list[list[int]] = field(default_factory=list)
    _known: dict[bytes, int] = field(default_factory=dict)

    def number(self, days: pd.DatetimeIndex) -> int:
        """Return the number of a list of days, as days since 1970 and then the steps to the next."""
        since = days.values.astype("datetime64[D]").astype(np.int64)
        key = since.tobytes()
        if key not in self._known:
            self._known[key] = len(self.lists)
            self.lists.append([int(step) for step in np.diff(since, prepend=0)])
        return self._known[key]


@dataclass(frozen=True)
class Line:
    """One entry of a legend, and the look of its lines.

    Attributes:
        key: What its lines are called in the plots.
        label: What the reader sees.
        colour: Number of its colour.
        dash: Plotly's name of the dash.
        strong: True for the best of its run.
        group: The run that it belongs to; empty where the line is the run.
        short: The label within that group.
    """

    key: str
    label: str
    colour: int
    dash: str = "solid"
    strong: bool = False
    group: str = ""
    short: str = ""


def run_colours(report: Report) -> tuple[int, ...]:
    """Return the number of each run's colour: the first of a role has that role's, others what is left."""
    taken = set(_FIRST_OF_ROLE.values())
    others = itertools.cycle([number for number in range(1, COLOURS + 1) if number not in taken])
    seen: set[Role] = set()
    colours = []
    for run in report.runs:
        role = reports.role(run)
        colours.append(next(others) if role in seen or role not in _FIRST_OF_ROLE else _FIRST_OF_ROLE[role])
        seen.add(role)
    return tuple(colours)


# --- of loops ---


def lines(report: Report, places: Sequence[Place], names: Sequence[str]) -> tuple[Line, ...]:
    """Return the legend of some loops' curves, in their order; of each run the best by IC is drawn strongly.

    Args:
        report: What is shown.
        places: The loops.
        names: What each run is called.
    """
    colours, found = run_colours(report), []
    for run, of_run in itertools.groupby(places, key=lambda place: place[0]):
        group = list(of_run)
        best = reports.best(report, group) or group[0]
        dashes = iter(_DASHES[1:] if len(group) <= _FEW_LOOPS else ["solid"] * len(group))
        for place in group:
            loop = reports.loop_at(report, place)
            short = f"{_number(loop.number)} {shortened(loop.name, 32)}"
            label = f"{names[run]} · {short}"
            dash = "solid" if place == best else next(dashes)
            strong = place == best
            key = f"{place[0]}-{place[1]}"
            found.append(Line(key, label, colours[run], dash, strong, names[run], short))
    return tuple(found)


def curves(
    report: Report, places: Sequence[Place], legend: Sequence[Line], name: str, days: Days
) -> tuple[Plot, ...]:
    """Return the excess return with cost, without cost, and the drawdown of some loops, a plot each.

    Args:
        report: What is shown.
        places: The loops; those without returns are not drawn.
        legend: Of the same loops.
        name: What the legend is called.
        days: Where the days go.
    """
    # The strong lines last, for they lie on top.
    pairs = sorted(zip(places, legend, strict=True), key=lambda pair: pair[1].strong)
    known = [(report.returns[place], line) for place, line in pairs if place in report.returns]
    known = [(returns, line) for returns, line in known if len(returns.days)]

    def traces(attribute: str) -> list[Any]:
        drawn = []
        for returns, line in known:
            values = np.asarray(getattr(returns, attribute), dtype=np.float64)
            if not np.isfinite(values).any():
                continue
            starts = _starts(len(values))
            # A thinned drawdown keeps its lowest values, other curves where they end.
            cut = np.fmin.reduceat(values, starts) if attribute == "drawdown" else values[_ends(values)]
            drawn.append(_curve(line, cut, days.number(returns.days[_ends(values)])))
        return drawn

    beyond = "sum of daily returns beyond the benchmark"
    missing = "No loop here left daily returns, so there is no curve to draw."
    layout = _layout(yaxis={"tickformat": "~%"}, xaxis={"type": "date"}, hovermode="closest")
    return (
        Plot(
            f"{name}-with-cost",
            "Cumulative excess return, with cost",
            f"{beyond}, less the cost of trading",
            _figure(traces("excess_with_cost"), layout),
            missing,
            height=340,
            legend=name,
            wide=True,
        ),
        Plot(
            f"{name}-without-cost",
            "Cumulative excess return, without cost",
            beyond,
            _figure(traces("excess_without_cost"), layout),
            missing,
            legend=name,
        ),
        Plot(
            f"{name}-drawdown",
            "Drawdown",
            "of the excess return with cost, from its highest value so far",
            _figure(traces("drawdown"), layout),
            missing,
            legend=name,
        ),
    )


def _curve(line: Line, values: Any, days: int) -> Any:
    return go.Scatter(
        y=values.astype(np.float32),
        name=_text(line.label),
        mode="lines",
        line={"color": _colour(line.colour), "dash": line.dash, "width": 2.6 if line.strong else 1.3},
        opacity=1.0 if line.strong else 0.45,
        meta={"key": line.key, "days": days},
        hovertemplate="%{x|%Y-%m-%d}  %{y:.2%}",
    )


def run_lines(report: Report, names: Sequence[str], kind: str) -> tuple[tuple[int, Line], ...]:
    """Return the runs that have loops of a kind (`model`, `factor`), with the look of their lines."""
    colours = run_colours(report)
    return tuple(
        (position, Line(str(position), names[position], colours[position], strong=True))
        for position, run in enumerate(report.runs)
        if any(loop.kind == kind for loop in run.loops)
    )


def over_loops(report: Report, runs: Sequence[tuple[int, Line]], name: str, kind: str) -> tuple[Plot, ...]:
    """Return metrics over the loops of runs, a plot each; a loop without a result is a gap.

    Args:
        report: What is shown.
        runs: As `run_lines` returns them.
        name: What the legend is called.
        kind: The kind of the loops.
    """
    shown = {"IC": ".3f", "rank IC": ".3f", "annualized return": ".1%", "information ratio": ".2f"}
    drawn = []
    for metric, form in shown.items():
        traces = []
        for position, line in runs:
            loops = [loop for loop in report.runs[position].loops if loop.kind == kind]
            values = np.array([reports.metric(loop, metric) for loop in loops], dtype=np.float64)
            values[~np.isfinite(values)] = np.nan
            numbers = [order if loop.number is None else loop.number for order, loop in enumerate(loops)]
            if not np.isfinite(values).any():
                continue
            traces.append(
                go.Scatter(
                    x=numbers,
                    y=values,
                    name=_text(line.label),
                    mode="lines+markers",
                    line={"color": _colour(line.colour), "width": 1.3},
                    marker={
                        "size": 8,
                        "symbol": ["circle" if loop.accepted else "circle-open" for loop in loops],
                        "color": _colour(line.colour),
                        "line": {"width": 1.6, "color": _colour(line.colour)},
                    },
                    meta={"key": line.key},
                    hovertemplate=f"loop %{{x}}  %{{y:{form}}}",
                )
            )
        axis = {
            "title": {"text": "loop"},
            "tickformat": "d",
            "dtick": 1 if _most(report, runs) <= 12 else None,
        }
        layout = _layout(
            xaxis=axis,
            yaxis={"tickformat": "~%" if "%" in form else None, "zeroline": True},
            hovermode="closest",
        )
        missing = "No loop has this metric."
        title = metric[0].upper() + metric[1:]
        drawn.append(
            Plot(f"{name}-{metric.replace(' ', '-')}", title, "", _figure(traces, layout), missing, 240, name)
        )
    return tuple(drawn)


def _most(report: Report, runs: Sequence[tuple[int, Line]]) -> int:
    return max((len(report.runs[position].loops) for position, _ in runs), default=0)


def _number(number: int | None) -> str:
    return "?" if number is None else str(number)


# --- of factors ---


def of_factor(sheet: Sheet, name: str, days: Days) -> tuple[Plot, ...]:
    """Return the plots of one factor: IC over time, by month, return by quantile, rank autocorrelation.

    Args:
        sheet: Its figures.
        name: What the plots' ids begin with.
        days: Where the days go.
    """
    return (
        Plot(
            f"{name}-ic",
            "Rank IC over time",
            f"daily, and its mean over {ROLLING_DAYS} days",
            _figure(_ic(sheet, days), _layout(xaxis={"type": "date"})),
            "No day of the test segment has an IC.",
            wide=True,
            height=260,
        ),
        _monthly(sheet, f"{name}-months"),
        Plot(
            f"{name}-quantiles",
            "Return by quantile",
            "basis points a day beyond the day's mean; 1 holds the lowest values",
            _figure(_quantiles(sheet), _layout(xaxis={"dtick": 1}, yaxis={"ticksuffix": ""})),
            "No day of the test segment could be cut into quantiles.",
            height=240,
        ),
        Plot(
            f"{name}-turnover",
            "Turnover",
            "rank autocorrelation with the day before: 1 trades nothing, 0 trades all",
            _figure(_autocorrelation(sheet, days), _layout(xaxis={"type": "date"})),
            "No two days of the test segment follow each other.",
            wide=True,
            height=220,
        ),
    )


def _ic(sheet: Sheet, days: Days) -> list[Any]:
    traces = []
    daily = _over_days(sheet.ic, sheet.days, days)
    if daily is not None:
        values, number = daily
        traces.append(_series(values, number, "daily", "var(--plot-faint)", 1.0, ".3f"))
        rolling = _over_days(sheet.rolling_ic, sheet.days, days)
        if rolling is not None:
            mean = f"mean of {ROLLING_DAYS} days"
            traces.append(_series(*rolling, mean, _colour(1), 2.2, ".3f"))
    return traces


def _autocorrelation(sheet: Sheet, days: Days) -> list[Any]:
    daily = _over_days(sheet.autocorrelation, sheet.autocorrelation_days, days)
    return [] if daily is None else [_series(*daily, "rank autocorrelation", _colour(3), 1.3, ".3f")]


def _over_days(values: Any, at: pd.DatetimeIndex, days: Days) -> tuple[Any, int] | None:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).any():
        return None
    ends = _ends(array)
    return array[ends], days.number(at[ends])


def _series(values: Any, days: int, name: str, colour: str, width: float, form: str) -> Any:
    return go.Scatter(
        y=values.astype(np.float32),
        name=name,
        mode="lines",
        line={"color": colour, "width": width},
        meta={"days": days},
        hovertemplate=f"%{{x|%Y-%m-%d}}  %{{y:{form}}}",
    )


def _quantiles(sheet: Sheet) -> list[Any]:
    values = np.asarray(sheet.quantile_returns, dtype=np.float64) * 1e4
    if not np.isfinite(values).any():
        return []
    signs = ["var(--plot-high)" if value >= 0 else "var(--plot-low)" for value in values]
    return [
        go.Bar(
            x=list(range(1, len(values) + 1)),
            y=values,
            marker={"color": signs},
            name="",
            hovertemplate="quantile %{x}  %{y:+.1f} bp a day<extra></extra>",
        )
    ]


def _monthly(sheet: Sheet, name: str) -> Plot:
    by_month = dict(zip(sheet.months, np.asarray(sheet.monthly_ic, dtype=np.float64), strict=True))
    years = sorted({int(month[:4]) for month in by_month})
    values = np.full((len(years), len(_MONTHS)), np.nan)
    for month, value in by_month.items():
        values[years.index(int(month[:4])), int(month[5:7]) - 1] = value
    traces = []
    if np.isfinite(values).any():
        most = float(np.nanmax(np.abs(values))) or 1.0
        traces = [
            go.Heatmap(
                z=values.astype(np.float32),
                x=list(range(1, 13)),
                y=years,
                zmin=-most,
                zmax=most,
                xgap=2,
                ygap=2,
                hoverongaps=False,
                customdata=[list(_MONTHS) for _ in years],
                hovertemplate="%{customdata} %{y}  %{z:.3f}<extra></extra>",
                **_diverging(".2f"),
            )
        ]
    layout = _layout(
        xaxis={
            "tickvals": list(range(1, 13)),
            "ticktext": [month[0] for month in _MONTHS],
            "showgrid": False,
        },
        yaxis={"tickvals": years, "ticktext": [str(year) for year in years], "showgrid": False},
    )
    layout["yaxis"].update(autorange="reversed", zeroline=False)
    height = max(240, 90 + 30 * len(years))
    missing = "No month of the test segment has an IC."
    return Plot(
        name, "Rank IC by month", "mean of the month's days", _figure(traces, layout), missing, height
    )


def correlations(appraisal: Appraisal, name: str) -> Plot:
    """Return the correlation matrix of a set.

    Args:
        appraisal: The set.
        name: The plot's id.
    """
    values = np.asarray(appraisal.correlation, dtype=np.float64)
    traces = []
    labels = _labels(appraisal.names)
    if len(labels) > 1 and np.isfinite(values).any():
        traces = [
            go.Heatmap(
                z=values.astype(np.float32),
                x=labels,
                y=labels,
                zmin=-1,
                zmax=1,
                xgap=1,
                ygap=1,
                hoverongaps=False,
                hovertemplate="%{x}<br>%{y}<br>%{z:.2f}<extra></extra>",
                **_diverging(".1f"),
            )
        ]
    axis = {"type": "category", "dtick": 1, "showgrid": False, "zeroline": False, "tickfont": {"size": 11}}
    layout = _layout(xaxis={**axis, "tickangle": -90}, yaxis={**axis, "autorange": "reversed"})
    side = 15 * len(labels)
    return Plot(
        name,
        "Correlation",
        "of the values of one day over instruments, mean over days",
        _figure(traces, layout),
        "There is no correlation to show: it takes two columns with values on the same days.",
        height=max(300, side + 120),
        wide=True,
        least_width=side + 180 if side > 160 else 0,
    )


def _labels(names: Sequence[str]) -> list[str]:
    """Return names as a category axis can hold them: short, each once.

    Plotly keeps categories as properties of an object, where a name such as `constructor` is taken: a space
    of no width comes before each.
    """
    labels: list[str] = []
    for number, name in enumerate(names):
        label = "\u200b" + _text(shortened(name, 28))
        labels.append(f"{label} ({number})" if label in labels else label)
    return labels


# --- plotly ---


def _colour(number: int) -> str:
    return f"var(--plot-{number})"


def _diverging(form: str) -> dict[str, Any]:
    return {
        "colorscale": [[0, "var(--plot-low)"], [0.5, "var(--plot-middle)"], [1, "var(--plot-high)"]],
        "colorbar": {
            "thickness": 8,
            "outlinewidth": 0,
            "tickformat": form,
            "nticks": 5,
            "tickfont": {"size": 11, "color": "var(--plot-muted)"},
        },
    }


def _layout(
    xaxis: dict[str, Any], yaxis: dict[str, Any] | None = None, hovermode: str = "x"
) -> dict[str, Any]:
    axis = {
        "gridcolor": "var(--plot-grid)",
        "zeroline": False,
        "zerolinecolor": "var(--plot-zero)",
        "linecolor": "var(--plot-grid)",
        "automargin": True,
        "ticks": "",
    }
    return {
        "template": go.layout.Template(),
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "var(--plot-muted)", "size": 12},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "showlegend": False,
        "modebar": {
            "bgcolor": "rgba(0,0,0,0)",
            "color": "var(--plot-zero)",
            "activecolor": "var(--plot-text)",
        },
        "hovermode": hovermode,
        "hoverlabel": {
            "namelength": -1,
            "bgcolor": "var(--plot-label)",
            "bordercolor": "var(--plot-grid)",
            "font": {"color": "var(--plot-text)", "size": 12},
        },
        "xaxis": {**axis, "showgrid": False, **xaxis},
        "yaxis": {**axis, "zeroline": True, **(yaxis or {})},
    }


def _figure(traces: Sequence[Any], layout: dict[str, Any]) -> str:
    """Return the JSON of a figure, harmless inside a script element; empty without traces."""
    return for_script(str(go.Figure(data=list(traces), layout=layout).to_json())) if traces else ""


def for_script(json_text: str) -> str:
    """Return JSON that means the same, and that no HTML parser takes for markup."""
    for sign in "<>&\u2028\u2029":
        json_text = json_text.replace(sign, f"\\u{ord(sign):04x}")
    return json_text


def _text(text: str) -> str:
    """Return a text that plotly shows as it is: it knows tags (`<b>`, `<a href>`) and entities of its own."""
    return html.escape(" ".join(text.split()), quote=False)


def _starts(count: int) -> Any:
    """Return where the groups of days begin of which a plot shows one point each."""
    groups = min(count, MOST_POINTS)
    return np.arange(groups) * count // max(groups, 1)


def _ends(values: Any) -> Any:
    return np.append(_starts(len(values))[1:], len(values)) - 1
