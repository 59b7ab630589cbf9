"""What a recorded model predicts now: for its own test segment, or for other days."""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import AliasPath, BaseModel, Field

from rdagent_sota_bridge.errors import OTHER_RELEASE, PredictError, ResultError, SeamError, shortened
from rdagent_sota_bridge.factor_set import parquet, store
from rdagent_sota_bridge.factor_set.names import DATETIME, FACTOR_FILE, INSTRUMENT
from rdagent_sota_bridge.models import child
from rdagent_sota_bridge.models.retrain import MODEL_FILE, set_is_gone
from rdagent_sota_bridge.qlib_files import docker, training_record
from rdagent_sota_bridge.qlib_files.manifest import MANIFEST_FILE
from rdagent_sota_bridge.qlib_files.training_record import Training
from rdagent_sota_bridge.system import files

LATEST_DAY = "latest"
"""The word for the last day on which every feature has values."""

TOLERANCE = 1e-4
"""By so much of the scores' standard deviation old predictions may come out otherwise."""

_SCRIPT = resources.files("rdagent_sota_bridge.qlib_side") / "sota_predict.py"
_PREDICTIONS, _REPEATED = "sota_predictions.parquet", "sota_repeated.parquet"
_ABOUT = "sota_predict_about.json"
_OUTPUT = "sota_predict.txt"  # what Qlib said where there are no predictions, in the model's workspace
_SHOWN = 3  # examples in a message


@dataclass(frozen=True, eq=False)
class Repeat:
    """How a model's old predictions came out again: the rows of its recorded test segment.

    Attributes:
        days: Their first and last day (ISO).
        rows: How many there were.
        largest: The largest difference of two scores, 0.0 where all are equal to the bit; infinite where a
            row is gone, or new.
        deviation: The standard deviation of the scores as they were.
        moved: `recorded` and `score` by datetime and instrument, of the rows that differ by more than
            `TOLERANCE` of it; the largest difference first.
        start: The first day of the data that were loaded (ISO).
    """

    days: tuple[str, str]
    rows: int
    largest: float
    deviation: float
    moved: pd.DataFrame
    start: str

    def __str__(self) -> str:
        if not self.largest:
            return f"{self.rows:,} equal to the bit"
        part = self.largest / self.deviation if self.deviation else np.inf
        return (
            f"{len(self.moved):,} of {self.rows:,} by more than {TOLERANCE:g} of their standard deviation, "
            f"the most by {part:.2g} of it"
        )


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model predicts for some days.

    Attributes:
        scores: As `predict_again` returns them.
        days: The trading days that were asked for (ISO); each has scores.
        repeat: How the old predictions came out.
        calendar_end: The last day of Qlib's data (ISO).
        features_end: The last day on which every feature has values (ISO).
        versions: Versions in Qlib's environment.
        recorder: mlflow's id of the training.
        factor_set: The digest of the set that the model was trained on; None where no manifest says it.
    """

    scores: pd.DataFrame
    days: tuple[str, ...]
    repeat: Repeat
    calendar_end: str
    features_end: str
    versions: dict[str, str]
    recorder: str
    factor_set: str | None


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
        PredictError: if a day is none that can be predicted, or old predictions came out otherwise.
        As `predict_again`.
    """
    of = of.absolute()
    training = training_record.read_training(of)
    asked = LATEST_DAY if days is None else list(days)
    found, repeat = _repeated(of, training, values, {"asked": asked, "late": True})
    if repeat.moved.size:
        say(f"old scores differ, {repeat}: once more, on data from the recorded start")
        found, repeat = _repeated(of, training, values, {"asked": asked, "late": False})
    if repeat.moved.size and not changed_data:
        raise _moved(repeat)
    about, scored = found.about, found.scores["score"].dropna().index.unique(DATETIME)
    if without := [iso(day) for day in about["days"] if pd.Timestamp(day) not in scored]:
        fact = f"The model gives no instrument a score on {', '.join(without[:_SHOWN])}"
        raise PredictError(fact, str(of), "name other days, or take another model")
    ends = iso(about["calendar_end"]), iso(about["features_end"])
    days_iso = tuple(map(iso, about["days"]))
    named = training.run.name, _manifest(of).digest
    return Prediction(found.scores, days_iso, repeat, *ends, about["versions"], *named)


def predict_again(of: Path, days: tuple[str, str] | None = None, values: Path | None = None) -> pd.DataFrame:
    """Return what a recorded model predicts, in Qlib's environment, from the data as they are now.

    Nothing is fitted: what scaled the features in the training scales them here. Data are loaded from the
    recorded start.

    Args:
        of: The model's workspace; a folder in it is used, and removed.
        days: First and last day (ISO, both inclusive); None for the test segment.
        values: A factor file in place of the workspace's own, with the same columns.

    Returns:
        `score` and `label` (raw; NaN where it lies behind the data's end), by datetime and instrument.

    Raises:
        ResultError: if there is no training, it can't be read, or nothing was predicted.
        FactorFileNotFoundError, SetChangedError: if the file of the set is gone, or is another one.
        PredictError: if a day is none that can be predicted, or `values` lacks a column.
        SeamError: if the recorded configuration has a form that is not known.
        StoreError: if a file can't be read or written.
    """
    of = of.absolute()
    asked = None if days is None else list(days)
    return _run(of, training_record.read_training(of), values, {"asked": asked, "late": False}).scores


# --- in Qlib's environment ---


@dataclass(frozen=True, eq=False)
class _Answer:
    """What the script left: scores of the days asked for, `score` beside `recorded`, and what it says."""

    scores: pd.DataFrame
    repeated: pd.DataFrame
    about: dict[str, Any]


def _run(of: Path, training: Training, values: Path | None, asked: dict[str, Any]) -> _Answer:
    try:
        dataset = training.config["task"]["dataset"]
        loaders = dataset["kwargs"]["handler"]["kwargs"]["data_loader"]["kwargs"]["dataloader_l"]
        with_set = FACTOR_FILE in [loader["kwargs"]["config"] for loader in loaders]
        # Dates become text, which Qlib takes as well.
        named = {"qlib_init": training.config["qlib_init"], "dataset": dataset, **asked}
        config = json.dumps(named, default=str)
    except (KeyError, TypeError) as error:
        fact = f"What Qlib recorded has a form that is not known: {type(error).__name__}: {error}"
        raise SeamError(fact, str(training.run / "artifacts" / "task"), OTHER_RELEASE) from None
    factors = _checked_set(of, values) if with_set else None
    fix = "make the files readable and writable for you, with room on the disk"
    with (
        store.failing_at(of, ("The model can't predict", fix)),
        tempfile.TemporaryDirectory(dir=of, prefix=".predict-", ignore_cleanup_errors=True) as name,
    ):
        folder = Path(name)
        if factors is not None:
            files.place(factors, folder / FACTOR_FILE, link=not docker.is_qlib_in_docker())
        artifacts = training.run / "artifacts"
        recorded = [artifacts / name for name in ("dataset", "params.pkl", "pred.pkl")]
        for file in (of / MODEL_FILE, *recorded):
            shutil.copyfile(file, folder / file.name)
        (folder / "sota_predict.json").write_text(config, encoding="utf-8")
        # With an id of its own, for RD-Agent's ENABLE_CACHE, which knows the texts of Python files alone.
        script = f"{_SCRIPT.read_text(encoding='utf-8')}\n# {uuid.uuid4().hex}\n"
        (folder / _SCRIPT.name).write_text(script, encoding="utf-8")
        child.call("run_in_qlib", folder, _SCRIPT.name)
        if (folder / _ABOUT).is_file():
            about = files.read_json(folder / _ABOUT)
            if "refused" in about:
                raise PredictError(*about["refused"])
            scores = pd.read_parquet(folder / _PREDICTIONS)
            again = pd.read_parquet(folder / _REPEATED) if asked["asked"] else scores
            return _Answer(scores, again, about)
        said = (folder / child.OUTPUT).replace(of / _OUTPUT)
        raise ResultError("The model predicted nothing", str(said), "see what Qlib says there")


def _checked_set(of: Path, values: Path | None) -> Path:
    """Return the factor file, the workspace's own if it is what the model was trained on."""
    file = of / FACTOR_FILE
    if values is None and not file.is_file():
        raise set_is_gone(file)
    record = _manifest(of)
    if values is not None:
        if missing := [name for name in record.mined if name not in parquet.read_footer(values).columns]:
            fact = f"The factor file has no column {', '.join(missing)}"
            raise PredictError(
                fact, str(values), "bring a file with all columns that the model was trained on"
            )
        return values
    if record.stored and (now := parquet.current_digest(file)) != record.stored:
        raise parquet.changed_set(file, record.stored, now)
    return file


class _Manifest(BaseModel):
    """What a manifest says of the set; a model that RD-Agent merged the factors for has none."""

    mined: tuple[str, ...] = Field((), validation_alias="mined_columns")
    digest: str | None = Field(None, validation_alias=AliasPath("factor_set", "digest"))
    stored: str | None = Field(None, validation_alias=AliasPath("factor_set", "stored", "digest"))


def _manifest(of: Path) -> _Manifest:
    file = of / MANIFEST_FILE
    try:
        return _Manifest.model_validate(files.read_json(file) if file.exists() else {})
    except (OSError, ValueError) as error:
        fact = f"What the model was trained on can't be read ({shortened(error)})"
        raise ResultError(fact, str(file), "leave the model out") from None


# --- old predictions ---


def _repeated(
    of: Path, training: Training, values: Path | None, asked: dict[str, Any]
) -> tuple[_Answer, Repeat]:
    found = _run(of, training, values, asked)
    return found, _repeat(found.repeated, iso(found.about["start"]))


def _repeat(repeated: pd.DataFrame, start: str) -> Repeat:
    now, before = repeated["score"], repeated["recorded"]
    difference = (now - before).abs().where(now.notna() & before.notna(), np.inf)
    difference[now.isna() & before.isna()] = 0.0
    deviation = float(before.std())
    far = difference[difference > TOLERANCE * deviation].sort_values(ascending=False, kind="stable")
    days = before.dropna().index.get_level_values(DATETIME)
    span = iso(days.min()), iso(days.max())
    moved = repeated.loc[far.index, ["recorded", "score"]]
    return Repeat(span, int(before.count()), float(difference.max()), deviation, moved, start)


def _moved(repeat: Repeat) -> PredictError:
    days, codes = (repeat.moved.index.unique(level).sort_values() for level in (DATETIME, INSTRUMENT))
    shown = [
        f"{code} on {iso(day)} ({before:.6g} then, {now:.6g} now)"
        for (day, code), before, now in repeat.moved.head(_SHOWN).itertuples()
    ]
    place = f"{len(days)} days from {iso(days[0])} to {iso(days[-1])}, {len(codes)} instruments; the most: "
    fact = f"Old scores came out otherwise, {repeat}: the data are not those of the training"
    fix = "put the data back; or, if the provider adjusted prices anew, accept that with --changed-data"
    return PredictError(fact, place + ", ".join(shown), fix)


def iso(day: object) -> str:
    """Return a day as text, without a time."""
    return str(day)[:10]
