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

from rdagent_sota_bridge import dry_run, manifest, plan, prepared, qlib_config
from rdagent_sota_bridge.alpha import BaseSet, base_set
from rdagent_sota_bridge.demo.market import Market
from rdagent_sota_bridge.errors import SeamError, StoreError
from rdagent_sota_bridge.qlib_config import CONFIG_FILE
from tests import forks, seams, test_training
from tests.forks import Edit
from tests.test_training import Qlib, manifest_of, model

qlib = test_training.qlib

NO_CACHE = "WARNING: RD-Agent's result cache is not used"
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
    with seams.logged() as lines:
        seams.build_runner().develop(experiment)
    assert sum(line.startswith(NO_CACHE) for line in lines) == (fork in LEAVING_OUT)
    assert qlib.environment["num_features"] == "23"
    found = manifest_of(experiment)
    assert found is not None
    assert found["qlib_loaded"]["columns"] == qlib.columns


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
def test_another_set_is_another_result(
    fork: str, qlib: Qlib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a fork makes its key of, the result of one set never answers for another."""
    run_as(forks.FITTING[fork], tmp_path, monkeypatch)
    seams.build_runner().develop(model(qlib))
    seams.write_set(qlib.set, seams.factor_frame(qlib.market) * 2)
    seams.build_runner().develop(model(qlib))
    assert qlib.runs == 2
    assert settings().cache_with_pickle is True


def test_a_key_of_its_own_that_tells_sets_apart(
    qlib: Qlib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same set and model come from the fork's cache, which is found by the fork's own key."""
    run_as(forks.FITTING["key of all experiments"], tmp_path, monkeypatch)
    seams.build_runner().develop(model(qlib))
    again = model(qlib)
    seams.build_runner().develop(again)
    assert qlib.runs == 1
    found = manifest_of(again)
    assert found is not None
    assert found["from_cache"] is True


@pytest.mark.parametrize("fork", LEAVING_OUT)
def test_a_result_without_the_factors_is_not_taken(
    fork: str, qlib: Qlib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork's baseline result, cached under a key that leaves the set out, answers no model with it."""
    run_as(forks.FITTING[fork], tmp_path, monkeypatch)
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "no")
    for _ in range(2):
        plain = model(qlib)
        plain.based_experiments = []
        seams.build_runner().develop(plain)
    assert qlib.runs == 1
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "yes")
    experiment = model(qlib)
    seams.build_runner().develop(experiment)
    assert qlib.runs == 2
    assert manifest_of(experiment) is not None


@pytest.mark.parametrize(
    ("fork", "expected"),
    [
        (forks.FORCED_KEY, "would answer with the result of another factor set, and can't be turned off"),
        (forks.FAILING_KEY, "makes no key for a model with factors: AttributeError"),
    ],
)
def test_a_cache_that_can_not_be_used_stops_the_run(
    fork: tuple[Edit, ...],
    expected: str,
    qlib: Qlib,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where the cache can't be asked or turned off, the run ends before a training, and names the key."""
    run_as(fork, tmp_path, monkeypatch)
    experiment = model(qlib)
    with pytest.raises(typer.Exit):
        seams.build_runner().develop(experiment)
    said = capsys.readouterr().err
    assert expected in said
    assert f"{forks.MODULE}.own_key" in said
    assert qlib.runs == 0


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
    asked = dataclasses.replace(dry_run.of_models(), config=text)
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
    variables = qlib_config.feature_variables(beside, MINED)
    texts = {
        name: qlib_config.adapt(text, beside, "a set", MINED)
        for name, text in {**forks.YAMLS, "by a variable": forks.WITH_A_PLACEHOLDER}.items()
        if name in ("a filter after the norm", "a filter for learning, too", "by a variable")
    }
    in_prepared = prepared.with_prepared_handler(texts["a filter for learning, too"])
    texts |= {"prepared": in_prepared, "prepared, again": in_prepared}
    own = {"own": forks.YAMLS["a filter of all 158"], "own after": forks.YAMLS["a filter after the norm"]}
    for name, text in {**texts, **own}.items():
        (tmp_path / f"{name}.yaml").write_text(
            jinja2.Template(text).render(num_features="3", **variables), encoding="utf-8"
        )
    (tmp_path / prepared.SCRIPT_FILE).write_text(prepared.script(tmp_path / "store", "a set"))
    process = subprocess.run(
        [sys.executable, "-c", LOOK, manifest.with_probe("", "note")],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(home), "PYTHONPATH": "./"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    told = json.loads(process.stdout.splitlines()[-1])
    said = [line for line in process.stdout.splitlines() if "SOTA prepared data" in line]
    assert [line.split()[3] for line in said] == ["built", "loaded"], said
    for name in own:
        assert told[name]["learn"] == told[name]["probe"] == sorted(forks.CHOSEN), name
    for name in texts:
        columns = ["KLEN", "MA20", "overnight_gap"]
        expected = {"infer": columns, "learn": columns, "values": True, "probe": columns}
        assert told[name] == expected, name
