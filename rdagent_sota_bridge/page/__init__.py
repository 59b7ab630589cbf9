"""The page of a report: one HTML file that needs no network and no other file.

Texts in it come from an LLM, its code and files that anyone can write: jinja escapes them, plotly is given
them escaped, and a content security policy lets no script run but the two of this package.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from importlib import resources

import jinja2
from markupsafe import Markup

from rdagent_sota_bridge import __version__
from rdagent_sota_bridge import report as reports
from rdagent_sota_bridge.page import plots, views, wording
from rdagent_sota_bridge.page.plots import Days
from rdagent_sota_bridge.report import Report
from rdagent_sota_bridge.tearsheet import QUANTILES, ROLLING_DAYS

GENERATOR = '<meta name="generator" content="rdagent-sota-bridge'
"""How the pages begin to say what made them: a file with it may be written anew."""


def render(report: Report) -> str:
    """Return the page of a report.

    Args:
        report: What it shows.
    """
    days = Days()
    names = views.run_names(report)
    appraised = [
        (
            one,
            views.factor_rows(report, one, position),
            plots.correlations(one, f"correlation-{position}"),
            {
                sheet.name: plots.of_factor(sheet, f"factor-{position}-{number}", days)
                for number, sheet in enumerate(one.sheets)
            },
        )
        for position, one in enumerate(report.appraisals)
    ]
    scripts = [_plotly(), _part("page.js")]
    text = _template().render(
        report=report,
        version=__version__,
        generator=Markup(GENERATOR),  # noqa: S704 - a constant
        policy=_policy(scripts),
        style=Markup(_part("page.css")),  # noqa: S704 - a file of this package
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - this package's and plotly's
        names=names,
        colours=plots.run_colours(report),
        run_facts=[views.run_facts(run) for run in report.runs],
        facts=views.facts(report),
        headline=views.headline(report),
        best_model=views.best_model(report),
        comparison=views.comparison(report),
        counted=views.counted(report),
        tested_alike=reports.tested_alike(report),
        judged_alike=reports.judged_alike(report),
        boards=[_board(report, kind, names, days) for kind in ("model", "factor")],
        appraised=appraised,
        proofs=views.proofs(report),
        heads=views.SHORT_NAMES,
        factor_heads=views.FACTOR_HEADS,
        proof_heads=views.PROOF_HEADS,
        quantiles=QUANTILES,
        rolling_days=ROLLING_DAYS,
        wording=wording,
        days=Markup(json.dumps(days.lists, separators=(",", ":"))),  # noqa: S704 - numbers
        markup=Markup,
        breakable=_breakable,
    )
    return text.encode("utf-8", "replace").decode()  # half of a surrogate pair is no character


def _board(report: Report, kind: str, names: tuple[str, ...], days: Days) -> dict[str, object]:
    """Return a leaderboard with its plots and their legends."""
    places = [
        (position, number)
        for position, run in enumerate(report.runs)
        for number, loop in enumerate(run.loops)
        if loop.kind == kind and (position, number) in report.returns
    ]
    legend = plots.lines(report, places, names)
    runs = plots.run_lines(report, names, kind)
    return {
        "kind": kind,
        "rows": views.leaderboard(report, kind),
        "curves": plots.curves(report, places, legend, f"{kind}-curves", days),
        "legend": legend,
        "over_loops": plots.over_loops(report, runs, f"{kind}-loops", kind),
        "runs": tuple(line for _, line in runs),
        "without_returns": views.without_returns(report, kind),
    }


def _breakable(name: str) -> Markup:
    """Return a name that a narrow column breaks where its words end."""
    return Markup("_<wbr>").join(name.split("_"))


def _policy(scripts: list[str]) -> str:
    """Return the page's content security policy: these scripts, its own style and pictures, nothing else."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_part("page.html.j2"))
