"""Which model a text names, and one message for each that names none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_bridge.errors import BridgeError, ResultError, SessionError
from rdagent_sota_bridge.models.choose import Chosen, chosen
from tests import logs, trained
from tests.report.test_history import model, root_of, skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a project: loops 1 and 2 are accepted, 2 has the higher IC, and 0 (rejected) the highest.

    Loop 3 was answered from a cache, and loop 4 was skipped.
    """
    monkeypatch.chdir(tmp_path)
    loop = logs.new_loop("ModelRDLoop")
    for number, ic in enumerate((0.09, 0.03, 0.06)):
        workspace = trained.write_training(root_of(tmp_path) / f"w{number}")
        trained.write_results(workspace, {"IC": ic})
        logs.finish(loop, number, model(workspace), number > 0)
    cached = model(root_of(tmp_path) / "cached")
    cached.experiment_workspace.workspace_path.mkdir()
    cached.result = pd.Series({"IC": 0.01})
    logs.finish(loop, 3, cached, True)
    skip(loop, 4, model(root_of(tmp_path) / "skipped"), "model.py is empty")
    logs.dump(loop, tmp_path / "log" / "run", 4)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        (None, 2),
        ("latest", 2),
        ("log/run", 2),
        ("log/run/__session__", 2),
        ("log/run:0", 0),
        ("latest:1", 1),
        (str(root_of(Path()) / "w1"), None),
    ],
    ids=str,
)
def test_what_is_named(text: str | None, loop: int | None, project: Path) -> None:
    """The best accepted one of a log, with a note on a rejected one that is better; a loop; a workspace."""
    found = chosen(text)
    name = f"w{1 if loop is None else loop}"
    log = None if loop is None else project / "log" / "run"
    notes = ("loop 0 has the highest IC, and was not accepted: loop 2 is taken",) if loop == 2 else ()
    assert found == Chosen(root_of(project) / name, log, loop, notes)


def nothing(_: Path) -> None:
    """Spoil nothing."""


@pytest.mark.parametrize(
    ("text", "spoil", "kind", "fact"),
    [
        ("log/walk", nothing, ResultError, "No log or workspace is there: log/walk"),
        ("log/walk:1", nothing, ResultError, "No log or workspace is there: log/walk"),
        (
            "bad.zip",
            lambda one: (one / "bad.zip").touch(),
            ResultError,
            "A file is neither a log nor the work",
        ),
        ("log", nothing, ResultError, "neither a log nor the workspace of a model"),
        ("log/run:7", nothing, ResultError, "The run has no model loop 7; it has 0, 1, 2, 3, 4"),
        ("log/run:3", nothing, ResultError, "no training of its own"),
        ("log/run:4", nothing, ResultError, "It has no trained model: model.py is empty"),
        ("log/run:2", lambda one: shutil.rmtree(root_of(one) / "w2"), ResultError, "its result is gone"),
        (
            "log/run:1",
            lambda one: shutil.rmtree(root_of(one) / "w1" / "mlruns"),
            ResultError,
            "What Qlib recorded of the model is gone",
        ),
        (None, lambda one: shutil.rmtree(one / "log"), SessionError, "No log of a run with models"),
    ],
)
def test_what_is_none(
    text: str | None, spoil: Any, kind: type[BridgeError], fact: str, project: Path
) -> None:
    """No file, no loop, no training: the message says which."""
    spoil(project)
    with pytest.raises(kind, match=fact):
        chosen(text)


def test_the_best_is_gone(project: Path) -> None:
    """Its result was in its workspace: the next is taken, and a note says so."""
    shutil.rmtree(root_of(project) / "w2")
    found = chosen("latest")
    assert (found.loop, found.notes[0].partition(":")[0]) == (
        1,
        "loop 0 has the highest IC, and was not accepted",
    )
    assert found.notes[1].startswith("loop 2 was accepted, and its result is gone: no qlib_res.csv")
    assert found.notes[1].endswith(": loop 1 is taken")


@pytest.mark.parametrize("text", ["log/mine", "log/mine:0"])
def test_a_log_without_models(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of `rdagent fin_factor` has no model, whichever loop is named: the message says what has."""
    monkeypatch.chdir(tmp_path)
    loop = logs.new_loop()
    logs.finish(loop, 0, logs.factor_experiment(root_of(tmp_path) / "w", "gap"), True)
    logs.dump(loop, tmp_path / "log" / "mine", 0)
    with pytest.raises(ResultError, match="The run has no model loop") as caught:
        chosen(text)
    assert "fin_model" in caught.value.fix


def test_nothing_accepted(tmp_path: Path) -> None:
    """A run that rejected all its models has none to take."""
    loop = logs.new_loop("ModelRDLoop")
    logs.finish(loop, 0, model(trained.write_training(root_of(tmp_path) / "w")), False)
    logs.dump(loop, tmp_path / "log" / "run", 0)
    with pytest.raises(ResultError, match="accepted no model"):
        chosen(str(tmp_path / "log" / "run"))
