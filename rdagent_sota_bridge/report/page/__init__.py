"""The page of a report: one HTML file that needs no network and no other file.

Texts in it come from an LLM, its code and files that anyone can write: jinja escapes them, plotly gets them
escaped, and a content security policy lets no script run but the two of this package.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from rdagent_sota_bridge import __version__
from rdagent_sota_bridge.errors import short_digest
from rdagent_sota_bridge.report import gather
from rdagent_sota_bridge.report.gather import Report
from rdagent_sota_bridge.report.page import plots, tables, views, wording
from rdagent_sota_bridge.report.tearsheet import QUANTILES

GENERATOR = '<meta name="generator" content="rdagent-sota-bridge'
"""How the pages begin to say what made them: a file with it may be written anew."""


def render(report: Report) -> str:
    """Return the page of a report as HTML."""
    runs, names = report.runs, views.run_names(report.runs)
    named = list(zip(names, runs, strict=True))
    scripts = [str(get_plotlyjs()), _part("page.js")]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(_part("page.html.j2")).render(
        version=__version__,
        generator=Markup(GENERATOR),  # noqa: S704 - a constant
        policy=_policy(scripts),
        style=Markup(_part("page.css")),  # noqa: S704 - a file of this package
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - this package's and plotly's
        created=wording.moment(report.created),
        headline=views.headline(report),
        runs=tables.runs_table(runs, names),
        known=views.facts(report, names),
        asked=[(name, run.asked) for name, run in named if run.asked],
        notes=[*report.notes, *(f"{name}: {note}" for name, run in named for note in run.notes)],
        tested_alike=gather.tested_alike(runs),
        judged_alike=gather.judged_alike(runs),
        pairs=tables.pairs_table(report, names),
        models=_board(report, "model", names),
        mining=_board(report, "factor", names),
        sets=[_set(report, position, names) for position in range(len(report.factor_analyses))],
        proofs=[
            views.proof(run, name) for name, run in named if any(loop.kind == "model" for loop in run.loops)
        ],
        monospace=views.MONOSPACE,
        quantiles=QUANTILES,
        segment=wording.segment,
        markup=Markup,
        words=wording.words,
        say=lambda text, **parts: Markup.escape(text).format(**parts),  # for parts that are markup
        breakable=lambda name: Markup("_<wbr>").join(name.split("_")),  # where a narrow column may break it
    )
    return page.encode("utf-8", "replace").decode()  # half of a surrogate pair is no character


def _board(report: Report, kind: str, names: tuple[str, ...]) -> dict[str, object]:
    """Return a leaderboard with its plots, their legends, and what each loop tried."""
    legend, curves = plots.curves(report, names, kind)
    of_runs, over_loops = plots.over_loops(report.runs, names, kind)
    return {
        "kind": kind,
        "table": tables.leaderboard(report, names, kind),
        "curves": curves,
        "legend": legend,
        "over_loops": over_loops,
        "runs": of_runs,
        "without_returns": views.without_returns(report, names, kind),
        "stories": views.loop_stories(report.runs, names, kind),
    }


def _set(report: Report, position: int, names: tuple[str, ...]) -> dict[str, object]:
    """Return the overview of a factor set, its matrix, and each factor with its plots."""
    one = report.factor_analyses[position]
    brought_by = views.brought_by(report, names, one.digest)
    return {
        "digest": short_digest(one.digest),
        "count": wording.counted(len(one.columns), wording.words.factors),
        "task": one.task,
        "notes": one.notes,
        "table": tables.factor_table(one, position, brought_by),
        "matrix": plots.correlations(one, f"correlation-{position}"),
        "stories": views.factor_stories(report, position, brought_by),
    }


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
