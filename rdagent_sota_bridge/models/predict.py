"""What a recorded model predicts now: for its own test segment, or for other days."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge.errors import PredictError
from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.factor_set.names import DATETIME, INSTRUMENT
from rdagent_sota_bridge.models import child
from rdagent_sota_bridge.models.retrain import own_set, place_set
from rdagent_sota_bridge.qlib_files import manifest, training_record
from rdagent_sota_bridge.qlib_files.training_record import MODEL_FILE

LATEST_DAY = "latest"
"""The word for the last day on which every feature has values."""

TOLERANCE = 1e-4
"""By so much of the scores' standard deviation old predictions may come out otherwise."""

SCRIPT = "sota_predict.py"
"""What runs in Qlib's environment."""

_PREDICTIONS, _REPEATED = "sota_predictions.parquet", "sota_repeated.parquet"
_SHOWN = 3  # examples in a message


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model predicts for some days.

    Attributes:
        scores: As `predict_again` returns them.
        moved: `recorded` and `score` by datetime and instrument, of the old scores that differ by more than
            `TOLERANCE` of their standard deviation; the largest difference first.
        about: As a manifest says it: `recorder` (mlflow's id), `factor_set` (its digest; None where no
            manifest has it), `days` that were asked for, `qlib_data_end`, `features_end` (the last day on
            which every feature has values), `versions` in Qlib's environment, and `old_scores`, of which
            `largest_difference` is 0.0 where all are equal to the bit, and None where a row is gone or new;
            and `changed_data`: whether any moved, and that was accepted. A bundle has no `recorder`, and its
            `old_scores` is None.
    """

    scores: pd.DataFrame
    moved: pd.DataFrame
    about: dict[str, Any]


def predict(
    of: Path,
    days: tuple[str, str] | None,
    values: Path | None,
    changed_data: bool,
    say: Callable[[str], object],
) -> Prediction:
    """Return what a recorded model predicts for some days, once its old predictions have come out again.

    The data are loaded from the test segment on, or from the first day asked for: at CSI300's scale that
    takes a third of the memory. Features with a memory without end can differ there; then all are loaded
    from the recorded start, from which predictions are equal to the bit while the data are what they were.

    Args:
        of: The model's workspace; a folder in it is used, and removed.
        days: First and last day (ISO, both inclusive); None for the last on which every feature has values.
        values: A factor file in place of the workspace's own, with the same columns.
        changed_data: Go on where old predictions came out otherwise.
        say: Gets a line of progress now and then.

    Raises:
        PredictError: if a day is none that can be predicted, `values` lacks a column, or old predictions
            came out otherwise.
        As `predict_again`.
    """
    of = of.absolute()
    asked = LATEST_DAY if days is None else list(days)
    found = _compared(of, *_run(of, values, asked, late=True))
    if found.moved.size:
        say(f"old scores differ: {sentence(found.about)}; once more, on data from the recorded start")
        found = _compared(of, *_run(of, values, asked, late=False))
    if found.moved.size and not changed_data:
        raise _changed(found)
    check_scored(found, of)
    return found


def check_scored(found: Prediction, place: Path) -> None:
    """Refuse a prediction where a day has no scores."""
    scored = set(_iso(found.scores["score"].dropna().index.unique(DATETIME)))
    if without := [day for day in found.about["days"] if day not in scored]:
        fact = f"The model gives no instrument a score on {', '.join(without[:_SHOWN])}"
        raise PredictError(fact, str(place), "name other days, or take another model")


def predict_again(of: Path, days: tuple[str, str] | None = None) -> pd.DataFrame:
    """Return what a recorded model predicts, in Qlib's environment, from the data as they are now.

    Nothing is fitted: what scaled the features in the training scales them here. Data are loaded from the
    recorded start.

    Args:
        of: The model's workspace; a folder in it is used, and removed.
        days: First and last day (ISO, both inclusive); None for the test segment.

    Returns:
        `score` and `label` (raw; NaN where it lies behind the data's end), by datetime and instrument.

    Raises:
        ResultError: if there is no training, it can't be read, or nothing was predicted.
        FactorFileNotFoundError, SetChangedError: if the file of the set is gone, or is another one.
        PredictError: if a day is none that can be predicted.
        StoreError: if a file can't be read or written.
    """
    scores, *_ = _run(of.absolute(), None, None if days is None else list(days), late=False)
    return scores


# --- in Qlib's environment ---


def _run(
    of: Path, values: Path | None, asked: list[str] | str | None, *, late: bool
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Return the scores, the old ones as `score` beside `recorded`, and what the script says."""
    training = training_record.read_training(of)
    dataset = training.config["task"]["dataset"]
    factors = _checked_set(of, values) if training.has_factor_file else None
    request = {"qlib_init": training.config["qlib_init"], "dataset": dataset, "asked": asked, "late": late}
    with child.folder_in(of, "The model can't predict") as folder:
        if factors is not None:
            place_set(factors, folder)
        artifacts = training.run / "artifacts"
        recorded = [artifacts / name for name in ("dataset", "params.pkl", "pred.pkl")]
        for file in (of / MODEL_FILE, *recorded):
            shutil.copyfile(file, folder / file.name)
        about = child.ask_qlib(folder, SCRIPT, request, "The model predicted nothing")
        scores = scores_in(folder, about)
        again = pd.read_parquet(folder / _REPEATED) if asked else scores
        return scores, again, {"recorder": training.run.name, **about}


def scores_in(folder: Path, about: dict[str, Any]) -> pd.DataFrame:
    """Return the scores that the script left.

    Raises:
        PredictError: if it says that it can't predict the days.
    """
    if "refused" in about:
        raise PredictError(*about["refused"])
    return pd.read_parquet(folder / _PREDICTIONS)


def _checked_set(of: Path, values: Path | None) -> Path:
    """Return the factor file, the workspace's own if it is what the model was trained on."""
    record = manifest.read(of)
    if values is None:
        return own_set(of, record.stored)
    if missing := [name for name in record.mined if name not in parquet.read_footer(values).columns]:
        fact = f"The factor file has no column {', '.join(missing)}"
        raise PredictError(fact, str(values), "bring a file with all columns that the model was trained on")
    return values


# --- old predictions ---


def _compared(of: Path, scores: pd.DataFrame, repeated: pd.DataFrame, about: dict[str, Any]) -> Prediction:
    now, before = repeated["score"], repeated["recorded"]
    difference = (now - before).abs().where(now.notna() & before.notna(), np.inf)
    difference[now.isna() & before.isna()] = 0.0
    largest, deviation = float(difference.max()), float(before.std())
    far = difference[difference > TOLERANCE * deviation].sort_values(ascending=False, kind="stable")
    days = _iso(before.dropna().index.unique(DATETIME))
    old = {
        "days": [min(days), max(days)],
        "rows": int(before.count()),
        "moved": len(far),
        "largest_difference": largest if np.isfinite(largest) else None,
        "standard_deviation": deviation,
        "data_from": about.pop("data_from"),
    }
    about = {"factor_set": manifest.read(of).digest, **about, "old_scores": old, "changed_data": len(far) > 0}
    return Prediction(scores, repeated.loc[far.index, ["recorded", "score"]], about)


def sentence(about: dict[str, Any]) -> str:
    """Return how the old scores came out."""
    old = about["old_scores"]
    largest, deviation = old["largest_difference"], old["standard_deviation"]
    if largest == 0:
        return f"{old['rows']:,} equal to the bit"
    most = "rows are gone or new" if largest is None else f"the most by {largest:.2g}"
    part = f"{TOLERANCE:g} of their standard deviation ({deviation:.2g})"
    return f"{old['moved']:,} of {old['rows']:,} by more than {part}, {most}"


def _changed(found: Prediction) -> PredictError:
    days, codes = (found.moved.index.unique(level).sort_values() for level in (DATETIME, INSTRUMENT))
    shown = [
        f"{code} on {str(day)[:10]} ({before:.6g} then, {now:.6g} now)"
        for (day, code), before, now in found.moved.head(_SHOWN).itertuples()
    ]
    span = " to ".join(_iso(days[[0, -1]]))
    fact = f"Old scores came out otherwise: {sentence(found.about)}; the data are not those of the training"
    fix = "put the data back; or, if the provider adjusted prices anew, accept that with --changed-data"
    place = f"{len(days)} days, {span}, {len(codes)} instruments; the most: {', '.join(shown)}"
    return PredictError(fact, place, fix)


def _iso(days: Any) -> list[str]:
    return [str(day)[:10] for day in days]
