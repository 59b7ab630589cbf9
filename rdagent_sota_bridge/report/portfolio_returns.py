"""What a back-test earned: the daily returns that RD-Agent leaves in a workspace, and their sums."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from rdagent_sota_bridge.errors import ResultError, shortened
from rdagent_sota_bridge.factor_set import safe_pickle

_COLUMNS = ["return", "bench", "cost"]


@dataclass(frozen=True, eq=False)
class Returns:
    """The daily returns of one back-test, and their running sums (Qlib sums returns, it does not compound).

    Attributes:
        days: The days, ascending.
        excess_without_cost: float64, (days,): running sum of `return - bench`.
        excess_with_cost: float64, (days,): running sum of `return - bench - cost`.
        drawdown: float64, (days,): `excess_with_cost` less its highest value so far; 0 or negative.
    """

    days: pd.DatetimeIndex
    excess_without_cost: Any
    excess_with_cost: Any
    drawdown: Any

    @property
    def daily_excess(self) -> pd.Series:
        """`return - bench - cost` by day, without the days that have none."""
        sums = pd.Series(self.excess_with_cost, self.days).dropna()
        return sums.diff().fillna(sums)


def read(workspace: Path) -> Returns | None:
    """Return the daily returns of the back-test in a workspace, or None where it left none.

    RD-Agent's `read_exp_res.py` writes Qlib's report of the portfolio into `ret.parquet` (1.0.0) or `ret.pkl`
    (0.8.0; read without running anything that it names). The sums are those of `_calculate_report_data` in
    Qlib's `contrib/report/analysis_position/report.py` (pyqlib 0.9.7), and the lowest drawdown is what Qlib
    calls `1day.excess_return_with_cost.max_drawdown`.

    Raises:
        ResultError: if the file is damaged, or holds no such report.
    """
    file = next(filter(Path.is_file, (workspace / "ret.parquet", workspace / "ret.pkl")), None)
    if file is None:
        return None
    try:
        if file.suffix == ".parquet":
            report = pd.read_parquet(file, engine="pyarrow")
        else:
            report = safe_pickle.table(safe_pickle.load(io.BytesIO(file.read_bytes())))
        report = report[_COLUMNS].sort_index()
        if not isinstance(report.index, pd.DatetimeIndex):
            raise ValueError("its index holds no days")
        if report.empty or report.index.hasnans or not report.index.is_unique:
            raise ValueError("it has no days, or days without a date or twice")
        for name in _COLUMNS:
            if not pd.api.types.is_numeric_dtype(report[name]):
                raise ValueError(f"its column {name} holds no numbers")
    except (OSError, pa.ArrowException, *safe_pickle.DAMAGE) as error:
        trouble = shortened(f"{type(error).__name__}: {error}")
        fix = "copy the file anew, or leave the run out; its metrics stand in qlib_res.csv"
        raise ResultError(
            f"The daily returns of a back-test can't be read: {trouble}", str(file), fix
        ) from None
    report = report.astype("float64")
    without_cost = report["return"] - report["bench"]
    with_cost = (without_cost - report["cost"]).cumsum()
    return Returns(
        days=report.index,
        excess_without_cost=without_cost.cumsum().to_numpy(),
        excess_with_cost=with_cost.to_numpy(),
        drawdown=(with_cost - with_cost.cummax()).to_numpy(),
    )
