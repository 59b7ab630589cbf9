"""The daily returns of a back-test, and that their sums are Qlib's."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.errors import ResultError
from rdagent_sota_bridge.report import portfolio_returns


def report(days: int = 250) -> pd.DataFrame:
    """Return daily returns as Qlib's `report_normal_1day.pkl` holds them."""
    random = np.random.default_rng(3)
    index = pd.DatetimeIndex(pd.bdate_range("2017-01-03", periods=days), name="datetime")
    columns = ["account", "return", "total_turnover", "turnover", "total_cost", "cost", "value", "bench"]
    values = random.normal(scale=0.01, size=(days, len(columns)))
    frame = pd.DataFrame(values, index=index, columns=columns)
    frame["cost"] = frame["cost"].abs() / 10
    return frame


def write(frame: pd.DataFrame, workspace: Path, name: str) -> Path:
    """Write returns as RD-Agent's `read_exp_res.py` does in 1.0.0 (parquet) and 0.8.0 (pickle)."""
    file = workspace / name
    frame.to_parquet(file) if name == "ret.parquet" else frame.to_pickle(file)
    return file


@pytest.mark.parametrize("name", ["ret.parquet", "ret.pkl"])
def test_sums_are_qlibs(name: str, tmp_path: Path) -> None:
    """The last sums and the lowest drawdown are what Qlib's own analysis makes of the same returns."""
    from qlib.contrib.evaluate import risk_analysis

    frame = report()
    write(frame, tmp_path, name)
    found = portfolio_returns.read(tmp_path)
    assert found is not None
    excess = frame["return"] - frame["bench"]
    assert list(found.days) == list(frame.index)
    np.testing.assert_allclose(found.excess_without_cost, excess.cumsum(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.excess_with_cost, (excess - frame["cost"]).cumsum(), rtol=0, atol=1e-12)
    summed = risk_analysis(excess - frame["cost"], freq="day").loc["mean", "risk"] * len(frame)
    assert found.excess_with_cost[-1] == pytest.approx(summed)
    risk = risk_analysis(frame["return"] - frame["bench"] - frame["cost"], freq="day")
    assert found.drawdown.min() == pytest.approx(risk.loc["max_drawdown", "risk"], abs=1e-12)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickles_of_older_pythons(protocol: int, tmp_path: Path) -> None:
    """Whatever form Qlib's environment pickles in, the values are the same."""
    frame = report(5)
    frame["count"] = range(5)
    frame.to_pickle(tmp_path / "ret.pkl", protocol=protocol)
    found = portfolio_returns.read(tmp_path)
    assert found is not None
    expected = (frame["return"] - frame["bench"]).cumsum()
    np.testing.assert_array_equal(found.excess_without_cost, expected.to_numpy())


def test_the_parquet_file_wins(tmp_path: Path) -> None:
    """Without a file there are no returns, which is no error; of both the newer form is read."""
    assert portfolio_returns.read(tmp_path) is None
    write(report(3), tmp_path, "ret.pkl")
    write(report(5), tmp_path, "ret.parquet")
    found = portfolio_returns.read(tmp_path)
    assert found is not None
    assert len(found.days) == 5


def test_days_out_of_order_and_without_a_value(tmp_path: Path) -> None:
    """Days are summed in their order in time, and one without a benchmark is skipped, as Qlib does it."""
    frame = report(6)
    frame.iloc[1, frame.columns.get_loc("bench")] = np.nan
    write(frame.iloc[::-1], tmp_path, "ret.parquet")
    found = portfolio_returns.read(tmp_path)
    assert found is not None
    assert found.days.is_monotonic_increasing
    np.testing.assert_allclose(found.excess_without_cost, (frame["return"] - frame["bench"]).cumsum())
    assert np.isnan(found.excess_with_cost[1])
    assert not np.isnan(found.excess_with_cost[2:]).any()


MARK = Path("was run")
DAY = pd.Timestamp("2017-01-03")


class _Hostile:
    """Asks the unpickler to make a file in the current folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (MARK,)


@pytest.mark.parametrize(
    ("name", "content", "fact"),
    [
        ("ret.parquet", b"PAR1 cut off", "Parquet"),
        ("ret.parquet", b"", "size is 0"),
        ("ret.pkl", b"", "EOFError"),
        ("ret.pkl", b"\x80\x04\x95", "UnpicklingError"),
        ("ret.pkl", pickle.dumps({"return": [1.0]}), "AttributeError"),
        ("ret.pkl", pickle.dumps(pd.Series([1.0])), "Error"),
        ("ret.pkl", pickle.dumps(report(3).drop(columns="bench")), "bench.* not in index"),
        ("ret.pkl", pickle.dumps(report(3).reset_index(drop=True)), "Error"),
        ("ret.pkl", pickle.dumps(report(3).astype(str)), "texts in place of numbers"),
        ("ret.pkl", pickle.dumps(report(0)), "no days"),
        ("ret.pkl", pickle.dumps(pd.concat([report(2), report(2)])), "twice"),
        ("ret.pkl", pickle.dumps(_Hostile()), "can't be read"),
        ("ret.pkl", pickle.dumps(pd.DataFrame({"return": [_Hostile()]}, index=[DAY])), "can't be read"),
        ("ret.parquet", report(3).astype(str).to_parquet(), "column return holds no numbers"),
    ],
)
def test_damage(
    name: str, content: bytes, fact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Returns that can't be read are one error that names the file; nothing that a pickle asks for is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ResultError, match=fact) as caught:
        portfolio_returns.read(tmp_path)
    assert caught.value.place == str(tmp_path / name)
    assert not MARK.exists()
