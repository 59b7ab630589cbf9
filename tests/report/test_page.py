"""The page as text: what it says of runs, and that nothing in it loads or runs from elsewhere."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.bridge.verdict import Asked
from rdagent_sota_bridge.report import page
from rdagent_sota_bridge.report.gather import Report
from rdagent_sota_bridge.report.history import Loop, Run
from rdagent_sota_bridge.report.page import plots, tables, views, wording
from tests import reports
from tests.hostile import hostile_report
from tests.reports import HOSTILE


class Parts(HTMLParser):
    """Reads a page: its elements, the scripts, and the text that a reader sees."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words = ""
        self._inside = ""
        self.text = page.render(report)
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take an element."""
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        """Leave an element."""
        self._inside = ""

    def handle_data(self, data: str) -> None:
        """Take a text."""
        if self._inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._inside != "style":
            self.words += data


@pytest.fixture(scope="module")
def whole() -> Parts:
    """Return the page of nine loops and three factors."""
    return Parts(reports.whole_report(3, 3))


@pytest.mark.parametrize("is_hostile", [False, True], ids=["usual texts", "hostile texts"])
def test_a_page_needs_no_other_place_and_runs_two_scripts(whole: Parts, is_hostile: bool) -> None:
    """Nothing loads from anywhere, the policy allows plotly's script and ours alone, and texts are text."""
    parts = Parts(hostile_report()) if is_hostile else whole
    for tag, attributes in parts.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert not {tag for tag, _ in parts.elements} & {"img", "svg", "iframe", "object", "b"}
    assert "@import" not in parts.text.partition("<script")[0]
    assert page.GENERATOR in parts.text[:4096], "by which a page may be written anew"
    running = [text for attributes, text in parts.scripts if "type" not in attributes]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in running]
    assert len(digests) == 2
    policy = next(at["content"] for _, at in parts.elements if at.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'")
    assert f"script-src {' '.join(repr('sha256-' + one) for one in digests)};" in policy
    blocks = [text for attributes, text in parts.scripts if attributes.get("type") == "application/json"]
    assert len(blocks) > 10
    for block in blocks:
        json.loads(block)
        assert not set("<>&\u2028\u2029") & set(block)
    if is_hostile:
        assert HOSTILE.split("{{")[0] in parts.words
        assert "{{ 7*7 }}" in parts.words


def test_the_answer_comes_first_and_the_proof_is_whole(whole: Parts) -> None:
    """The heading says whether the factors were worth it; file, digest and each loaded column are named."""
    heading = whole.words.index("The factors make the models better: their IC is higher by")
    assert heading < whole.words.index("Leaderboard")
    manifest = reports.manifest(reports.factor_names(3))
    for text in (manifest["factor_set"]["path"], reports.DIGEST, *manifest["qlib_loaded"]["columns"]):
        assert text in whole.words


def run_of(name: str, *loops: Loop) -> Run:
    """Return a run of fin_model."""
    return Run(Path(name), "fin_model", loops)


def sides(ours: list[float], base: list[float]) -> Report:
    """Return a report of models with factors and without, of these ICs."""
    runs = (
        run_of("/a", *(reports.model_loop(at, ic, columns=("gap",)) for at, ic in enumerate(ours))),
        run_of("/b", *(reports.model_loop(at, ic) for at, ic in enumerate(base))),
    )
    return Report(reports.CREATED, tuple(run for run in runs if run.loops), {}, (), ())


def with_task(loop: Loop, **change: Any) -> Loop:
    """Return a loop that was trained or tested on something else."""
    assert loop.record is not None
    task = dataclasses.replace(reports.TASK, **change)
    return dataclasses.replace(loop, record=dataclasses.replace(loop.record, task=task))


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"test": (pd.Timestamp("2018-01-01"), pd.Timestamp("2019-01-01"))}, "2018-01-01 to 2019-01-01"),
        ({"market": "csi500"}, "csi500 in ~/.qlib/qlib_data/cn_data"),
        ({"provider_uri": "~/.qlib/qlib_data/us_data"}, "csi300 in ~/.qlib/qlib_data/us_data"),
    ],
    ids=["days", "market", "data"],
)
def test_runs_tested_otherwise_do_not_compare_in_silence(change: dict[str, Any], shown: str) -> None:
    """Where test segment, market or data differ, facts and table say so, without a baseline too."""
    ours, base = reports.model_loop(0, 0.05, columns=("gap",)), reports.model_loop(0, 0.02)
    for other, name in ((base, "without factors"), (ours, "with factors 2")):
        runs = (run_of("/a", ours), run_of("/b", with_task(other, **change)))
        changed = Report(reports.CREATED, runs, {}, (), ())
        words = Parts(changed).words
        assert "not tested on the same data, market, days and label" in words
        assert f"{shown} ({name})" in words


def test_runs_judged_by_other_verdicts_do_not_compare_in_silence() -> None:
    """Where one run could accept models and the other could not, the facts and a note say so."""
    report = sides([0.05], [0.02])
    asked = [Asked(key, key, True) for key in (("Decision",), ("Replace Best Result",))]
    runs = tuple(
        dataclasses.replace(run, loops=(dataclasses.replace(run.loops[0], asked=one, accepted=False),))
        for run, one in zip(report.runs, asked, strict=True)
    )
    words = Parts(dataclasses.replace(report, runs=runs)).words
    assert "The verdicts on these models were not of one kind" in words
    assert "asked for in the form that RD-Agent reads (with factors)" in words
    assert "none of 1 could be accepted; the LLM said yes to 1 (without factors)" in words
    words = Parts(report).words
    assert "The verdicts on these models" not in words
    assert "the differences mean little" not in words


def test_the_leaderboard_ranks_and_marks_the_best() -> None:
    """The highest IC is first and marked; a loop without a result is last, with its reason."""
    report = reports.whole_report(4, 2)
    rows = tables.leaderboard(report, views.run_names(report.runs), "model").rows
    ics = [float(row[1].order or "") for row in rows[:-1]]
    assert ics == sorted(ics, reverse=True)
    assert [row[1].best for row in rows] == [True] + [False] * (len(rows) - 1)
    assert rows[-1][1].text.startswith("No result: not finished")


def test_a_missing_figure_is_shown_as_missing() -> None:
    """NaN is a dash on the page, never a number, and best of nothing."""
    run = run_of("/a", reports.model_loop(0, math.nan))
    report = Report(reports.CREATED, (run,), {}, (), ())
    (row,) = tables.leaderboard(report, ["a"], "model").rows
    assert [cell.text for cell in row[1:5]] == [wording.MISSING] * 4
    assert not any(cell.best for cell in row)
    words = Parts(report).words
    assert "nan" not in words.lower().replace("unnamed", "")


@pytest.mark.parametrize(
    "manifest",
    [{}, {"factor_set": "x"}, {"factor_set": {"sources": [1], "columns": 2}}, {"qlib_loaded": []}],
)
def test_a_manifest_of_another_form_is_shown_as_far_as_it_goes(manifest: dict[str, Any]) -> None:
    """Whatever a manifest holds, the page is made, with dashes for what it does not say."""
    run = run_of("/a", dataclasses.replace(reports.model_loop(0, 0.05), manifest=manifest))
    assert views.proof(run, "a")["loaded"].rows[0][1].text == wording.MISSING
    page.render(Report(reports.CREATED, (run,), {}, (), ()))


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (0.03141, ".3f", "0.031"),
        (-0.5, ".3f", "−0.500"),
        (-0.0001, ".3f", "0.000"),
        (-0.0004, "+.1%", "0.0%"),
        (0.123, "+.1%", "+12.3%"),
        (math.nan, ".3f", "–"),
        (math.inf, ".3f", "–"),
        (None, ".3f", "–"),
        (12.4, "time", "0:00:12"),
        (3599.6, "time", "1:00:00"),
        (90061, "time", "25:01:01"),
        (None, "time", "–"),
        (math.nan, "time", "–"),
    ],
)
def test_figures_and_times(value: float | None, form: str, text: str) -> None:
    """Figures have a true minus, no sign before zero, and a dash where there is none."""
    assert (wording.duration(value) if form == "time" else wording.figure(value, form)) == text


def curves(returns: Any) -> list[plots.Plot]:
    """Return the curves of a factor loop with these returns."""
    report = dataclasses.replace(reports.whole_report(1, 1), returns={(0, 0): returns})
    return plots.curves(report, ["a", "b", "c"], "factor")[1]


def decoded(array: dict[str, str]) -> Any:
    """Return an array of plotly's JSON."""
    return np.frombuffer(base64.b64decode(array["bdata"]), np.dtype(array["dtype"]))


def test_curves_are_thinned_and_keep_their_lowest_value() -> None:
    """A curve of many days has at most 900 points; the drawdown keeps its depth, the others their end."""
    days = pd.bdate_range("2005-01-03", periods=4000)
    walk = reports.returns(3, days=days)
    drawn = [json.loads(plot.figure)["data"][0] for plot in curves(walk)]
    values = [decoded(one["y"]) for one in drawn]
    assert {len(one) for one in values} == {plots.MOST_POINTS}
    assert values[2].min() == pytest.approx(walk.drawdown.min())
    assert values[0][-1] == pytest.approx(walk.excess_with_cost[-1])
    assert pd.Timestamp(decoded(drawn[0]["x"])[-1], unit="ms") == days[-1]


def test_no_plot_without_points() -> None:
    """A sheet, a matrix and returns of NaN alone draw nothing, and say why."""
    empty, none = np.full(0, np.nan), pd.DatetimeIndex([])
    sheet = dataclasses.replace(
        reports.sheet("a"),
        **dict.fromkeys(("ic", "rolling_ic", "monthly_ic", "autocorrelation"), empty),
        **dict.fromkeys(("days", "autocorrelation_days"), none),
        months=(),
        quantile_returns=np.full(5, np.nan),
    )
    drawn = plots.of_factor(sheet, "x")
    drawn.append(plots.correlations(reports.factor_analysis(("a",), with_figures=False), "y"))
    assert [plot.figure for plot in drawn] == [""] * 5
    walk = reports.returns(1)
    nothing = np.full(len(walk.days), np.nan)
    of_loop = curves(dataclasses.replace(walk, excess_with_cost=nothing, drawdown=nothing))
    assert [bool(plot.figure) for plot in of_loop] == [False, True, False]
    assert all(plot.missing.endswith(".") for plot in (*drawn, *of_loop))


def test_labels_of_a_matrix_are_each_once() -> None:
    """Names that differ after what fits are told apart, and no name is one that plotly's objects have."""
    analysis = reports.factor_analysis(("a" * 60, "a" * 61, "constructor", "__proto__"))
    labels = json.loads(plots.correlations(analysis, "x").figure)["data"][0]["x"]
    assert len(set(labels)) == len(analysis.names)
    assert not set(labels) & {"constructor", "__proto__"}


def test_runs_of_one_role_are_numbered_and_have_colours_of_their_own() -> None:
    """Two baselines are told apart by name and colour; the first of a role keeps the role's colour."""
    runs = reports.whole_report(2, 1).runs
    runs = (*runs, runs[2])
    assert views.run_names(runs)[2:] == ("without factors 1", "without factors 2")
    colours = plots.run_colours(runs)
    assert colours[:3] == (3, 1, 2)
    assert len(set(colours)) == 4
    assert set(colours) <= set(range(1, plots.COLOURS + 1))
