"""The page as text: what it says of runs, and that nothing in it loads or runs from elsewhere."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge import page
from rdagent_sota_bridge.history import Run
from rdagent_sota_bridge.model_verdict import Asked
from rdagent_sota_bridge.page import plots, views, wording
from rdagent_sota_bridge.report import Report
from tests import reports
from tests.hostile import hostile_report
from tests.reports import HOSTILE


class Parts(HTMLParser):
    """Reads a page: its elements, the scripts, and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words = ""
        self._inside = ""
        self.feed(text)

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
    return Parts(page.render(reports.whole_report(3, 3)))


def test_the_page_names_no_other_place(whole: Parts) -> None:
    """No element loads from anywhere: the file is all that it needs."""
    for tag, attributes in whole.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), (tag, attributes)
    assert "@import" not in page.render(reports.whole_report(2, 1)).partition("<script")[0]


def test_the_policy_allows_these_two_scripts_alone(whole: Parts) -> None:
    """The content security policy names the digests of plotly's script and of the page's own."""
    policy = next(at["content"] for tag, at in whole.elements if at.get("http-equiv"))
    assert policy is not None
    running = [text for attributes, text in whole.scripts if "type" not in attributes]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in running]
    assert len(digests) == 2
    assert f"script-src {' '.join(repr('sha256-' + one) for one in digests)};" in policy
    assert policy.startswith("default-src 'none'")


def test_the_page_says_what_made_it() -> None:
    """The mark by which a page may be written anew stands near its beginning."""
    assert page.GENERATOR in page.render(reports.whole_report(2, 1))[:4096]


def test_blocks_of_figures_are_json_without_markup(whole: Parts) -> None:
    """Every figure is JSON that ends no script, whatever the names in it are."""
    for parts in (whole, Parts(page.render(hostile_report()))):
        blocks = [text for attributes, text in parts.scripts if attributes.get("type") == "application/json"]
        assert len(blocks) > 10
        for block in blocks:
            json.loads(block)
            assert not set("<>&\u2028\u2029") & set(block)


def test_hostile_texts_are_only_text() -> None:
    """Of a page whose every text is markup no element, attribute or script is the log's."""
    parts = Parts(page.render(hostile_report()))
    assert not {tag for tag, _ in parts.elements} & {"img", "svg", "iframe", "object", "b"}
    assert not [at for _, at in parts.elements if any(name.startswith("on") for name in at)]
    assert sum("type" not in attributes for attributes, _ in parts.scripts) == 2
    assert HOSTILE.split("{{")[0] in parts.words
    assert "{{ 7*7 }}" in parts.words


def test_the_answer_comes_first(whole: Parts) -> None:
    """The heading says whether the factors were worth it, before any table."""
    heading = whole.words.index("With the factors, the best model’s IC rose from")
    assert heading < whole.words.index("Leaderboard")


def sides(ours: list[float], base: list[float]) -> Report:
    """Return a report of models with factors and without, of these ICs."""
    columns = ("gap",)
    runs = (
        Run(
            reports.Path("/a"),
            "fin_model",
            tuple(reports.model_loop(at, ic, columns=columns) for at, ic in enumerate(ours)),
        ),
        Run(
            reports.Path("/b"),
            "fin_model",
            tuple(reports.model_loop(at, ic) for at, ic in enumerate(base)),
        ),
    )
    return Report(reports.CREATED, tuple(run for run in runs if run.loops), {}, (), ())


@pytest.mark.parametrize(
    ("ours", "base", "sentence", "rest"),
    [
        (
            [0.05, 0.04],
            [0.02],
            "IC rose from 0.020 to 0.050.",
            "The mean over loops went from 0.020 to 0.045.",
        ),
        ([0.01], [0.02], "IC fell from 0.020 to 0.010.", "went from 0.020 to 0.010"),
        ([0.02], [0.02], "made no difference", ""),
        ([0.05, -0.05], [0.03, 0.03], "IC rose from 0.030 to 0.050.", "went the other way"),
        ([0.05], [], "The best model with the factors has an IC of 0.050.", "can't tell what they added"),
        ([], [0.03], "The best model without factors has an IC of 0.030.", "No run with the factors"),
        ([], [], "No loop of these runs has a result yet.", ""),
        ([math.nan], [], "No loop of these runs has a result yet.", ""),
    ],
)
def test_the_headline(ours: list[float], base: list[float], sentence: str, rest: str) -> None:
    """The headline tells a gain, a loss, no difference, or that there is nothing to compare, as it is."""
    told = views.headline(sides(ours, base))
    assert sentence in told.sentence
    assert rest in told.rest


def test_runs_tested_on_other_days_do_not_compare_in_silence() -> None:
    """Where test segments differ, headline and table say so."""
    report = sides([0.05], [0.02])
    base = report.runs[1].loops[0]
    assert base.record is not None
    other = dataclasses.replace(reports.TASK, test=(pd.Timestamp("2018-01-01"), pd.Timestamp("2019-01-01")))
    moved = dataclasses.replace(base, record=dataclasses.replace(base.record, task=other))
    runs = (report.runs[0], dataclasses.replace(report.runs[1], loops=(moved,)))
    changed = dataclasses.replace(report, runs=runs)
    assert "don’t compare" in views.headline(changed).rest
    assert "the differences mean little" in Parts(page.render(changed)).words
    assert "the differences mean little" not in Parts(page.render(report)).words


def test_runs_judged_by_other_verdicts_do_not_compare_in_silence() -> None:
    """Where one run could accept models and the other could not, the facts and a note say so."""
    report = sides([0.05], [0.02])
    keys = ("Decision",), ("Replace Best Result",)
    asked = [Asked(key, key, True) for key in keys]
    runs = tuple(
        dataclasses.replace(
            run, loops=tuple(dataclasses.replace(loop, asked=one, accepted=False) for loop in run.loops)
        )
        for run, one in zip(report.runs, asked, strict=True)
    )
    words = Parts(page.render(dataclasses.replace(report, runs=runs))).words
    assert "The verdicts on these models were not of one kind" in words
    assert "asked for in the form that RD-Agent reads (with factors)" in words
    assert "none of 1 could be accepted; the LLM said yes to 1 (without factors)" in words
    assert "The verdicts on these models" not in Parts(page.render(report)).words


def test_models_of_other_markets_are_not_ranked_in_silence() -> None:
    """Two runs with the factors on other markets are told apart, though there is no baseline."""
    report = sides([0.05], [])
    loop = report.runs[0].loops[0]
    assert loop.record is not None
    for change in ({"market": "csi500"}, {"provider_uri": "~/.qlib/qlib_data/us_data"}):
        task = dataclasses.replace(reports.TASK, **change)
        moved = dataclasses.replace(loop, record=dataclasses.replace(loop.record, task=task))
        other = dataclasses.replace(report.runs[0], log=reports.Path("/c"), loops=(moved,))
        words = Parts(page.render(dataclasses.replace(report, runs=(*report.runs, other)))).words
        assert "not tested on the same data, market, days and label" in words
        assert f"{task.market} in {task.provider_uri} (with factors 2)" in words


@pytest.mark.parametrize(
    ("ours", "base", "told"),
    [
        ([0.05, 0.04], [0.02], "of 2 loops with the factors and 1 without. The best of more tries"),
        ([0.05], [0.02], "of 1 loop with the factors and 1 without."),
        ([0.05], [], ""),
    ],
)
def test_it_is_told_how_many_loops_are_compared(ours: list[float], base: list[float], told: str) -> None:
    """The best of ten loops against the best of one is told to be that."""
    said = views.counted(sides(ours, base))
    assert told in said
    assert ("luck" in said) == (len(ours) != len(base) and bool(base))
    assert ("features with the factors and" in said) == bool(base)


def test_the_leaderboard_ranks_and_marks_the_best() -> None:
    """The highest IC is first and marked; a loop without a result is last, with its reason."""
    rows = views.leaderboard(reports.whole_report(4, 2), "model")
    ics = [float(row.metrics[0].order) for row in rows if row.metrics[0].order]
    assert ics == sorted(ics, reverse=True)
    assert [row.metrics[0].best for row in rows] == [True] + [False] * (len(rows) - 1)
    assert rows[-1].failure.startswith("not finished")


def test_a_missing_figure_is_shown_as_missing() -> None:
    """NaN is a dash on the page, never a number, and best of nothing."""
    loop = reports.model_loop(0, math.nan)
    report = Report(reports.CREATED, (Run(reports.Path("/a"), "fin_model", (loop,)),), {}, (), ())
    row = views.leaderboard(report, "model")[0]
    assert [cell.text for cell in row.metrics[:4]] == [wording.MISSING] * 4
    assert not any(cell.best for cell in row.metrics)
    assert "nan" not in Parts(page.render(report)).words.lower().replace("unnamed", "")


@pytest.mark.parametrize(
    "told", [{}, {"factor_set": "x"}, {"factor_set": {"sources": [1], "columns": 2}}, {"qlib_loaded": []}]
)
def test_a_manifest_of_another_form_is_shown_as_far_as_it_goes(told: dict[str, Any]) -> None:
    """Whatever a manifest holds, the page is made, with dashes for what it does not tell."""
    loop = dataclasses.replace(reports.model_loop(0, 0.05), manifest=told)
    report = Report(reports.CREATED, (Run(reports.Path("/a"), "fin_model", (loop,)),), {}, (), ())
    proof = views.proofs(report)[0]
    assert proof.loops[0][2] == wording.MISSING
    page.render(report)


def test_the_proof_has_file_digest_and_columns(whole: Parts) -> None:
    """The page names the file, its digest, and each column that Qlib loaded."""
    told = reports.manifest(reports.factor_names(3))
    for text in (told["factor_set"]["path"], reports.DIGEST, *told["qlib_loaded"]["columns"]):
        assert text in whole.words


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
    ],
)
def test_figures(value: float | None, form: str, text: str) -> None:
    """Figures have a true minus, no sign before zero, and a dash where there is none."""
    assert wording.figure(value, form) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.4, "12 s"), (61, "1 min"), (3599, "1 h 00 min"), (7260, "2 h 01 min"), (None, "–")],
)
def test_durations(seconds: float | None, text: str) -> None:
    """Times are written in the unit that fits."""
    assert wording.duration(seconds) == text


def test_curves_are_thinned_and_keep_their_lowest_value() -> None:
    """A curve of many days has at most 900 points; the drawdown keeps its depth, the others their end."""
    days = pd.bdate_range("2005-01-03", periods=4000)
    walk = reports.returns(3, days=days)
    report = dataclasses.replace(reports.whole_report(1, 1), returns={(0, 0): walk})
    drawn = plots.curves(report, [(0, 0)], plots.lines(report, [(0, 0)], ["a"]), "x", (kept := plots.Days()))
    values = [decoded(json.loads(plot.figure)["data"][0]["y"]) for plot in drawn]
    assert {len(one) for one in values} == {plots.MOST_POINTS}
    assert values[2].min() == pytest.approx(walk.drawdown.min())
    assert values[0][-1] == pytest.approx(walk.excess_with_cost[-1])
    assert len(kept.lists) == 1
    assert np.datetime64("1970-01-01") + sum(kept.lists[0]) == days[-1].to_datetime64()


def decoded(array: dict[str, str]) -> Any:
    """Return an array of plotly's JSON."""
    return np.frombuffer(base64.b64decode(array["bdata"]), np.dtype(array["dtype"]))


def test_no_plot_without_points() -> None:
    """A sheet and a matrix of NaN alone draw nothing, and say why."""
    empty = np.full(0, np.nan)
    none = pd.DatetimeIndex([])
    sheet = dataclasses.replace(
        reports.sheet("a"),
        days=none,
        ic=empty,
        rolling_ic=empty,
        months=(),
        monthly_ic=empty,
        quantile_returns=np.full(5, np.nan),
        autocorrelation_days=none,
        autocorrelation=empty,
    )
    drawn = [*plots.of_factor(sheet, "x", plots.Days())]
    drawn.append(plots.correlations(reports.appraisal(("a",), with_figures=False), "y"))
    assert [plot.figure for plot in drawn] == [""] * 5
    walk = reports.returns(1)
    nothing = np.full(len(walk.days), np.nan)
    report = dataclasses.replace(
        reports.whole_report(1, 1),
        returns={(0, 0): dataclasses.replace(walk, excess_with_cost=nothing, drawdown=nothing)},
    )
    curves = plots.curves(report, [(0, 0)], plots.lines(report, [(0, 0)], ["a"]), "x", plots.Days())
    assert [bool(plot.figure) for plot in curves] == [False, True, False]
    assert all(plot.missing.endswith(".") for plot in drawn)


def test_labels_of_a_matrix_are_each_once() -> None:
    """Names that differ after what fits are told apart, and no name is one that plotly's objects have."""
    names = ("a" * 60, "a" * 61, "constructor", "__proto__")
    labels = plots._labels(names)
    assert len(set(labels)) == 4
    assert not set(labels) & {"constructor", "__proto__"}


def test_runs_of_one_role_are_numbered_and_have_colours_of_their_own() -> None:
    """Two baselines are told apart by name and colour; the first of a role keeps the role's colour."""
    whole = reports.whole_report(2, 1)
    report = dataclasses.replace(whole, runs=(*whole.runs, whole.runs[2]), returns={})
    assert views.run_names(report)[2:] == ("without factors 1", "without factors 2")
    colours = plots.run_colours(report)
    assert len(set(colours)) == 4
    assert re.fullmatch(r"[1-8]{4}", "".join(map(str, colours)))
