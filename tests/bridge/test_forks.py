"""Forks of RD-Agent, through the real hand-off: what fits is trained on the factors, the rest says why not.

A stand-in takes the place of qrun; what a filter of columns lets through is asked of the real Qlib.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pytest
import typer

from examples.demo.market import Market
from rdagent_sota_bridge.bridge import dry_run, plan
from rdagent_sota_bridge.errors import SeamError, StoreError
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import manifest, model_yaml
from rdagent_sota_bridge.qlib_files.base_sets import ALPHA22, BaseSet, base_set
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE
from tests import forks, seams, test_training
from tests.bridge.test_backtest import Qlib, manifest_of, model
from tests.forks import Edit

qlib = test_training.qlib

LEAVING_OUT = ("key of the model alone", "key that counts")
SWALLOWING = ("retry in a loop", "retry in a method", "baseline after a failure")


def run_as(fork: tuple[Edit, ...], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let RD-Agent be a fork, with the seams, until the test ends."""
    module = forks.load(folder / "fork", forks.text_with(*fork), monkeypatch)
    forks.apply_seams(module, monkeypatch)


def settings() -> Any:
    """Return RD-Agent's settings."""
    from rdagent.core.conf import RD_AGENT_SETTINGS

    return RD_AGENT_SETTINGS


# --- develop ---


@pytest.mark.parametrize("fork", forks.FITTING)
def test_what_fits_is_trained_on_the_factors(
    fork: str, qlib: Qlib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real develop of each fork hands set and width to qrun."""
    run_as(forks.FITTING[fork], tmp_path, monkeypatch)
    experiment = model(qlib)
    seams.build_runner().develop(experiment)
    assert qlib.environment["num_features"] == "23"
    found = manifest_of(experiment)
    assert found is not None
    assert found["qlib_loaded"]["columns"] == qlib.columns


@pytest.mark.parametrize("fork", forks.CHANGING)
def test_what_changes_the_factors_is_trained_on_its_own_file(
    fork: str, qlib: Qlib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork that filters, drops or clips gets the whole set: Qlib reads its own file, and no other rows."""
    edits, statement = forks.CHANGING[fork]
    frame = seams.factor_frame(qlib.market, noise=1.0)
    frame.iloc[::7, 0] = float("nan")
    seams.write_set(qlib.set, frame)
    run_as(edits, tmp_path, monkeypatch)
    namespace = {"combined_factors": frame.sort_index()}
    exec(statement, namespace)
    expected = namespace["combined_factors"]
    columns = sorted({*ALPHA22, *expected.columns})
    qlib.will(columns=columns, num_features=len(columns))
    experiment = model(qlib)
    with seams.logged() as lines:
        seams.build_runner().develop(experiment)
    written = pd.read_parquet(experiment.experiment_workspace.workspace_path / FACTOR_FILE)["feature"]
    pd.testing.assert_frame_equal(written, expected)
    assert qlib.runs == 1
    assert qlib.environment["num_features"] == str(len(columns))
    found = manifest_of(experiment)
    assert found is not None
    assert found["mined_columns"] == list(expected.columns)
    assert found["factor_set"]["stored"] is None
    assert sum("develop changes the factors that it is given" in line for line in lines) == 1


WRITTEN_TWICE = """\
                for attempt in range(2):
                    combined_factors.to_parquet(target_path, engine="pyarrow")
                    result, stdout = exp.experiment_workspace.execute(
                        qlib_config_name="conf_sota_factors_model.yaml", run_env=env_to_use
                    )
"""


def test_what_writes_the_factors_again_writes_through_no_link(
    qlib: Qlib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork that writes its file anew for a second try leaves the stored set as it is, and trains on it."""
    run_as(((forks.TRAINED, WRITTEN_TWICE),), tmp_path, monkeypatch)
    monkeypatch.setenv("SOTA_STORE_PATH", str(tmp_path / "store"))
    qlib.will(races=2)
    runner, experiment = seams.build_runner(), model(qlib)
    (stored,) = (tmp_path / "store").glob("*.parquet")
    content = stored.read_bytes()
    runner.develop(experiment)
    file = experiment.experiment_workspace.workspace_path / FACTOR_FILE
    assert qlib.runs == 3
    assert stored.read_bytes() == file.read_bytes() == content


@pytest.mark.parametrize("fork", forks.MISFITS)
def test_what_does_not_fit_is_refused(
    fork: str, qlib: Qlib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork that can't be bridged stops a run that asked for the factors, or warns it, and says why."""
    edits, reason = forks.MISFITS[fork]
    run_as(edits, tmp_path, monkeypatch)
    with pytest.raises(SeamError, match="develop has a shape that is not known") as caught:
        plan.checked_plan()
    assert reason in caught.value.fact
    assert str(tmp_path) in caught.value.place
    with pytest.raises(SystemExit, match="a shape that is not known"):
        seams.build_runner()
    monkeypatch.setenv("SOTA_ON_ERROR", "baseline")
    with seams.logged() as lines:
        assert plan.record_of(seams.build_runner()) is None
    assert sum("the run goes on without the factors" in line for line in lines) == 1


def test_with_the_switch_off_nothing_is_said(
    qlib: Qlib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fork's own run is its own: no warning, its own YAML, its own cache key."""
    monkeypatch.delenv("LOAD_SOTA_FROM_WORKSPACE")
    run_as(forks.FITTING["key of the model alone"], tmp_path, monkeypatch)
    with seams.logged() as lines:
        for _ in range(2):
            seams.build_runner().develop(model(qlib))
    assert qlib.runs == 1, "the second result is the cached one"
    assert "feature_columns" not in qlib.environment
    said = "".join(lines) + capsys.readouterr().err
    assert "QlibModelRunner" not in said
    assert "cache" not in said


@pytest.mark.parametrize("fork", SWALLOWING)
def test_what_a_fork_catches_stops_the_run(
    fork: str, qlib: Qlib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model without the factors ends the run at once, though the fork retries at any exception."""
    run_as(forks.FITTING[fork], tmp_path, monkeypatch)
    qlib.will(num_features=20)
    experiment = model(qlib)
    with pytest.raises(typer.Exit):
        seams.build_runner().develop(experiment)
    assert "the network is 20 wide for 23 columns" in capsys.readouterr().err
    assert qlib.runs == 1, "nothing is trained again"
    assert manifest_of(experiment) is None


def test_a_baseline_in_place_of_the_factors_stops_the_run(
    qlib: Qlib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fork that goes on with the baseline YAML after a failed qrun does not train it."""
    run_as(forks.FITTING["baseline after a failure"], tmp_path, monkeypatch)
    qlib.will(races=9)
    with pytest.raises(typer.Exit):
        seams.build_runner().develop(model(qlib))
    assert "took conf_baseline_factors_model.yaml in place of conf_sota" in capsys.readouterr().err
    assert qlib.runs == 2, "the factors, and once more after the race"


def test_a_merge_that_fails_stops_the_run(
    qlib: Qlib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fork that goes on without factors where the merge fails trains nothing."""
    run_as(forks.FITTING["merge that may fail"], tmp_path, monkeypatch)
    runner = seams.build_runner()

    def full(record: plan.Record) -> None:
        raise StoreError("The store is full", "/store", "make room")

    monkeypatch.setattr(plan, "keep_in_store", full)
    with pytest.raises(typer.Exit):
        runner.develop(model(qlib))
    assert "The store is full" in capsys.readouterr().err
    assert qlib.runs == 0


# --- the cache of results ---


@pytest.mark.parametrize("fork", ["key of all experiments", *LEAVING_OUT, "no cache"])
def test_a_result_of_the_cache_is_not_taken(
    fork: str, qlib: Qlib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a fork makes its key of, a result without the set, or of another one, answers no model."""
    run_as(forks.FITTING[fork], tmp_path, monkeypatch)
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "no")
    for _ in range(2):
        seams.build_runner().develop(model(qlib))
    baseline = 2 if fork == "no cache" else 1
    assert qlib.runs == baseline
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "yes")
    for number, factor in enumerate((1, 1, 2), 1):
        seams.write_set(qlib.set, seams.factor_frame(qlib.market) * factor)
        experiment = model(qlib)
        seams.build_runner().develop(experiment)
        assert qlib.runs == baseline + number
        assert manifest_of(experiment) is not None
    assert settings().cache_with_pickle is True


def test_a_cache_that_can_not_be_turned_off_stops_the_run(
    qlib: Qlib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A forced cache whose key leaves the set out answers with the result of another: the run ends."""
    run_as(forks.FORCED_KEY, tmp_path, monkeypatch)
    seams.build_runner().develop(model(qlib))
    experiment = model(qlib)
    with pytest.raises(typer.Exit):
        seams.build_runner().develop(experiment)
    assert "RD-Agent gave a result without training a model" in capsys.readouterr().err
    assert qlib.runs == 1
    assert manifest_of(experiment) is None


def test_other_caches_stay_on_for_the_runs_own_factors(
    qlib: Qlib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only develop's result is not cached: RD-Agent's own merge, of fin_quant's factors, has its caches."""
    from rdagent.components.coder.factor_coder.factor import FactorTask
    from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment

    seen = []
    index = seams.factor_frame(qlib.market).index

    def process_factor_data(experiments: list[object]) -> pd.DataFrame:
        seen.append(settings().cache_with_pickle)
        return pd.DataFrame({"own": 1.0}, index=index)

    edits = forks.FITTING["key of the model alone"]
    module = forks.load(tmp_path / "fork", forks.text_with(*edits), monkeypatch)
    monkeypatch.setattr(module, "process_factor_data", process_factor_data)
    forks.apply_seams(module, monkeypatch)
    columns = [*qlib.columns, "own"]
    qlib.will(columns=columns, num_features=len(columns))
    experiment = model(qlib)
    experiment.based_experiments = [QlibFactorExperiment([FactorTask("own", "d", "f")])]
    experiment.based_experiments[0].result = pd.Series({"IC": 0.02})
    seams.build_runner().develop(experiment)
    assert seen == [True]
    assert qlib.environment["num_features"] == str(len(columns))


def test_caches_are_on_again_after_a_failure(
    qlib: Qlib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that ends in an exception of RD-Agent's leaves its setting as it was."""
    from rdagent.core.exception import ModelEmptyError

    run_as(forks.FITTING["key of the model alone"], tmp_path, monkeypatch)
    qlib.will(races=9)
    with pytest.raises(ModelEmptyError, match="malformed"):
        seams.build_runner().develop(model(qlib))
    assert settings().cache_with_pickle is True


# --- the YAML ---


@pytest.mark.parametrize("explicit", [False, True], ids=["ALPHA_FACTORS not set", "ALPHA_FACTORS=alpha22"])
def test_base_features_of_a_fork_are_kept_unless_others_are_asked_for(
    explicit: bool, qlib: Qlib, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features that a fork wrote into its YAML are the user's choice, as those in RD-Agent's settings are."""
    if explicit:
        monkeypatch.setenv("ALPHA_FACTORS", "alpha22")
    expected = base_set("alpha22").names if explicit else forks.CHOSEN
    columns = sorted({*expected, "overnight_gap"})
    qlib.will(columns=columns, num_features=len(columns))
    experiment = model(qlib)
    experiment.experiment_workspace.inject_files(**{CONFIG_FILE: forks.YAMLS["a filter of all 158"]})
    seams.build_runner().develop(experiment)
    assert json.loads(qlib.environment["feature_names"]) == list(expected)
    assert json.loads(qlib.environment["feature_columns"]) == [*expected, "overnight_gap"]
    assert qlib.environment["num_features"] == str(len(columns))


def test_a_yaml_that_can_not_be_adapted_stops_before_the_loop(
    qlib: Qlib, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter of all groups, labels too, is not rewritten: it would drop features, and is refused."""
    text = forks.YAMLS["a filter of all 158"].replace("fields_group: feature", "fields_group: null", 1)
    asked = dry_run.of_models()
    asked = dataclasses.replace(asked, start=dataclasses.replace(asked.start, config=text))
    monkeypatch.setattr(dry_run, "of_models", lambda: asked)
    with pytest.raises(SystemExit, match="its processor FilterCol would drop 20 features: CORD10"):
        seams.build_runner()


BASE = BaseSet("/base.yaml", (("KLEN", "($high-$low)/$open"), ("MA20", "Mean($close, 20)/$close")))
MINED = ("overnight_gap", "MA20")

LOOK = """
import json, pickle, sys, pathlib
import qlib, yaml
from qlib.utils import init_instance_by_config
told = {}
for file in sorted(pathlib.Path().glob("*.yaml")):
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not told:
        qlib.init(**config["qlib_init"], kernels=1)
    dataset = init_instance_by_config(config["task"]["dataset"])
    class Recorder:
        info = {"id": "r"}
        def load_object(self, name): return pickle.loads(pickle.dumps(dataset))
        def list_params(self): return {}
    exec(sys.argv[1], {"latest_recorder": Recorder()})
    frames = dataset.handler._infer, dataset.handler._learn
    told[file.stem] = {
        "infer": sorted(frames[0]["feature"].columns),
        "learn": sorted(frames[1]["feature"].columns),
        "values": frames[1]["feature"].iloc[:, -1].abs().sum() > 0,
        "probe": json.loads(pathlib.Path("sota_loaded.json").read_text())["columns"],
    }
print(json.dumps(told, default=bool))
"""


@pytest.mark.e2e
def test_qlib_lets_all_features_through(market_home: tuple[Path, Market], tmp_path: Path) -> None:
    """The real Qlib loads base and mined columns from every fork's YAML, and the probe tells what it loads.

    The YAML as the fork has it drops the mined columns: nothing but the adapted list brings them.
    """
    home, market = market_home
    frame = seams.factor_frame(market, MA20=1.0)
    seams.write_set(tmp_path, frame)
    beside = BASE.without(MINED)
    variables = model_yaml.feature_variables(beside, MINED)
    texts = {
        name: model_yaml.adapt(text, beside, "a set", MINED)
        for name, text in {**forks.YAMLS, "by a variable": forks.WITH_A_PLACEHOLDER}.items()
        if name in ("a filter after the norm", "a filter for learning, too", "by a variable")
    }
    own = {"own": forks.YAMLS["a filter of all 158"], "own after": forks.YAMLS["a filter after the norm"]}
    for name, text in {**texts, **own}.items():
        (tmp_path / f"{name}.yaml").write_text(
            jinja2.Template(text).render(num_features="3", **variables), encoding="utf-8"
        )
    process = subprocess.run(
        [sys.executable, "-c", LOOK, manifest.with_probe("", "note")],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(home), "PYTHONPATH": "./"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    told = json.loads(process.stdout.splitlines()[-1])
    for name in own:
        assert told[name]["learn"] == told[name]["probe"] == sorted(forks.CHOSEN), name
    for name in texts:
        columns = ["KLEN", "MA20", "overnight_gap"]
        expected = {"infer": columns, "learn": columns, "values": True, "probe": columns}
        assert told[name] == expected, name
