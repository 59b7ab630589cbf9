"""What a prediction is asked for, and what is left of it; a stand-in predicts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_bridge.errors import (
    PredictError,
    ResultError,
)
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models import child
from rdagent_sota_bridge.models.predict import TOLERANCE, predict, predict_again
from tests import frames, trained

DAY = "2020-09-30"
ABOUT = {"data_from": "2016-12-01", "qlib_data_end": DAY, "features_end": DAY, "days": [DAY]}
INDEX = pd.MultiIndex.from_tuples([(pd.Timestamp(DAY), "SH600000")], names=["datetime", "instrument"])
FOUND = pd.DataFrame({"score": [0.5], "label": [float("nan")]}, INDEX)


def repeated(shift: float = 0.0) -> pd.DataFrame:
    """Return three old scores, and the same again but for a shift of the last one."""
    days = pd.to_datetime(["2020-01-01", "2020-01-01", "2020-01-02"])
    codes = ["SH600000", "SH600001", "SH600000"]
    index = pd.MultiIndex.from_arrays([days, codes], names=["datetime", "instrument"])
    return pd.DataFrame({"score": [-1.0, 0.0, 1.0 + shift], "recorded": [-1.0, 0.0, 1.0]}, index)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the workspace of a model with all that Qlib records."""
    return trained.with_pickles(trained.write_training(tmp_path / "model"))


def answering(repeats: list[pd.DataFrame], asked: list[Any], **about: Any) -> Any:
    """Return what stands in for Qlib: it keeps what it is asked, and leaves one repeat after the other."""

    def call(function: str, folder: Path, script: str) -> None:
        names = {file.name for file in folder.iterdir()}
        recorded = {"model.py", FACTOR_FILE, "params.pkl", "dataset", "pred.pkl"}
        assert names == {*recorded, "sota_predict.py", "sota_request.json"}
        assert (function, script) == ("run_in_qlib", "sota_predict.py")
        asked.append(json.loads((folder / "sota_request.json").read_text()))
        FOUND.to_parquet(folder / "sota_predictions.parquet")
        repeats.pop(0).to_parquet(folder / "sota_repeated.parquet")
        (folder / "sota_answer.json").write_text(json.dumps({**ABOUT, **about}))

    return call


@pytest.mark.parametrize("days", [None, ("2020-08-03", "2020-09-30")])
def test_what_is_asked(days: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded data set, the days where some are named, and a folder of its own, which is removed.

    So is one that a killed process has left, once that is long ago.
    """
    asked: list[Any] = []
    monkeypatch.setattr(child, "call", answering([repeated()], asked))
    (model / ".sota-used").mkdir()
    before = sorted(model.rglob("*"))
    (model / ".sota-of a killed one").mkdir()
    os.utime(model / ".sota-of a killed one", (1e9, 1e9))
    pd.testing.assert_frame_equal(predict_again(model, days), FOUND)
    assert sorted(model.rglob("*")) == before
    expected = json.loads(json.dumps(trained.config(), default=str))
    named = {"qlib_init": expected["qlib_init"], "dataset": expected["task"]["dataset"]}
    assert asked == [{**named, "asked": days and list(days), "late": False}]


@pytest.mark.parametrize(
    ("shifts", "largest", "moved"),
    [
        ([0.0], 0.0, 0),
        ([TOLERANCE / 2], TOLERANCE / 2, 0),
        ([0.5, 0.0], 0.0, 0),
        ([0.5, 0.5], 0.5, 1),
        ([float("nan")] * 2, None, 1),
    ],
)
def test_old_scores(
    shifts: list[float], largest: Any, moved: int, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come out of late data; else of all of them; what moved still is said, and taken where asked."""
    asked: list[Any] = []
    monkeypatch.setattr(child, "call", answering([repeated(one) for one in shifts], asked))
    found = predict(model, None, None, moved > 0, lambda _: None)
    assert [(one["asked"], one["late"]) for one in asked] == [("latest", True), ("latest", False)][
        : len(shifts)
    ]
    old = found.about.pop("old_scores")
    assert old.pop("largest_difference") == (largest if largest is None else pytest.approx(largest))
    known = {"days": ["2020-01-01", "2020-01-02"], "rows": 3, "standard_deviation": 1.0}
    assert old == {**known, "moved": moved, "data_from": "2016-12-01"}
    assert len(found.moved) == moved
    named = {"recorder": trained.RECORDER, "factor_set": trained.DIGEST, "changed_data": moved > 0}
    assert found.about == {**named, **{name: value for name, value in ABOUT.items() if name != "data_from"}}


def test_moved_scores(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which days and instruments."""
    monkeypatch.setattr(child, "call", answering([repeated(0.5), repeated(0.5)], []))
    with pytest.raises(
        PredictError, match=r"1 of 3 by more than 0.0001 of .* \(1\), the most by 0.5;"
    ) as caught:
        predict(model, None, None, False, lambda _: None)
    place = "1 days, 2020-01-02 to 2020-01-02, 1 instruments; the most: SH600000 on 2020-01-02"
    assert caught.value.place == f"{place} (1 then, 1.5 now)"


def test_a_day_without_scores(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No day is left out in silence."""
    monkeypatch.setattr(child, "call", answering([repeated()], [], days=[DAY, "2020-09-29"]))
    with pytest.raises(PredictError, match="no instrument a score on 2020-09-29"):
        predict(model, None, None, False, lambda _: None)


def test_another_factor_file(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the place of the workspace's own, if it has the columns."""
    other = tmp_path / "values.parquet"
    frames.factor_frame(trained.MINED).to_parquet(other)
    seen: list[bytes] = []

    def call(_: str, folder: Path, __: str) -> None:
        seen.append((folder / FACTOR_FILE).read_bytes())
        (folder / child.OUTPUT).touch()

    monkeypatch.setattr(child, "call", call)
    with pytest.raises(ResultError, match="predicted nothing"):
        predict(model, None, other, False, print)
    assert seen == [other.read_bytes()]
    frames.factor_frame(trained.MINED[:1]).to_parquet(other)
    with pytest.raises(PredictError, match=f"no column {trained.MINED[1]}"):
        predict(model, None, other, False, print)
