"""Plotly with the look of the page: its JSON holds names of CSS variables, and `page.js` puts the colours in.

What has no points is no plot, but a sentence that says so.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

MOST_POINTS = 900
"""A curve has no more points than a wide screen has pixels for it."""


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


def colour(number: int) -> str:
    """Return the CSS variable of a line's colour."""
    return f"var(--plot-{number})"


def finite(values: Any) -> Any:
    """Return values as an array that has NaN for all that is no number."""
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


def curve(
    values: Any,
    days: pd.DatetimeIndex,
    line_colour: str,
    width: float,
    form: str,
    lowest: bool = False,
    **others: Any,
) -> Any:
    """Return a line over days, thinned to `MOST_POINTS`: of each group its last, or its lowest, value."""
    values = finite(values)
    groups = min(len(values), MOST_POINTS)
    starts = np.arange(groups) * len(values) // max(groups, 1)
    ends = np.append(starts[1:], len(values))[:groups] - 1
    return go.Scatter(
        # Milliseconds since 1970, which a date axis takes too, and which are shorter than dates.
        x=days[ends].values.astype("datetime64[ms]").astype(np.float64),
        y=(np.fmin.reduceat(values, starts) if lowest and groups else values[ends]).astype(np.float32),
        mode="lines",
        line_color=line_colour,
        line_width=width,
        hovertemplate=f"%{{x|%Y-%m-%d}}  %{{y:{form}}}",
        **others,
    )


def heatmap(values: Any, x: Any, y: Any, most: float, form: str, gap: int, **others: Any) -> Any:
    """Return a map of values from `-most` to `most`, blue above zero and orange below."""
    small = {"size": 11, "color": "var(--plot-muted)"}
    return go.Heatmap(
        z=values,
        x=x,
        y=y,
        zmin=-most,
        zmax=most,
        xgap=gap,
        ygap=gap,
        hoverongaps=False,
        colorscale=[[0, "var(--plot-low)"], [0.5, "var(--plot-middle)"], [1, "var(--plot-high)"]],
        colorbar={"thickness": 8, "outlinewidth": 0, "tickformat": form, "nticks": 5, "tickfont": small},
        **others,
    )


def plot(
    id_: str,
    title: str,
    unit: str,
    traces: Sequence[Any],
    missing: str,
    *,
    xaxis: dict[str, Any],
    yaxis: dict[str, Any] | None = None,
    hovermode: str = "x",
    **others: Any,
) -> Plot:
    """Return a plot with the layout that all have, of those traces that have a number."""
    drawn = [one for one in traces if np.isfinite(one.z if isinstance(one, go.Heatmap) else one.y).any()]
    axis = {
        "gridcolor": "var(--plot-grid)",
        "zerolinecolor": "var(--plot-zero)",
        "linecolor": "var(--plot-grid)",
        "automargin": True,
        "ticks": "",
    }
    layout = {
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
        "xaxis": {**axis, "showgrid": False, "zeroline": False, **xaxis},
        "yaxis": {**axis, "zeroline": True, **(yaxis or {})},
    }
    figure = for_script(str(go.Figure(drawn, layout).to_json())) if drawn else ""
    return Plot(id_, title, unit, figure, missing, **others)


def for_script(json_text: str) -> str:
    """Return JSON that means the same, and that no HTML parser takes for markup."""
    for sign in "<>&\u2028\u2029":
        json_text = json_text.replace(sign, f"\\u{ord(sign):04x}")
    return json_text


def shown(text: str) -> str:
    """Return a text that plotly shows as it is: it knows tags (`<b>`, `<a href>`) and entities of its own."""
    return html.escape(" ".join(text.split()), quote=False)
