"""The answer at the top of the page, and the errors beside the figures that it is made of."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest

from rdagent_sota_bridge.report.holdout import Opening
from rdagent_sota_bridge.report.page import tables, views
from rdagent_sota_bridge.report.plain import as_plain
from rdagent_sota_bridge.report.statistics import Estimate
from rdagent_sota_bridge.report.trials import Trials
from tests import reports
from tests.report.test_page import Parts, sides


@pytest.fixture(scope="module")
def whole() -> Parts:
    """Return the page of nine loops and three factors."""
    return Parts(reports.whole_report(3, 3))


@pytest.mark.parametrize(
    ("ours", "base", "sentence", "rest"),
    [
        ([0.05, 0.04], [0.02], "The best model with the factors has an IC of 0.050.", "does not say what"),
        ([0.05], [], "The best model with the factors has an IC of 0.050.", "does not say what they add"),
        ([], [0.03], "The best model without factors has an IC of 0.030.", "No run with the factors"),
        ([], [], "No loop of these runs has a result yet.", ""),
        ([math.nan], [], "No loop of these runs has a result yet.", ""),
    ],
)
def test_without_an_ablation_nothing_is_claimed(
    ours: list[float], base: list[float], sentence: str, rest: str
) -> None:
    """Whatever plain loops stand beside those with the factors, the headline draws no conclusion."""
    report = sides(ours, base)
    headline = views.headline(report)
    assert sentence in headline["sentence"]
    assert rest in headline["rest"]
    assert not re.search(
        r"rose|fell|better|worse|higher by|lower by", headline["sentence"] + headline["rest"]
    )


@pytest.mark.parametrize(
    ("pairs", "sentence", "rest"),
    [
        (
            [reports.pair(0, 0.05, 0.02), reports.pair(1, 0.05, 0.02)],
            r"better: their IC is higher by 0\.0\d\d \[0\.0\d\d, 0\.0\d\d\]\.",
            r"The mean over 2 loops of the daily .* \(870 days, 2 loops, 1 seed\), with its 95 % interval",
        ),
        (
            [reports.pair(0, 0.01, 0.05)],
            r"worse: their IC is lower by 0\.0\d\d \[0\.0\d\d, 0\.0\d\d\]\.",
            "^The daily difference .* it takes several loops. 1 model of these runs has no such pair",
        ),
        (
            [reports.pair(0, 0.03, 0.03), reports.pair(1, 0.03, 0.03)],
            r"No difference can be told: with the factors .* changes by \S+ \[−0\.0\d\d, 0\.0\d\d\]",
            "The excess return, less cost, |went the other way",
        ),
        (
            [reports.pair(0, 0.5, 0.1, days=reports.DAYS[:19])],
            "No difference can be told: 19 days are too few",
            r"\(19 days, 1 loop, 1 seed\)\.",
        ),
        (
            [reports.pair(0, 0.05, 0.02, drifts=(0.0, 0.002))],
            "better",
            r"But the excess return, less cost, went the other way: −\d+\.\d% a year \[−",
        ),
        (
            [reports.pair(0, 0.05, 0.02, seed=seed) for seed in (None, 1, 2)],
            "better",
            "870 days, 1 loop, 3 seeds",
        ),
        (
            [reports.pair(0, 0.05, 0.02), reports.pair(0, 0.05, 0.02, seed=1), reports.pair(1, 0.05, 0.02)],
            "better",
            "870 days, 2 loops, up to 2 seeds",
        ),
    ],
    ids=["better", "worse", "open", "few days", "return disagrees", "seeds", "seeds of one loop"],
)
def test_the_headline_is_the_paired_difference(pairs: list[Any], sentence: str, rest: str) -> None:
    """It says better, worse or that no difference can be told, with interval and counts; the return too."""
    report = dataclasses.replace(sides([0.05, 0.04], [0.02]), pairs=tuple(pairs))
    headline = views.headline(report)
    assert re.search(sentence, headline["sentence"])
    assert re.search(rest, headline["rest"])
    assert headline["tiles"][0][2].endswith("without mined columns")
    rows = tables.pairs_table(report, ["a", "b"]).rows
    loops, seeds = {one.place for one in pairs}, [one.seed for one in pairs if one.seed]
    assert len(rows) == len(pairs) + (len(loops) > 1) + (len(seeds) > 1)
    assert ("mean over" in rows[-1][0].text) == (len(loops) > 1)


def test_seeds_of_the_best_model() -> None:
    """Mean and standard deviation stand beside its figures and in the table; tiles have its own ablation."""
    ics = {None: (0.5, 0.3), 1: (0.05, 0.02), 2: (0.07, 0.01)}
    pairs = tuple(reports.pair(0, *of_seed, seed=seed) for seed, of_seed in ics.items())
    report = dataclasses.replace(sides([0.5], []), pairs=pairs)
    headline = views.headline(report)
    assert headline["seeds"] == (
        "Trained again with 2 seeds, its IC is 0.060 (standard deviation 0.014), "
        "and 0.015 (standard deviation 0.007) without the mined columns."
    )
    assert headline["tiles"][0][2] == "0.300 without mined columns"
    name, *row = tables.pairs_table(report, ["a"]).rows[-1]
    assert (name.text, name.below) == ("mean of 2 seeds", "a · loop 0")
    assert [(one.text, one.below) for one in row[:3]] == [
        ("0.060", "sd 0.014"),
        ("0.015", "sd 0.007"),
        ("+0.045", "sd 0.021"),
    ]
    assert headline["seeds"] in Parts(report).words
    assert views.headline(dataclasses.replace(report, pairs=pairs[:2]))["seeds"] == ""


def test_returns_that_are_gone_are_said(whole: Parts) -> None:
    """Where a model of a pair left no returns, the headline says nothing of them, and says so."""
    one = reports.pair(0, 0.05, 0.02)
    gone = dataclasses.replace(one, base=dataclasses.replace(one.base, returns=None))
    report = dataclasses.replace(sides([0.05], []), pairs=(gone,))
    assert "nothing is said of it" in views.headline(report)["rest"]
    unknown = dataclasses.replace(one, base=dataclasses.replace(one.base, daily=None))
    assert "does not say" in views.headline(dataclasses.replace(report, pairs=(unknown,)))["rest"]


def test_every_ic_has_its_error() -> None:
    """Beside each IC stands half of its interval, or a dash."""
    whole = reports.whole_report(3, 2)
    of_loop = dataclasses.replace(whole, daily={(1, 0): whole.daily[1, 0]})
    for report, known in ((whole, 5), (of_loop, 1)):
        rows = tables.leaderboard(report, views.run_names(report.runs), "model").rows
        errors = [row[1].below for row in rows if len(row) > 2]
        assert sum(bool(re.fullmatch(r"± 0\.00\d", error)) for error in errors) == known
        assert errors.count("± –") == 5 - known


def test_what_was_tried_stands_beside_the_best_model(whole: Parts) -> None:
    """How many models and factors the project tried, and the deflated Sharpe ratio where it is known."""
    assert "6 models and 3 factors were tried on that segment in this project" in whole.words
    assert re.search(r"luck of so many \(deflated Sharpe ratio\): \d+\.\d%\.", whole.words)
    report = dataclasses.replace(sides([0.05], []), trials=Trials(1, 1, math.nan))
    assert "Too few daily returns" in views.headline(report)["tried"]
    assert views.headline(sides([0.05], []))["tried"] == ""


def test_a_factor_has_its_false_discovery_rate(whole: Parts) -> None:
    """Beside t stands the rate over the set, and the page asks for 3 in size, not 2."""
    table = tables.factor_table(reports.factor_analysis(("a", "b")), 0, {})
    at = [head.text for head in table.heads].index("false-discovery rate")
    assert all(row[at].text.endswith("%") for row in table.rows)
    assert "A t-statistic under 3 in size may be chance" in whole.words


@pytest.mark.parametrize(
    ("changes", "sentence", "rest"),
    [
        (
            {},
            "No difference can be told: with the factors the models’ IC changes by 0.001 [−0.010, 0.012].",
            "That is of the holdout, 2019-10-08 to 2020-09-22 (230 days, the best model alone: IC 0.003 "
            "[−0.008, 0.014], without the mined columns 0.002), of which no segment of this project has a "
            "day. What a holdout can’t cure: the factors’ data were not cut",
        ),
        ({"before": 2}, "No difference can be told", "a day. These days were opened 2 times before. What"),
        (
            {"base": None, "difference": None},
            "The best model has an IC of 0.003 [",
            "[−0.008, 0.014]), of which",
        ),
        (
            {"seen_by": 3},
            "The factors make the models better",
            "columns 0.002), is not unseen: 3 workspaces of this project may have a day of it in a segment.",
        ),
        ({"model": "x"}, "No difference", "(230 days, the best model of then alone: IC 0.003"),
        ({"model": "x", "before": 1}, "No", "before. Another model is the best now, and has not been looked"),
        (
            {"model": "x", "base": None, "difference": None},
            "The best model of then has an IC of 0.003 [",
            "Another model is the best now",
        ),
    ],
    ids=["unseen", "opened before", "no ablation", "seen", "not of the best", "twice", "no ablation of it"],
)
def test_the_headline_is_the_holdouts(changes: dict[str, Any], sentence: str, rest: str) -> None:
    """Where no workspace saw its days; that of the test segment, which chose the models, stands behind it."""
    figures = [
        Estimate(0.003, -0.008, 0.014, 230, 1),
        Estimate(0.002, math.nan, math.nan, 230, 1),
        Estimate(0.001, -0.010, 0.012, 230, 1),
    ]
    opening = Opening("2020", "models", "0", "v", "2019-10-08", "2020-09-22", 0, 0, *figures)
    opening = dataclasses.replace(opening, **changes)
    report = dataclasses.replace(sides([0.05], []), pairs=(reports.pair(0, 0.05, 0.02),), holdout=opening)
    headline = views.headline(report)
    assert headline["sentence"].startswith(sentence)
    assert rest in headline["rest"]
    assert ("chosen: The factors make the models better" in headline["rest"]) == ("seen_by" not in changes)
    assert ("can’t cure" in headline["rest"]) == ("seen_by" not in changes)
    assert as_plain(report)["holdout"]["last"] == "2020-09-22"
