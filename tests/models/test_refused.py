"""What stops a model from being trained again, predicted with, or exported: one message at once."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_bridge.errors import (
    BridgeError,
    FactorFileNotFoundError,
    ResultError,
    SetChangedError,
)
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models import child, export, segments
from rdagent_sota_bridge.models.predict import predict_again
from rdagent_sota_bridge.models.retrain import Change, train_again
from rdagent_sota_bridge.qlib_files import training_record
from rdagent_sota_bridge.qlib_files.manifest import MANIFEST_FILE
from tests import trained
from tests.models.test_segments import DAYS, put_calendar
from tests.trained import lose, put

Verb = Callable[[Path], object]
VERBS: dict[str, Verb] = {
    "train again": lambda model: train_again(model, Change()),
    "predict": predict_again,
    "export": export.make,
}
NOT_KNOWN = "What the model was trained on is not known: no manifest can be read"


def in_another_form(model: Path) -> None:
    """Put a task without a data set into the record."""
    (file,) = model.glob("mlruns/*/*/artifacts/task")
    file.write_bytes(pickle.dumps({"model": {"module_path": "qlib", "kwargs": {}}}))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the workspace of a model with all that Qlib records."""
    return trained.with_pickles(trained.write_training(tmp_path / "root" / "model"))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("spoil", "kind", "fact"),
    [
        (shutil.rmtree, ResultError, "The model's workspace is gone"),
        (lose("mlruns"), ResultError, "What Qlib recorded of the model is gone"),
        (in_another_form, ResultError, "What Qlib recorded of the training can't be read"),
        (put(MANIFEST_FILE, "[]"), ResultError, rf"{NOT_KNOWN} \(it has another form\)"),
        (put(MANIFEST_FILE, "{"), ResultError, NOT_KNOWN),
        (lose(FACTOR_FILE), FactorFileNotFoundError, "not found"),
        (put(FACTOR_FILE, "other"), SetChangedError, "not the one that the model was trained on"),
        (lose("model.py"), ResultError, "The model's code is gone"),
    ],
)
def test_a_workspace_that_lost_something(
    spoil: Verb, kind: type[BridgeError], fact: str, verb: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the file, and the workspace is as it was."""
    monkeypatch.setattr(child, "call", None)
    spoil(model)
    before = sorted(model.parent.rglob("*"))
    with pytest.raises(kind, match=fact) as caught:
        VERBS[verb](model)
    assert str(model) in caught.value.place
    assert sorted(model.parent.rglob("*")) == before


@pytest.mark.parametrize("verb", ["predict", "export", "a walk"])
def test_what_qlib_said_is_kept(verb: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the model's workspace, where it leaves nothing; the message names it."""
    monkeypatch.setenv("HOME", str(model))
    put_calendar(model, DAYS)
    monkeypatch.setattr(child, "call", lambda _, folder, __: (folder / child.OUTPUT).write_text("no room"))
    training = training_record.read_training(model)
    verbs: dict[str, Any] = {**VERBS, "a walk": lambda of: segments.later(of, training, None, "1Y")}
    with pytest.raises(ResultError, match=r"predicted nothing|predicts nothing|planned no walk") as caught:
        verbs[verb](model)
    assert Path(caught.value.place).read_text() == "no room"
    assert not list(model.glob(".sota-*"))
