"""The values of base features: those of Qlib's own engine, and what is said where there are none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge import base_features
from rdagent_sota_bridge.alpha import ALPHA158
from rdagent_sota_bridge.base_features import BaseFeatures
from rdagent_sota_bridge.demo.market import Market as DemoMarket
from rdagent_sota_bridge.qlib_side import base_features as script

NAMES = ("KLEN", "ROC60", "CORR5", "RESI10")
GONE, UNKNOWN = "SH600007", "SH999999"

DIRECTLY = """
import sys, qlib
from qlib.data import D
if __name__ == "__main__":
    qlib.init(provider_uri=sys.argv[1], kernels=1, logging_level=50)
    D.features(sys.argv[3].split(), sys.argv[4:], "2017-01-01", "2018-12-31").to_parquet(sys.argv[2])
"""


def days_of(demo: DemoMarket) -> pd.DatetimeIndex:
    """Return every second day of two years."""
    return demo.days[(demo.days >= "2017-01-01") & (demo.days <= "2018-12-31")][::2]


def asked(demo: DemoMarket) -> list[str]:
    """Return some instruments, in no order; one has no prices."""
    return [demo.instruments[9], UNKNOWN, demo.instruments[2], demo.instruments[30]]


@pytest.fixture(scope="module")
def found(market_home: tuple[Path, DemoMarket], tmp_path_factory: pytest.TempPathFactory) -> BaseFeatures:
    """Return what is computed of good and bad expressions, in one child."""
    trace = tmp_path_factory.mktemp("trace") / "run"
    base = {name: ALPHA158[name] for name in NAMES}
    base["zero"] = "$close/($close-$close)"
    base["code"] = f"__import__('pathlib').Path({str(trace)!r}).touch()"
    demo = market_home[1]
    before = set(Path.cwd().iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base_features, "CELLS", 2 * len(base) * len(days_of(demo)))  # two instruments at a time
        result = base_features.values(base, demo.provider, days_of(demo), asked(demo))
    assert not trace.exists(), "what is no expression is not run"
    assert set(Path.cwd().iterdir()) == before, "Qlib leaves nothing in the current folder"
    return result


def test_qlib_says_the_same(
    market_home: tuple[Path, DemoMarket], found: BaseFeatures, tmp_path: Path
) -> None:
    """Computed in parts, the values are those of `D.features`, called directly for all instruments."""
    demo = market_home[1]
    days, codes = days_of(demo), asked(demo)
    file = tmp_path / "values.parquet"
    expressions = [ALPHA158[name] for name in NAMES]
    subprocess.run(
        [sys.executable, "-c", DIRECTLY, str(demo.provider), str(file), " ".join(codes), *expressions],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    theirs = pd.read_parquet(file)
    for name in NAMES:
        expected = theirs[ALPHA158[name]].unstack("instrument").reindex(index=days, columns=codes)
        np.testing.assert_array_equal(found.values[name], expected.to_numpy(np.float32), strict=True)
        assert np.isfinite(found.values[name][:, [0, 2, 3]]).all()


def test_a_simple_expression_by_hand(market_home: tuple[Path, DemoMarket], found: BaseFeatures) -> None:
    """A day's range is high less low over the open of that day and instrument."""
    demo = market_home[1]
    rows = demo.days.get_indexer(days_of(demo))
    opening, high, low = (demo.prices[field][rows] for field in ("open", "high", "low"))
    expected = ((high - low) / opening)[:, [9, 2, 30]]
    np.testing.assert_allclose(found.values["KLEN"][:, [0, 2, 3]], expected, rtol=1e-6)


def test_where_there_is_no_value(found: BaseFeatures) -> None:
    """An instrument without prices, and what is infinite, are NaN; an expression that is none is named."""
    assert tuple(found.values) == (*NAMES, "zero")
    for values in found.values.values():
        assert np.isnan(values[:, 1]).all()
    assert np.isnan(found.values["zero"]).all()
    assert found.note == "Not computed, for they are no expressions of Qlib's: code."


@pytest.mark.usefixtures("nothing_left")
def test_a_failure_is_told(market_home: tuple[Path, DemoMarket]) -> None:
    """An operator that Qlib does not know is a note with Qlib's own words, and nothing is left behind."""
    demo = market_home[1]
    found = base_features.values({"a": "Unheard($close, 5)"}, demo.provider, demo.days[:3], ["SH600000"])
    assert found.values == {}
    assert found.note.startswith("The base features are not among them: Qlib says ")
    assert "The operator [Unheard] is not registered" in found.note


def test_without_qlib(market_home: tuple[Path, DemoMarket], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Qlib is not installed, the note says what to install."""
    monkeypatch.setattr(base_features, "find_spec", lambda name: None)
    demo = market_home[1]
    found = base_features.values(dict(ALPHA158), demo.provider, demo.days[:3], ["SH600000"])
    assert (found.values, base_features.INSTALL in found.note) == ({}, True)


@pytest.mark.parametrize(
    ("base", "days", "codes"),
    [({}, 3, ["SH600000"]), ({"a": "$close"}, 0, ["SH600000"]), ({"a": "$close"}, 3, [])],
)
def test_nothing_asked_for(
    market_home: tuple[Path, DemoMarket],
    base: dict[str, str],
    days: int,
    codes: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without features, days or instruments no child is started, and there is nothing to say."""
    monkeypatch.setattr(base_features, "_run", None)
    demo = market_home[1]
    found = base_features.values(base, demo.provider, demo.days[:days], codes)
    assert (found.values, found.note) == ({}, "")


@pytest.mark.parametrize(
    "text",
    [
        "ChangeInstrument('SH000300', $close/Ref($close, 1)-1)",
        "If(($close > 3) & ~($open <= -1.5e-3), $close, Mask($open, 'SH600000'))",
        "$$roewa_q",
        "P($$roewa_q)",
        "Rolling($close, N=5, func='mean')",
    ],
)
def test_expressions(text: str) -> None:
    """What is made of fields, operators and numbers is an expression."""
    assert script.is_expression(text)


def test_base_sets_are_expressions() -> None:
    """Every feature of Alpha158 is one."""
    assert [name for name, text in ALPHA158.items() if not script.is_expression(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$close +",
        "close",
        "__import__('os').system('true')",
        "eval('1')",
        "Operators.register([])",
        "register($close)",
        "reset()",
        "Feature.__class__",
        "($close).__class__",
        "Mean($close, 5).__init__",
        "Mean.__globals__",
        "[x for x in $close]",
        "(lambda: 1)()",
        "Mean($close, *[5])",
        "Mean($close, **{})",
        "9**9**9",
        "$close[0]",
        "f'{$close}'",
        "$close if $open else 1",
        "($close := 3)",
        "ChangeInstrument('../../../secret', $close)",
        "Ref('$x' + open('a') + '$y', 1)",
        "Ref(\"$x + open('a') + $y\", 1)",
        "getattr(Feature, 'x')",
        "(" * 500 + ")" * 500,
    ],
)
def test_what_is_no_expression(text: str) -> None:
    """Anything else that Python would run is refused."""
    assert not script.is_expression(text)
