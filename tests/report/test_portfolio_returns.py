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
from rdagent_sota_bridge.report.portfolio_returns import Returns


def report(days: int = 250) -> pd.DataFrame:
    """Return daily returns as Qlib's `report_normal_1day.pkl` holds them."""
    random = np.random.default_rng(3)
    index = pd.DatetimeIndex(pd.bdate_range("2017-01-03", periods=days), name="datetime")
    columns = ["account", "return", "total_turnover", "turnover", "total_cost", "cost", "value", "bench"]
    values = random.normal(scale=0.01, size=(days, len(columns)))
    frame = pd.DataFrame(values, index=index, columns=columns)
    frame["cost"] = frame["cost"].abs() / 10
    return frame


def written(frame: pd.DataFrame, file: Path, protocol: int = 5) -> Path:
    """Write returns as RD-Agent's `read_exp_res.py` does in 1.0.0 (parquet) and 0.8.0 (pickle)."""
    frame.to_parquet(file) if file.suffix == ".parquet" else frame.to_pickle(file, protocol=protocol)
    return file.parent


def found_in(workspace: Path) -> Returns:
    """Return the returns in a workspace, which are there."""
    found = portfolio_returns.read(workspace)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "protocol"), [("ret.parquet", 0), ("ret.pkl", 3), ("ret.pkl", 4), ("ret.pkl", 5)]
)
def test_sums_are_qlibs(name: str, protocol: int, tmp_path: Path) -> None:
    """In each form of the file, the sums and the drawdown are what Qlib's analysis makes of the returns."""
    from qlib.contrib.evaluate import risk_analysis

    frame = report()
    frame["count"] = range(len(frame))
    found = found_in(written(frame, tmp_path / name, protocol))
    excess = frame["return"] - frame["bench"]
    assert list(found.days) == list(frame.index)
    np.testing.assert_allclose(found.excess_without_cost, excess.cumsum(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.excess_with_cost, (excess - frame["cost"]).cumsum(), rtol=0, atol=1e-12)
    risk = risk_analysis(excess - frame["cost"], freq="day")["risk"]
    assert found.excess_with_cost[-1] == pytest.approx(risk["mean"] * len(frame))
    assert found.drawdown.min() == pytest.approx(risk["max_drawdown"], abs=1e-12)


def test_which_file_and_which_days(tmp_path: Path) -> None:
    """The newer form wins; days are summed in time, one without a benchmark is skipped, as Qlib does it."""
    assert portfolio_returns.read(tmp_path) is None
    frame = report(6)
    frame.iloc[1, frame.columns.get_loc("bench")] = np.nan
    written(report(3), tmp_path / "ret.pkl")
    found = found_in(written(frame.iloc[::-1], tmp_path / "ret.parquet"))
    assert found.days.is_monotonic_increasing
    np.testing.assert_allclose(found.excess_without_cost, (frame["return"] - frame["bench"]).cumsum())
    assert list(np.isnan(found.excess_with_cost)) == [False, True, False, False, False, False]


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
