"""The provenance record: whole or not at all, and what Qlib's environment contributes to it."""

from __future__ import annotations

import ast
import json
import platform
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdagent_sota_bridge import __version__
from rdagent_sota_bridge.errors import HandOffError
from rdagent_sota_bridge.qlib_files.manifest import (
    LEAST_SPREAD,
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
    """Stands in for a norm of Qlib's after `fit`: it knows the columns, their means and deviations."""

    def __init__(self, columns: list[Any], means: list[float], deviations: Any = 1.0) -> None:
        self.cols = columns
        self.mean_train = np.array(means)
        self.std_train = (deviations + 1e-12) * 1.4826


class RobustZScoreNorm(Norm):
    """Stands in for Qlib's norm of that name."""


class OfAFork(RobustZScoreNorm):
    """Stands in for a norm that a fork derives from it."""


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


@pytest.mark.parametrize("script", ["", "x = 1", "x = 1\n", "x = 1\n\n\n", "if 1:\n    x = 1", "real"])
def test_probe_comes_after_the_script_once(script: str) -> None:
    """RD-Agent's script stays as it is, the lines of the probe follow, once, and are Python 3.8."""
    if script == "real":
        package = resources.files("rdagent.scenarios.qlib.experiment")
        script = (package / "model_template" / "read_exp_res.py").read_text(encoding="utf-8")
        assert "latest_recorder" in script
    probed = with_probe(script, "note")
    assert probed.startswith(script.rstrip())
    assert probed.endswith("\n# note\n")
    assert with_probe(probed, "note") == probed
    ast.parse(probed, feature_version=(3, 8))


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("norm", "lost"),
    [(RobustZScoreNorm, ("0", "1e-15", "9e-12")), (OfAFork, ("0", "1e-15", "9e-12")), (Norm, None)],
)
def test_probe_names_columns_without_spread(
    norm: type[Norm],
    lost: tuple[str, ...] | None,
    dtype: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Named are those that are under ten times Qlib's 1e-12; another norm has no such addition."""
    monkeypatch.chdir(tmp_path)
    names = ["0", "1e-15", "9e-12", "1.1e-11", "0.02", "nan"]
    deviations = np.array([float(name) for name in names], dtype=dtype)
    run_probe(
        Recorder(norm([("feature", name) for name in names], [0.0] * len(names), deviations), PARAMETERS)
    )
    loaded = read_loaded(tmp_path)
    assert loaded is not None
    assert loaded.columns_without_spread == lost
    assert loaded.as_record()["columns_without_spread"] == lost
    assert LEAST_SPREAD == 1e-11, "as the probe has it, which can't import it"


def test_a_record_of_an_older_probe(tmp_path: Path) -> None:
    """What a release before wrote says nothing of spreads: not known."""
    old = '{"columns": ["a"], "columns_without_training_values": [], "num_features": 1, "versions": {}}'
    (tmp_path / LOADED_FILE).write_text(old)
    loaded = read_loaded(tmp_path)
    assert loaded is not None
    assert (loaded.columns, loaded.columns_without_spread) == (("a",), None)


def test_probe_replaces_an_older_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older result is replaced; means of another shape are read, and a width may be missing."""
    monkeypatch.chdir(tmp_path)
    norm = Norm(COLUMNS, [0.1, 0.2, 0.3])
    norm.mean_train = norm.mean_train.reshape(1, 3)
    run_probe(Recorder(norm, {"model.class": "GeneralPTNN"}))
    first = read_loaded(tmp_path)
    run_probe(Recorder(Norm(COLUMNS[:1], [0.1]), {**PARAMETERS, "a.pt_model_kwargs.num_features": "1"}))
    second = read_loaded(tmp_path)
    assert first is not None
    assert second is not None
    assert (first.num_features, first.columns_without_training_values) == (None, ())
    assert second.columns == ("RESI5",)


def test_probe_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Qlib's objects have another form, the probe fails and leaves no half file."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AttributeError):
        run_probe(Recorder(object(), PARAMETERS))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    assert read_loaded(tmp_path) is read_loaded(tmp_path / "absent") is None


def test_probe_of_lightgbm_writes_its_number_of_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a factor loop nothing keeps the columns' names; LightGBM knows how many it was trained on."""
    monkeypatch.chdir(tmp_path)
    booster = type("Booster", (), {"num_feature": lambda self: 23})()
    run_probe(Recorder(object(), {}, type("LGBModel", (), {"model": booster})()))  # type: ignore[arg-type]
    loaded = read_loaded(tmp_path)
    assert loaded is not None
    assert (loaded.columns, loaded.num_features) == (None, 23)


# --- what was loaded against what was asked for ---


def loaded(*columns: str, empty: tuple[str, ...] = (), width: int | None = -1) -> Loaded:
    """Return what Qlib loaded; the width is right where it is not given."""
    return Loaded(columns, empty, len(columns) if width == -1 else width, {})


@pytest.mark.parametrize(
    ("found", "base", "mined"),
    [
        (loaded("a", "b", "m"), ("a", "b"), ("m",)),
        (loaded("m", "b", "a"), ("a", "b"), ("m",)),
        (loaded("m"), (), ("m",)),
        (loaded("a", "b"), ("a", "b"), ("b",)),
        (loaded("a", "m", width=None), ("a",), ("m",)),
        (loaded("a", "m", "n", empty=("m",)), ("a",), ("m", "n")),
        (loaded("a", "m", empty=("a",)), ("a",), ("m",)),
    ],
    ids=[
        *("as asked for", "another order", "no base", "a name in both", "width not recorded"),
        *("some mined columns empty", "a base column empty"),
    ],
)
def test_what_passes(found: Loaded, base: tuple[str, ...], mined: tuple[str, ...]) -> None:
    """Base and mined columns, each once, in whatever order; an empty column may be so in the data."""
    check_loaded(found, base, mined, Path())


ALL = (
    "Qlib loaded 1 columns; missing: ['a'], not asked for: []; the network is 20 wide for 1 columns; "
    "no value of the 1 mined columns reached the training segment"
)


@pytest.mark.parametrize(
    ("found", "base", "mined", "expected"),
    [
        (loaded("a", "m"), "a", "mn", "Qlib loaded 2 columns; missing: ['n'], not asked for: []"),
        (loaded("a", "m", "x"), "a", "m", "Qlib loaded 3 columns; missing: [], not asked for: ['x']"),
        (loaded("a", "b"), "c", "m", "Qlib loaded 2 columns; missing: ['c', 'm'], not asked for: ['a', 'b']"),
        (loaded("a", "m", "m"), "a", "m", "Qlib loaded 3 columns; missing: [], not asked for: []"),
        (loaded("a", "m", width=0), "a", "m", "the network is 0 wide for 2 columns"),
        (loaded("a", "m", width=20), "a", "m", "the network is 20 wide for 2 columns"),
        (
            loaded("a", "m", "n", empty=("n", "m")),
            "a",
            "mn",
            "no value of the 2 mined columns reached the training segment",
        ),
        (loaded("m", empty=("m",), width=20), "a", "m", ALL),
    ],
    ids=[
        *("missing", "extra", "RD-Agent's baseline", "one twice", "no width", "wrong width"),
        *("all mined columns empty", "all at once"),
    ],
)
def test_what_is_refused(found: Loaded, base: str, mined: str, expected: str) -> None:
    """Every way in which the model was not trained on the factors is one error that names it."""
    with pytest.raises(HandOffError) as caught:
        check_loaded(found, tuple(base), tuple(mined), Path("/workspace"))
    assert caught.value.place == "/workspace"
    assert_survives_pickling(caught.value)
    assert caught.value.fact == f"The model was not trained on the factors: {expected}"


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


@pytest.mark.parametrize(
    ("record", "error"),
    [
        ({"path": Path("/sets")}, TypeError),
        ({"digest": {"a", "b"}}, TypeError),
        ({"path": "bad \ud800 letter"}, UnicodeEncodeError),
        ({"metrics": {"IC": float("nan")}}, ValueError),
        ({"metrics": {"IC": float("inf")}}, ValueError),
    ],
    ids=["path", "set", "half a letter", "NaN", "infinity"],
)
def test_record_that_can_not_be_written(
    tmp_path: Path, record: dict[str, Any], error: type[Exception]
) -> None:
    """A record that is no strict JSON leaves the old manifest alone; a good one replaces it whole."""
    path = write_manifest(tmp_path, {"columns": ["a"] * 100})
    before = path.read_bytes()
    with pytest.raises(error):
        write_manifest(tmp_path, record)
    assert path.read_bytes() == before
    write_manifest(tmp_path, {"columns": []})
    assert json.loads(path.read_text(encoding="utf-8")) == {"manifest_version": 1, "columns": []}
    assert [entry.name for entry in tmp_path.iterdir()] == [MANIFEST_FILE]


def test_versions_of_what_is_installed() -> None:
    """The versions are those of the installed distributions."""
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["rdagent"] == metadata.version("rdagent")
    assert found["rdagent-sota-bridge"] == __version__
    assert set(found) == {"python", "rdagent-sota-bridge", "rdagent", "pandas", "pyarrow"}
