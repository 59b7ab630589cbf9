"""What a prediction is asked for, and what is left of it; a stand-in predicts."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_bridge.errors import (
    BridgeError,
    FactorFileNotFoundError,
    ResultError,
    SeamError,
    StoreError,
)
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models import child
from rdagent_sota_bridge.models.predict import predict_again
from tests import trained

FOUND = pd.DataFrame({"score": [0.5], "label": [float("nan")]})


MODEL = {"module_path": "qlib", "kwargs": {}}


def task_of(model: Path) -> Path:
    """Return the file of the recorded task."""
    (file,) = model.glob("mlruns/*/*/artifacts/task")
    return file


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the workspace of a model with all that Qlib records."""
    workspace = trained.write_training(tmp_path / "model")
    for name in ("params.pkl", "dataset"):
        (workspace / "mlruns" / "202467401526266377" / trained.RECORDER / "artifacts" / name).write_text(name)
    return workspace


@pytest.mark.parametrize("days", [None, ("2020-08-03", "2020-09-30")])
def test_what_is_asked(days: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded data set, with other days where some are named; a folder of its own, which is removed."""
    asked: list[Any] = []

    def call(function: str, folder: Path, script: str) -> None:
        names = {file.name for file in folder.iterdir()}
        expected = {"model.py", FACTOR_FILE, "params.pkl", "dataset", "sota_predict.py", "sota_predict.json"}
        assert (function, script, names) == ("run_in_qlib", "sota_predict.py", expected)
        asked.append(json.loads((folder / "sota_predict.json").read_text()))
        FOUND.to_parquet(folder / "sota_predictions.parquet")

    monkeypatch.setattr(child, "call", call)
    before = sorted(model.rglob("*"))
    pd.testing.assert_frame_equal(predict_again(model, days), FOUND)
    assert sorted(model.rglob("*")) == before
    (config,) = asked
    expected = json.loads(json.dumps(trained.config(), default=str))
    dataset = expected["task"]["dataset"]
    if days is not None:
        dataset["kwargs"]["segments"]["test"] = list(days)
        dataset["kwargs"]["handler"]["kwargs"]["end_time"] = days[1]
    assert config == {"qlib_init": expected["qlib_init"], "dataset": dataset}


@pytest.mark.parametrize(
    ("spoil", "kind", "fact"),
    [
        (lambda model: task_of(model).write_bytes(pickle.dumps({"model": MODEL})), SeamError, "not known"),
        (shutil.rmtree, ResultError, "The model's workspace is gone"),
        (lambda model: (model / FACTOR_FILE).unlink(), FactorFileNotFoundError, "not found"),
        (lambda model: (model / "model.py").unlink(), StoreError, "The model can't predict"),
    ],
)
def test_refusals(
    spoil: Any, kind: type[BridgeError], fact: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is one message, before anything is started."""
    monkeypatch.setattr(child, "call", None)
    spoil(model)
    with pytest.raises(kind, match=fact) as caught:
        predict_again(model)
    assert str(model) in caught.value.place


def test_no_predictions(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Qlib said is kept in the model's workspace, and the message names it."""
    monkeypatch.setattr(child, "call", lambda _, folder, __: (folder / child.OUTPUT).write_text("no room"))
    with pytest.raises(ResultError, match="The model predicted nothing") as caught:
        predict_again(model)
    assert Path(caught.value.place).read_text() == "no room"
    assert not list(model.glob(".predict-*"))
