"""Forks of RD-Agent, through the real hand-off: what fits is trained on the factors, the rest says why not.

A stand-in takes the place of qrun; what a filter of columns lets through is asked of the real Qlib.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import pytest
import typer

from examples.demo.market import Market
from rdagent_sota_bridge.bridge import dry_run, plan
from rdagent_sota_bridge.errors import StoreError
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import manifest, model_yaml
from rdagent_sota_bridge.qlib_files.base_sets import ALPHA22, BaseSet, base_set
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE
from tests import forks, seams
from tests.bridge import test_backtest
from tests.bridge.test_backtest import Qlib, manifest_of, model
from tests.forks import Edit

qlib = test_backtest.qlib

WRITTEN_TWICE = """\
                for attempt in range(2):
                    combined_factors.to_parquet(target_path, engine="pyarrow")
                    result, stdout = exp.experiment_workspace.execute(
                        qlib_config_name="conf_sota_factors_model.yaml", run_env=env_to_use
                    )
"""
TRAINED_TWICE = WRITTEN_TWICE.replace(
    '                    combined_factors.to_parquet(target_path, engine="pyarrow")\n', ""
)


@dataclass
class Place:
    """A stand-in for Qlib, and what makes RD-Agent a fork."""

    qlib: Qlib
    folder: Path
    patch: pytest.MonkeyPatch
    screen: pytest.CaptureFixture[str]

    def be(self, *fork: Edit, **own: Any) -> None:
        """Let RD-Agent be a fork until the test ends, with the seams, and with names of the test's own."""
        module = forks.load(self.folder / "fork", forks.text_with(*fork), self.patch)
        for name, value in own.items():
            self.patch.setattr(module, name, value)
        forks.apply_seams(module, self.patch)

    def develop(self, *, ends: bool = False) -> Any:
        """Let a runner that is just built develop a model, or end the run there; return the model."""
        experiment, runner = model(self.qlib), seams.build_runner()
        if ends:
            with pytest.raises(typer.Exit):
                runner.develop(experiment)
            assert manifest_of(experiment) is None
        else:
            runner.develop(experiment)
        return experiment


@pytest.fixture
def place(
    qlib: Qlib, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Place:
    """Return a place in which RD-Agent may be a fork."""
    return Place(qlib, tmp_path, monkeypatch, capsys)


def is_cache_on() -> bool:
    """Return RD-Agent's setting of its result cache."""
    return bool(import_module("rdagent.core.conf").RD_AGENT_SETTINGS.cache_with_pickle)


# --- develop ---


@pytest.mark.parametrize("fork", forks.FITTING)
def test_what_fits_is_trained_on_the_factors(fork: str, place: Place) -> None:
    """The real develop of each fork hands set and width to qrun; it gets nine rows, and the set is placed."""
    place.be(*forks.FITTING[fork])
    found = manifest_of(place.develop())
    assert place.qlib.environment["num_features"] == "23"
    assert found is not None
    assert found["qlib_loaded"]["columns"] == place.qlib.columns
    assert found["factor_set"]["stored"] is not None


@pytest.mark.parametrize("fork", forks.CHANGING)
def test_what_changes_the_factors_is_trained_on_its_own_file(fork: str, place: Place) -> None:
    """A fork that filters, drops or clips gets the whole set: Qlib reads its own file, and no other rows."""
    edits, statement = forks.CHANGING[fork]
    frame = seams.factor_frame(place.qlib.market, noise=1.0)
    frame.iloc[::7, 0] = float("nan")
    seams.write_set(place.qlib.set, frame)
    place.be(*edits)
    namespace = {"combined_factors": frame.sort_index()}
    exec(statement, namespace)
    expected = namespace["combined_factors"]
    columns = sorted({*ALPHA22, *expected.columns})
    place.qlib.will(columns=columns, num_features=len(columns))
    with seams.logged() as lines:
        experiment = place.develop()
    written = pd.read_parquet(experiment.experiment_workspace.workspace_path / FACTOR_FILE)["feature"]
    pd.testing.assert_frame_equal(written, expected)
    assert place.qlib.runs == 1
    assert place.qlib.environment["num_features"] == str(len(columns))
    found = manifest_of(experiment)
    assert found is not None
    assert found["mined_columns"] == list(expected.columns)
    assert found["factor_set"]["stored"] is None
    assert sum("develop changes the factors that it is given" in line for line in lines) == 1


def test_what_changes_the_factors_in_a_loop_alone_stops_the_run(place: Place) -> None:
    """Where develop keeps the nine rows in the dry run, and not in a loop, no set is placed over its file."""
    place.be((forks.WRITE, f"{forks.WRITE}                self.spoil(target_path)\n"))

    def spoil(_: Any, file: Path) -> None:
        if not file.parents[1].name.startswith("rdagent-sota-"):  # the dry run's folder
            file.write_bytes(b"")

    runner: Any = import_module(forks.MODULE).QlibModelRunner
    place.patch.setattr(runner, "spoil", spoil, raising=False)
    place.develop(ends=True)
    assert "develop wrote other factors than it was given" in place.screen.readouterr().err
    assert place.qlib.runs == 0


@pytest.mark.parametrize(
    ("training", "races", "runs"),
    [(WRITTEN_TWICE, 2, 3), (WRITTEN_TWICE, 0, 2), (TRAINED_TWICE, 0, 2)],
    ids=["written again after a failure", "written again after a result", "trained again on the same file"],
)
def test_a_second_training_writes_through_no_link(training: str, races: int, runs: int, place: Place) -> None:
    """A fork that trains twice, on a file written anew or not, leaves the stored set alone and uses it."""
    place.be((forks.TRAINED, training))
    place.patch.setenv("SOTA_STORE_PATH", str(place.folder / "store"))
    place.qlib.will(races=races)
    seams.build_runner()
    (stored,) = (place.folder / "store").glob("*.parquet")
    content = stored.read_bytes()
    file = place.develop().experiment_workspace.workspace_path / FACTOR_FILE
    assert place.qlib.runs == runs
    assert stored.read_bytes() == file.read_bytes() == content


@pytest.mark.parametrize("fork", forks.MISFITS)
def test_what_does_not_fit_is_refused(fork: str, place: Place) -> None:
    """A fork that can't be bridged stops a run that asked for the factors, or warns it, and says why."""
    edits, reason = forks.MISFITS[fork]
    place.be(*edits)
    with pytest.raises(SystemExit, match="develop has a shape that is not known") as stop:
        seams.build_runner()
    assert reason in str(stop.value)
    assert f"where: {place.folder}" in str(stop.value)
    place.patch.setenv("SOTA_ON_ERROR", "baseline")
    with seams.logged() as lines:
        assert plan.record_of(seams.build_runner()) is None
    assert sum("the run goes on without the factors" in line for line in lines) == 1


def test_with_the_switch_off_nothing_is_said(place: Place) -> None:
    """A fork's own run is its own: no warning, its own YAML, its own cache key."""
    place.patch.setenv("LOAD_SOTA_FROM_WORKSPACE", "false")
    place.be(*forks.FITTING["key of the model alone"])
    with seams.logged() as lines:
        for _ in range(2):
            place.develop()
    assert place.qlib.runs == 1, "the second result is the cached one"
    assert "feature_columns" not in place.qlib.environment
    said = "".join(lines) + place.screen.readouterr().err
    assert "QlibModelRunner" not in said
    assert "cache" not in said


@pytest.mark.parametrize(
    ("fork", "what", "said", "runs"),
    [
        ("retry in a loop", {"num_features": 20}, "the network is 20 wide for 23 columns", 1),
        ("retry in a method", {"num_features": 20}, "the network is 20 wide for 23 columns", 1),
        ("baseline after a failure", {"num_features": 20}, "the network is 20 wide for 23 columns", 1),
        # The factors, and once more after the race; then no baseline.
        ("baseline after a failure", {"races": 9}, "took conf_baseline_factors_model.yaml in place of", 2),
        ("merge that may fail", {}, "The store is full", 0),
    ],
)
def test_what_a_fork_catches_stops_the_run(
    fork: str, what: dict[str, Any], said: str, runs: int, place: Place
) -> None:
    """A model without the factors ends the run, though the fork retries, or continues without them."""
    place.be(*forks.FITTING[fork])
    place.qlib.will(**what)

    def full(record: plan.Record) -> None:
        raise StoreError("The store is full", "/store", "make room")

    build = seams.build_runner

    def build_and_fill() -> Any:
        runner = build()
        if runs == 0:
            place.patch.setattr(plan, "keep_in_store", full)
        return runner

    place.patch.setattr(seams, "build_runner", build_and_fill)
    place.develop(ends=True)
    assert said in place.screen.readouterr().err
    assert place.qlib.runs == runs


# --- the cache of results ---


@pytest.mark.parametrize(
    "fork", ["key of all experiments", "key of the model alone", "key that counts", "no cache"]
)
def test_a_result_of_the_cache_is_not_taken(fork: str, place: Place) -> None:
    """Whatever a fork makes its key of, a result without the set, or of another one, answers no model."""
    place.be(*forks.FITTING[fork])
    place.patch.setenv("LOAD_SOTA_FROM_WORKSPACE", "no")
    for _ in range(2):
        place.develop()
    baseline = 2 if fork == "no cache" else 1
    assert place.qlib.runs == baseline
    place.patch.setenv("LOAD_SOTA_FROM_WORKSPACE", "yes")
    for number, factor in enumerate((1, 1, 2), 1):
        seams.write_set(place.qlib.set, seams.factor_frame(place.qlib.market) * factor)
        assert manifest_of(place.develop()) is not None
        assert place.qlib.runs == baseline + number
    assert is_cache_on()


def test_a_cache_that_can_not_be_turned_off_stops_the_run(place: Place) -> None:
    """A forced cache whose key leaves the set out answers with the result of another: the run ends."""
    place.be(*forks.FORCED_KEY)
    place.develop()
    place.develop(ends=True)
    assert "RD-Agent gave a result without training a model" in place.screen.readouterr().err
    assert place.qlib.runs == 1


def test_other_caches_stay_on_for_the_runs_own_factors(place: Place) -> None:
    """Only develop's result is not cached: RD-Agent's own merge, of fin_quant's factors, has its caches."""
    from rdagent.components.coder.factor_coder.factor import FactorTask
    from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment

    seen = []
    index = seams.factor_frame(place.qlib.market).index

    def process_factor_data(experiments: list[object]) -> pd.DataFrame:
        seen.append(is_cache_on())
        return pd.DataFrame({"own": 1.0}, index=index)

    place.be(*forks.FITTING["key of the model alone"], process_factor_data=process_factor_data)
    columns = [*place.qlib.columns, "own"]
    place.qlib.will(columns=columns, num_features=len(columns))
    experiment = model(place.qlib)
    experiment.based_experiments = [QlibFactorExperiment([FactorTask("own", "d", "f")])]
    experiment.based_experiments[0].result = pd.Series({"IC": 0.02})
    seams.build_runner().develop(experiment)
    assert seen == [True]
    assert place.qlib.environment["num_features"] == str(len(columns))


def test_caches_are_on_again_after_a_failure(place: Place) -> None:
    """A training that ends in an exception of RD-Agent's leaves its setting as it was."""
    from rdagent.core.exception import ModelEmptyError

    place.be(*forks.FITTING["key of the model alone"])
    place.qlib.will(races=9)
    with pytest.raises(ModelEmptyError, match="malformed"):
        place.develop()
    assert is_cache_on()


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
    monkeypatch.setattr(dry_run, "of_models", lambda columns: asked)
    with pytest.raises(SystemExit, match="its processor FilterCol would drop 20 features: CORD10"):
        seams.build_runner()


BASE = BaseSet("/base.yaml", (("KLEN", "($high-$low)/$open"), ("MA20", "Mean($close, 20)/$close")))
MINED = ("overnight_gap", "MA20")

LOOK = """
import json, pickle, sys, pathlib
import qlib, yaml
from qlib.utils import init_instance_by_config
found = {}
for file in sorted(pathlib.Path().glob("*.yaml")):
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not found:
        qlib.init(**config["qlib_init"], kernels=1)
    dataset = init_instance_by_config(config["task"]["dataset"])
    class Recorder:
        info = {"id": "r"}
        def load_object(self, name): return pickle.loads(pickle.dumps(dataset))
        def list_params(self): return {}
    exec(sys.argv[1], {"latest_recorder": Recorder()})
    frames = dataset.handler._infer, dataset.handler._learn
    found[file.stem] = {
        "infer": sorted(frames[0]["feature"].columns),
        "learn": sorted(frames[1]["feature"].columns),
        "values": frames[1]["feature"].iloc[:, -1].abs().sum() > 0,
        "probe": json.loads(pathlib.Path("sota_loaded.json").read_text())["columns"],
    }
print(json.dumps(found, default=bool))
"""


@pytest.mark.e2e
def test_qlib_lets_all_features_through(market_home: tuple[Path, Market], tmp_path: Path) -> None:
    """The real Qlib loads base and mined columns from every fork's YAML, and the probe names what it loads.

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
    found = json.loads(process.stdout.splitlines()[-1])
    for name in own:
        assert found[name]["learn"] == found[name]["probe"] == sorted(forks.CHOSEN), name
    for name in texts:
        columns = ["KLEN", "MA20", "overnight_gap"]
        expected = {"infer": columns, "learn": columns, "values": True, "probe": columns}
        assert found[name] == expected, name
