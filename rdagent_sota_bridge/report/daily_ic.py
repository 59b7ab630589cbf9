"""A model's IC day by day: what Qlib's analysis of the signal leaves in mlflow's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rdagent_sota_bridge.errors import ResultError
from rdagent_sota_bridge.factor_set import safe_pickle
from rdagent_sota_bridge.system.files import open_file


@dataclass(frozen=True, eq=False)
class DailyIC:
    """The correlations of prediction and label on each day of the test segment, by day, ascending.

    Attributes:
        ic: float64: Pearson's. Its mean is the `IC` of Qlib's metrics.
        rank_ic: float64: Spearman's.
    """

    ic: pd.Series
    rank_ic: pd.Series


def read(workspace: Path, recorder: str) -> DailyIC:
    """Return the daily IC of one back-test (Qlib's `SigAnaRecord`, `workflow/record_temp.py`, pyqlib 0.9.7).

    Args:
        workspace: The folder that holds `mlruns`.
        recorder: mlflow's id of the run.

    Raises:
        ResultError: if it is not there, or can't be read.
    """
    folders = workspace.glob(f"mlruns/*/{recorder}/artifacts/sig_analysis") if recorder else iter(())
    folder = next(folders, workspace / "mlruns")
    try:
        return DailyIC(*(_series(folder / name) for name in ("ic.pkl", "ric.pkl")))
    except FileNotFoundError:
        trouble = "Qlib left no sig_analysis"
    except (OSError, *safe_pickle.DAMAGE) as error:
        trouble = f"sig_analysis can't be read ({type(error).__name__})"
    raise ResultError(f"Its IC has no error: {trouble}", str(folder), "run the model again")


def of_predictions(predicted: pd.DataFrame) -> pd.Series:
    """Return Pearson's IC by day, as Qlib has it (`contrib/eva/alpha.py`), of `predict_again`'s table."""
    days = predicted.dropna().groupby(level="datetime")
    found: pd.Series = days.apply(lambda day: day["score"].corr(day["label"]))
    return found.sort_index()


def _series(file: Path) -> pd.Series:
    with open_file(file) as content:
        values = pd.Series(safe_pickle.metrics(safe_pickle.load(content)), dtype="float64")
    values.index = pd.to_datetime(values.index, format="ISO8601")
    return values.sort_index()
