"""What is read of Qlib's record: from the whole configuration, or from mlflow's texts that are not cut."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_bridge.errors import ResultError
from rdagent_sota_bridge.qlib_files import training_record
from rdagent_sota_bridge.qlib_files.base_sets import BaseSet
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE, Task
from tests import trained
from tests.frames import without_privileges

TASK = Task(
    "~/.qlib/qlib_data/cn_data",
    "csi300",
    (pd.Timestamp("2008-01-01"), pd.Timestamp("2014-12-31")),
    (pd.Timestamp("2015-01-01"), pd.Timestamp("2016-12-31")),
    (pd.Timestamp("2017-01-01"), pd.Timestamp("2020-08-01")),
    trained.LABEL,
)
MANY = BaseSet("many", tuple((f"F{number}", f"Ref($close, {number})/$close") for number in range(60)))


def read(workspace: Path) -> training_record.QlibRecord:
    """Return the record of a workspace that has one."""
    record = training_record.read(workspace)
    assert record is not None
    return record


def test_all_of_a_record(tmp_path: Path) -> None:
    """Width, task, loaders, YAML and the run's id stand in the record of a training on factors."""
    trained.write_record(tmp_path, trained.config(MANY, width=62))
    assert read(tmp_path) == training_record.QlibRecord(
        num_features=62,
        task=TASK,
        has_factor_file=True,
        base_names=MANY.names,
        config_file=CONFIG_FILE,
        recorder=trained.RECORDER,
    )


def test_of_several_runs_the_newest_finished_counts(tmp_path: Path) -> None:
    """Of two finished runs the later counts; one that failed, was killed or has not ended is none."""
    assert training_record.read(tmp_path) is training_record.read(tmp_path / "gone") is None
    trained.write_record(tmp_path, trained.config(width=1), run="a" * 32, ended=1)
    trained.write_record(tmp_path, trained.config(width=2), run="b" * 32, ended=2)
    trained.write_record(tmp_path, trained.config(width=3), run="c" * 32, ended=3, status=4)
    trained.write_record(tmp_path, trained.config(width=4), run="d" * 32, ended=4, status=1)
    assert read(tmp_path).num_features == 2


def test_what_need_not_be_there(tmp_path: Path) -> None:
    """An open end is NaT; no base features are known to be none; LightGBM has no width, and no doubt."""
    document = trained.config(BaseSet("none", ()), width=None)
    document["task"]["dataset"]["kwargs"]["segments"]["test"][1] = None
    trained.write_record(tmp_path, document, config_file="conf_combined_factors.yaml")
    record = read(tmp_path)
    assert record.task is not None
    assert record.task.test[1] is pd.NaT
    assert (record.base_names, record.num_features, record.doubts) == ((), None, ())
    assert record.config_file == "conf_combined_factors.yaml"


def test_the_handler_of_080(tmp_path: Path) -> None:
    """RD-Agent 0.8.0's baseline uses a handler of Qlib's: its label is elsewhere, its features a filter's."""
    document = trained.config(width=20)
    handler: dict[str, Any] = document["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
    del handler["data_loader"]
    handler["label"] = [trained.LABEL]
    handler["infer_processors"] = [
        {"class": "FilterCol", "kwargs": {"fields_group": "feature", "col_list": ["RESI5", "KLEN"]}},
        {"class": "Fillna"},
    ]
    trained.write_record(tmp_path, document)
    record = read(tmp_path)
    assert (record.task, record.base_names, record.has_factor_file) == (TASK, ("RESI5", "KLEN"), False)


def test_two_widths_are_a_doubt(tmp_path: Path) -> None:
    """A parameter that was edited contradicts the configuration."""
    run = trained.write_record(tmp_path, trained.config(width=4))
    (run / "params" / "model.kwargs.pt_model_kwargs.num_features").write_text("24")
    record = read(tmp_path)
    assert record.num_features == 24
    assert record.doubts == ("Qlib recorded two input widths: 24 as parameter, 4 as configuration",)


@pytest.mark.parametrize(
    "content",
    [b"damaged", pickle.dumps(7), pickle.dumps({"task": {"model": 1}}), None],
    ids=["damaged", "a number", "another form", "missing"],
)
def test_a_configuration_that_can_not_be_read(content: bytes | None, tmp_path: Path) -> None:
    """Without a configuration its parts are not known, and the record says so."""
    run = trained.write_record(tmp_path, trained.config())
    file = run / "artifacts" / "config"
    file.unlink() if content is None else file.write_bytes(content)
    record = read(tmp_path)
    assert record.doubts[0].startswith("the configuration that Qlib recorded can't be read")
    assert (record.num_features, record.has_factor_file) == (4, None)
    assert (record.base_names, record.task) == (None, None)


def test_a_hostile_configuration_runs_nothing(tmp_path: Path) -> None:
    """What the configuration's pickle asks for is not run."""

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "was run",)

    run = trained.write_record(tmp_path, trained.config())
    (run / "artifacts" / "config").write_bytes(pickle.dumps(Hostile()))
    assert read(tmp_path).doubts
    assert not (tmp_path / "was run").exists()


def test_a_closed_record(tmp_path: Path) -> None:
    """A record that may not be read is an error that names the place."""
    run = trained.write_record(tmp_path, trained.config())
    (run / "meta.yaml").chmod(0)
    tmp_path.chmod(0o755)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    with without_privileges(), pytest.raises(ResultError, match="Permission denied") as caught:
        training_record.read(tmp_path)
    assert str(tmp_path) in caught.value.place


# --- the training, for whoever repeats it ---


@pytest.mark.parametrize("module", ["qlib.contrib.model.pytorch_general_nn", "sota_batches"])
def test_a_training_that_needs_no_file_of_this_package(module: str, tmp_path: Path) -> None:
    """The newest finished training is plain data, and its model Qlib's own, also with batches from memory."""
    document = trained.config()
    document["task"]["model"]["module_path"] = module
    trained.write_record(tmp_path, trained.config(width=1), run="a" * 32, ended=1)
    run = trained.write_record(tmp_path, document, run="b" * 32, ended=2)
    trained.write_record(tmp_path, trained.config(width=3), run="c" * 32, ended=3, status=4)
    (tmp_path / "model.py").touch()
    found = training_record.read_training(tmp_path)
    assert found == training_record.Training(run, trained.config(), has_factor_file=True)
    assert "sota" not in str(found.config)


def spoil_task(run: Path, content: bytes | None) -> None:
    """Take the recorded task away, or write something else in its place."""
    file = run / "artifacts" / "task"
    file.unlink() if content is None else file.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "fact"),
    [
        (lambda run: shutil.rmtree(run.parents[2]), "The model's workspace is gone"),
        (lambda run: shutil.rmtree(run.parents[1]), "The model has no training of its own"),
        (lambda run: (run / "meta.yaml").write_text("status: 4\n"), "The model has no training of its own"),
        (
            lambda run: (trained.write_results(run.parents[2]), shutil.rmtree(run.parents[1])),
            "What Qlib recorded of the model is gone",
        ),
        (lambda run: spoil_task(run, None), "What Qlib recorded of the training can't be read"),
        (lambda run: spoil_task(run, b"damaged"), "What Qlib recorded of the training can't be read"),
        (lambda run: spoil_task(run, pickle.dumps(7)), "What Qlib recorded of the training can't be read"),
        (lambda run: spoil_task(run, pickle.dumps({})), "What Qlib recorded of the training can't be read"),
        (lambda run: (run / "meta.yaml").write_bytes(b"\xff"), "What Qlib recorded can't be read"),
    ],
)
def test_what_can_not_be_trained_again(spoil: Any, fact: str, tmp_path: Path) -> None:
    """Each is one message that names the place and what to do."""
    run = trained.write_record(tmp_path / "workspace", trained.config())
    (tmp_path / "workspace" / "model.py").touch()
    spoil(run)
    with pytest.raises(ResultError) as caught:
        training_record.read_training(tmp_path / "workspace")
    assert caught.value.fact.startswith(fact)
    assert str(tmp_path / "workspace") in caught.value.place
