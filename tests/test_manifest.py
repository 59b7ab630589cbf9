"""The provenance record: whole or not at all, and what Qlib's environment contributes to it."""

from __future__ import annotations

import ast
import json
import os
import platform
import stat
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdagent_sota_bridge import __version__
from rdagent_sota_bridge.errors import HandOffError
from rdagent_sota_bridge.manifest import (
    LOADED_FILE,
    MANIFEST_FILE,
    Loaded,
    check_loaded,
    read_loaded,
    versions,
    with_probe,
    write_manifest,
)
from tests.frames import assert_survives_pickling


class Norm:
    """Stands in for Qlib's RobustZScoreNorm after `fit`: it knows the columns and their training means."""

    def __init__(self, columns: list[Any], means: list[float]) -> None:
        self.cols = columns
        self.mean_train = np.array(means)


class Recorder:
    """Stands in for the Qlib recorder that RD-Agent's script has found."""

    def __init__(self, norm: Norm, parameters: dict[str, str], model: object = None) -> None:
        self.info = {"id": "0a1b"}
        self._norm = norm
        self._parameters = parameters
        self._model = model

    def load_object(self, name: str) -> Any:
        """Return the dataset that was trained on, with another processor before the one of interest."""
        if name == "params.pkl":  # the model, as `qlib/model/trainer.py` names it
            return self._model
        assert name == "dataset"
        handler = type("Handler", (), {"infer_processors": [object(), self._norm, object()]})
        return type("Dataset", (), {"handler": handler})

    def list_params(self) -> dict[str, str]:
        """Return the run's parameters, as MLflow does: texts."""
        return self._parameters


def run_probe(recorder: Recorder, script: str = "before = 1\n") -> None:
    """Run a script with the probe at its end, as Qlib's environment does."""
    exec(compile(with_probe(script, "note"), "read_exp_res.py", "exec"), {"latest_recorder": recorder})


COLUMNS = [("feature", "RESI5"), ("feature", "动量"), ("feature", "ret_0.5")]
PARAMETERS = {
    "model.class": "GeneralPTNN",
    "model.kwargs.pt_model_kwargs.num_features": "3",
    "model.kwargs.lr": "0.001",
}


# --- the probe ---


def test_probe_comes_after_the_whole_script() -> None:
    """RD-Agent's script stays as it is, the lines of the probe follow."""
    script = "import qlib\nprint(1)\n"
    probed = with_probe(script, "note")
    assert probed.startswith(script)
    assert len(probed) > len(script)
    ast.parse(probed)


@pytest.mark.parametrize("script", ["", "x = 1", "x = 1\n", "x = 1\n\n\n", "if 1:\n    x = 1"])
def test_probe_is_added_once(script: str) -> None:
    """A script that has the probe is left as it is, however it ended before."""
    probed = with_probe(script, "note")
    assert with_probe(probed, "note") == probed
    ast.parse(probed)


def test_probe_fits_rdagents_real_script() -> None:
    """The installed RD-Agent's script, with the probe, is Python, and has the name that the probe uses."""
    package = resources.files("rdagent.scenarios.qlib.experiment")
    script = (package / "model_template" / "read_exp_res.py").read_text(encoding="utf-8")
    assert "latest_recorder" in script
    ast.parse(with_probe(script, "note"))


def test_probe_is_python_3_8() -> None:
    """Qlib's environment may be Python 3.8: the probe has no newer syntax."""
    ast.parse(with_probe("", "note"), feature_version=(3, 8))


def test_probe_writes_what_was_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe writes the columns in order, those without values, the width and the versions."""
    monkeypatch.chdir(tmp_path)
    run_probe(Recorder(Norm(COLUMNS, [0.1, np.nan, 0.0]), PARAMETERS))
    loaded = read_loaded(tmp_path)
    assert loaded is not None
    assert loaded.columns == ("RESI5", "动量", "ret_0.5")
    assert loaded.columns_without_training_values == ("动量",)
    assert loaded.num_features == 3
    assert loaded.versions["python"] == platform.python_version()
    assert loaded.versions["numpy"] == metadata.version("numpy")
    assert loaded.versions["pandas"] == metadata.version("pandas")
    assert json.loads((tmp_path / LOADED_FILE).read_text(encoding="utf-8"))["recorder"] == "0a1b"
    assert [entry.name for entry in tmp_path.iterdir()] == [LOADED_FILE]


def test_probe_with_flat_means_and_without_a_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Means of another shape are read alike, and a width that Qlib did not record is None."""
    monkeypatch.chdir(tmp_path)
    norm = Norm(COLUMNS, [0.1, 0.2, 0.3])
    norm.mean_train = norm.mean_train.reshape(1, 3)
    run_probe(Recorder(norm, {"model.class": "GeneralPTNN"}))
    loaded = read_loaded(tmp_path)
    assert loaded is not None
    assert loaded.num_features is None
    assert loaded.columns_without_training_values == ()


def test_probe_replaces_an_older_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier back-test left in the workspace is replaced."""
    monkeypatch.chdir(tmp_path)
    run_probe(Recorder(Norm(COLUMNS, [0.1, 0.2, 0.3]), PARAMETERS))
    run_probe(Recorder(Norm(COLUMNS[:1], [0.1]), {**PARAMETERS, "a.pt_model_kwargs.num_features": "1"}))
    loaded = read_loaded(tmp_path)
    assert loaded is not None
    assert loaded.columns == ("RESI5",)


def test_probe_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Qlib's objects have another form, the probe fails and leaves no half file."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AttributeError):
        run_probe(Recorder(object(), PARAMETERS))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    assert read_loaded(tmp_path) is None


def test_probe_of_lightgbm_tells_its_number_of_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a factor loop nothing keeps the columns' names; LightGBM knows how many it was trained on."""
    monkeypatch.chdir(tmp_path)
    booster = type("Booster", (), {"num_feature": lambda self: 23})()
    run_probe(Recorder(object(), {}, type("LGBModel", (), {"model": booster})()))  # type: ignore[arg-type]
    loaded = read_loaded(tmp_path)
    assert loaded is not None
    assert (loaded.columns, loaded.num_features) == (None, 23)


def test_nothing_loaded(tmp_path: Path) -> None:
    """Where the probe wrote nothing, nothing is read; a folder of that name is nothing either."""
    assert read_loaded(tmp_path) is None
    assert read_loaded(tmp_path / "absent") is None
    (tmp_path / LOADED_FILE).mkdir()
    assert read_loaded(tmp_path) is None


# --- what was loaded against what was asked for ---


def loaded(*columns: str, empty: tuple[str, ...] = (), width: int | None = -1) -> Loaded:
    """Return what Qlib loaded; the width is right where it is not given."""
    return Loaded(columns, empty, len(columns) if width == -1 else width, {})


def problem(found: Loaded, base: tuple[str, ...], mined: tuple[str, ...]) -> str:
    """Return why what was loaded is refused; fail where it is accepted."""
    with pytest.raises(HandOffError) as caught:
        check_loaded(found, base, mined, Path("/workspace"))
    assert caught.value.place == "/workspace"
    assert_survives_pickling(caught.value)
    start = "The model was not trained on the factors: "
    assert caught.value.fact.startswith(start)
    return caught.value.fact.removeprefix(start)


def test_exactly_what_was_asked_for_passes() -> None:
    """Base and mined columns, each once, in whatever order Qlib has them, pass."""
    check_loaded(loaded("a", "b", "m"), ("a", "b"), ("m",), Path())
    check_loaded(loaded("m", "b", "a"), ("a", "b"), ("m",), Path())
    check_loaded(loaded("m"), (), ("m",), Path())


def test_name_in_both_is_loaded_once() -> None:
    """A mined column with a base feature's name is one column."""
    check_loaded(loaded("a", "b"), ("a", "b"), ("b",), Path())


def test_missing_column() -> None:
    """A mined column that Qlib did not load is named."""
    assert problem(loaded("a", "m"), ("a",), ("m", "n")) == (
        "Qlib loaded 2 columns; missing: ['n'], not asked for: []"
    )


def test_extra_column() -> None:
    """A column that nobody asked for is named."""
    assert problem(loaded("a", "m", "x"), ("a",), ("m",)) == (
        "Qlib loaded 3 columns; missing: [], not asked for: ['x']"
    )


def test_other_columns() -> None:
    """RD-Agent's baseline in place of the set is told by all that is missing and not asked for."""
    assert problem(loaded("a", "b"), ("c",), ("m",)) == (
        "Qlib loaded 2 columns; missing: ['c', 'm'], not asked for: ['a', 'b']"
    )


def test_column_loaded_twice() -> None:
    """One column twice is not what was asked for, though no name is missing."""
    assert problem(loaded("a", "m", "m"), ("a",), ("m",)).startswith("Qlib loaded 3 columns; ")


@pytest.mark.parametrize("width", [0, 1, 3, 20])
def test_wrong_width(width: int) -> None:
    """A network of another width than the columns is refused."""
    expected = f"the network is {width} wide for 2 columns"
    assert problem(loaded("a", "m", width=width), ("a",), ("m",)) == expected


def test_width_that_was_not_recorded_passes() -> None:
    """Where Qlib recorded no width there is nothing to compare."""
    check_loaded(loaded("a", "m", width=None), ("a",), ("m",), Path())


def test_all_mined_columns_empty() -> None:
    """Mined columns without a single training value got lost on the way."""
    assert problem(loaded("a", "m", "n", empty=("n", "m")), ("a",), ("m", "n")) == (
        "no value of the 2 mined columns reached the training segment"
    )


def test_some_mined_columns_empty_passes() -> None:
    """One mined column of two without training values may be so in the file."""
    check_loaded(loaded("a", "m", "n", empty=("m",)), ("a",), ("m", "n"), Path())


def test_empty_base_columns_pass() -> None:
    """Base features without values, such as VWAP in data without it, are Qlib's business."""
    check_loaded(loaded("a", "m", empty=("a",)), ("a",), ("m",), Path())


def test_every_problem_is_told_at_once() -> None:
    """Columns, width and values stand in one error."""
    assert problem(loaded("m", empty=("m",), width=20), ("a",), ("m",)) == (
        "Qlib loaded 1 columns; missing: ['a'], not asked for: []; "
        "the network is 20 wide for 1 columns; "
        "no value of the 1 mined columns reached the training segment"
    )


def test_record_of_what_was_loaded() -> None:
    """The manifest shows lists, and the versions stand elsewhere in it."""
    assert loaded("a", "m", empty=("m",)).as_record() == {
        "columns": ("a", "m"),
        "columns_without_training_values": ("m",),
        "num_features": 2,
    }


# --- the manifest ---


def test_manifest_is_written(tmp_path: Path) -> None:
    """The manifest is the record with its version first, readable JSON with every letter as it is."""
    record = {"path": "/sets/因子.parquet", "columns": ["动量", "b"], "rows": 3, "metrics": None}
    path = write_manifest(tmp_path, record)
    assert path == tmp_path / MANIFEST_FILE
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"manifest_version": 1, **record}
    assert text.startswith('{\n  "manifest_version": 1,\n')
    assert text.endswith("}\n")
    assert "因子" in text
    assert [entry.name for entry in tmp_path.iterdir()] == [MANIFEST_FILE]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_manifest_can_be_read_by_others(tmp_path: Path, mask: int) -> None:
    """The manifest is an ordinary file, not one that its owner alone may read as temporary files are."""
    before = os.umask(mask)
    try:
        path = write_manifest(tmp_path, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_manifest_is_replaced_whole(tmp_path: Path) -> None:
    """A second manifest takes the place of the first, a longer one."""
    write_manifest(tmp_path, {"columns": ["a"] * 100})
    path = write_manifest(tmp_path, {"columns": []})
    assert json.loads(path.read_text(encoding="utf-8")) == {"manifest_version": 1, "columns": []}
    assert [entry.name for entry in tmp_path.iterdir()] == [MANIFEST_FILE]


@pytest.mark.parametrize(
    ("record", "error"),
    [
        ({"path": Path("/sets")}, TypeError),
        ({"digest": {"a", "b"}}, TypeError),
        ({"path": "bad \ud800 letter"}, UnicodeEncodeError),
    ],
)
def test_record_that_can_not_be_written(
    tmp_path: Path, record: dict[str, Any], error: type[Exception]
) -> None:
    """A record that can't be written leaves the old manifest, and no temporary file."""
    path = write_manifest(tmp_path, {"rows": 1})
    before = path.read_bytes()
    with pytest.raises(error):
        write_manifest(tmp_path, record)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [MANIFEST_FILE]


def test_manifest_that_can_not_be_replaced(tmp_path: Path) -> None:
    """Where something else has the manifest's name, the error comes through and no temporary file stays."""
    (tmp_path / MANIFEST_FILE).mkdir()
    (tmp_path / MANIFEST_FILE / "kept").touch()
    with pytest.raises(OSError, match="directory"):
        write_manifest(tmp_path, {})
    assert [entry.name for entry in tmp_path.iterdir()] == [MANIFEST_FILE]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_manifest_is_strict_json(value: float, tmp_path: Path) -> None:
    """NaN and Infinity, which are no JSON, are refused before anything is written."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_manifest(tmp_path, {"metrics": {"IC": value}})
    assert list(tmp_path.iterdir()) == []


def test_versions_of_what_is_installed() -> None:
    """The versions are those of the installed distributions; what is not installed is left out."""
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["rdagent"] == metadata.version("rdagent")
    assert found["rdagent-sota-bridge"] == __version__
    assert set(found) == {"python", "rdagent-sota-bridge", "rdagent", "pandas", "pyarrow"}
    assert set(versions(("no-such-distribution",))) == {"python"}
