"""The hand-off at the seams of the real model runner, without starting Qlib."""

from __future__ import annotations

import os
import pickle
import shutil
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import typer
from rdagent.components.coder.factor_coder.factor import FactorTask
from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment

from rdagent_sota_bridge.bridge import model_runner, plan, stop
from rdagent_sota_bridge.errors import SeamError
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from tests import seams
from tests.forking import Forks
from tests.seams import Place


def test_another_shape_stops_a_run_that_asked(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no develop, a run with the switch on stops; else it costs one line on stderr."""
    module = ModuleType("model_runner")
    module.QlibModelRunner = type("QlibModelRunner", (), {})  # type: ignore[attr-defined]
    with pytest.raises(SeamError, match=r"has no QlibModelRunner\.develop"):
        model_runner.runner_patches(module)
    error = SeamError("QlibModelRunner.develop has another shape", "model_runner.py", "m")
    stop.refuse(error)
    line = "rdagent-sota-bridge: QlibModelRunner.develop has another shape (model_runner.py)\n"
    assert capsys.readouterr().err == line
    place.switch_on()
    with pytest.raises(SystemExit, match="develop has another shape"):
        stop.refuse(error)


# --- the hand-off ---


def test_switched_off_the_original_is_called_and_nothing_else(place: Place) -> None:
    """Without the switch the runner carries nothing, and the experiment is what RD-Agent made."""
    runner, before = seams.build_runner(), seams.model_experiment()
    assert plan.RUNNER_ATTRIBUTE not in vars(runner)
    features = getattr(before, "base_features", None)
    experiment = seams.develop_up_to_qlib(runner, before)
    assert experiment.based_experiments == []
    assert getattr(experiment, "base_features", None) is features
    assert list(experiment.experiment_workspace.workspace_path.glob("*sota_manifest*")) == []


def test_the_workspace_gets_the_set(place: Place) -> None:
    """RD-Agent's own merge path ends with exactly the set's values, nested under `feature`.

    The user's file keeps its bytes and times, and nothing is written beside it; a runner that was pickled
    into a step's process knows its set from the session, not from the environment.
    """
    file = place.workspace / FACTOR_FILE
    before = file.read_bytes(), file.stat().st_mtime_ns, sorted(place.workspace.iterdir())
    place.switch_on()
    with seams.logged() as lines:
        runner = pickle.loads(pickle.dumps(seams.build_runner()))
        place.patch.delenv("SOTA_WORKSPACE_PATH")
        written = pd.read_parquet(place.developed(runner))
    pd.testing.assert_frame_equal(written, pd.read_parquet(file).sort_index())
    said = "".join(lines)
    for line in (
        f"INFO: SOTA factors loaded from workspace: {file}\n",
        f"INFO: SOTA factors shape: ({len(written)}, 1)\n",
        "INFO: SOTA factor experiment added to based_experiments\n",
        "INFO: SOTA factor processing ...\n",
        "INFO: 叠加Alpha因子: 22个\n",
    ):
        assert line in said
    assert (file.read_bytes(), file.stat().st_mtime_ns, sorted(place.workspace.iterdir())) == before


def test_features_chosen_in_rdagent_are_kept(place: Place) -> None:
    """Base features that the user chose in RD-Agent 1.0.0 stay, unless ALPHA_FACTORS is set explicitly."""
    place.switch_on()
    for explicit in (False, True):
        if explicit:
            place.patch.setenv("ALPHA_FACTORS", "alpha20")
        experiment = seams.model_experiment()
        chosen = experiment.base_features = {"MINE": "$close/$open"}  # 0.8.0 knows no such choice
        with seams.logged() as lines:
            seams.develop_up_to_qlib(seams.build_runner(), experiment)
        said = "".join(lines)
        assert experiment.base_features == chosen
        assert ("Base features chosen in RD-Agent are kept" in said and "MINE" in said) is not explicit
        taken = "INFO: The base set alpha20 takes the place of 1 base features chosen in RD-Agent\n"
        assert (taken in lines) is explicit
        assert f"INFO: 叠加Alpha因子: {20 if explicit else 1}个\n" in lines


def test_chosen_features_that_change_in_a_run_stop_it(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run keeps its base set too, also where it is the user's choice in RD-Agent."""
    place.switch_on()
    runner = seams.build_runner()
    experiments = [seams.model_experiment(), seams.model_experiment()]
    for experiment, name in zip(experiments, ("ONE", "TWO"), strict=True):
        experiment.base_features = {name: "$close/$open"}
    seams.develop_up_to_qlib(runner, experiments[0])
    with pytest.raises(typer.Exit):
        pickle.loads(pickle.dumps(runner)).develop(experiments[1])
    assert "The base set is not the one that this run began with" in capsys.readouterr().err


def test_the_synthetic_experiment_is_light_and_plain(place: Place, forks_of_rdagent: Forks) -> None:
    """It pickles without the data, leaves no folder, and unpickles where the package is not installed."""
    place.switch_on()
    runner, experiment = seams.build_runner(), seams.model_experiment()
    root = Path(import_module("rdagent.core.conf").RD_AGENT_SETTINGS.workspace_path)
    before = set(root.iterdir())
    seams.develop_up_to_qlib(runner, experiment)
    own = (experiment.experiment_workspace, experiment.sub_workspace_list[0])
    assert set(root.iterdir()) - before <= {workspace.workspace_path for workspace in own}

    base, synthetic = experiment.based_experiments
    assert type(base) is type(synthetic) is QlibFactorExperiment
    content = pickle.dumps([base, synthetic, runner])
    assert len(content) < 20_000
    code = (
        "import pickle, sys; sys.modules['rdagent_sota_bridge'] = None\n"
        f"base, synthetic, runner = pickle.loads({content!r})\n"
        "print(type(synthetic).__name__, synthetic.sota_factor_set['digest'])"
    )
    found = forks_of_rdagent.output(code, RDAGENT_SOTA_BRIDGE="0")
    assert found.split() == ["QlibFactorExperiment", synthetic.sota_factor_set["digest"]]


def test_the_results_hold_every_metric_that_rdagent_asks_for(place: Place) -> None:
    """The factor run's metrics are there where it left them, else NaN; `.loc` works."""
    from rdagent.scenarios.qlib.developer.feedback import IMPORTANT_METRICS

    (place.workspace / "qlib_res.csv").write_text(",0\nIC,0.0521\nl2.train,0.99\nbroken,x\n")
    place.switch_on()
    experiment = seams.develop_up_to_qlib(seams.build_runner(), seams.model_experiment())
    # QLIB_SELECTED_METRICS of RD-Agent's log/ui/app.py, which can't be imported outside streamlit.
    selected = [*IMPORTANT_METRICS, "1day.excess_return_with_cost.information_ratio"]
    first, last = (based.result.loc[selected] for based in experiment.based_experiments)
    assert last["IC"] == 0.0521
    assert last.drop("IC").isna().all()
    assert first.isna().all()
    assert experiment.based_experiments[-1].result["l2.train"] == 0.99


def test_factor_experiments_of_the_run_itself_stay_and_come_once(place: Place) -> None:
    """Developing the same experiment again replaces our two experiments and keeps RD-Agent's own."""
    place.switch_on()
    runner, experiment, other = seams.build_runner(), seams.model_experiment(), seams.model_experiment("A")
    other.result = pd.Series({"IC": 0.01})
    experiment.based_experiments = [other]
    for _ in range(2):
        with seams.logged() as lines:
            seams.develop_up_to_qlib(runner, experiment)
        assert [based is other for based in experiment.based_experiments] == [False, True, False]
        assert lines.count("INFO: 叠加Alpha因子: 22个\n") == 1, "beside an accepted model too"


@pytest.fixture
def own_factors(place: Place) -> Any:
    """Return an accepted factor experiment of the run itself, whose code RD-Agent would run again."""
    own = QlibFactorExperiment([FactorTask("own", "d", "f")])
    own.result = pd.Series({"IC": 0.02})
    index = seams.factor_frame(place.market).index

    def process(experiments: list[object]) -> pd.DataFrame:
        assert experiments == [own]
        return pd.DataFrame({"own": 1.0, "overnight_gap": 2.0, "MA20": 3.0}, index=index)

    # What runs factor code is RD-Agent's, and stands in here; ours lies over it as over the real one.
    at = import_module("rdagent.scenarios.qlib.developer.model_runner")
    place.patch.setattr(at, "process_factor_data", seams.merge_over(process))
    return own


def test_factors_that_the_run_accepted_itself_come_beside_the_set(place: Place, own_factors: Any) -> None:
    """In fin_quant RD-Agent's own factor experiments are merged too, each name once, newer values last.

    RD-Agent writes the file itself then: a link that lies there is taken away, and never written through.
    """
    place.switch_on()
    runner, experiment = seams.build_runner(), seams.model_experiment()
    (stored,) = stored_files()
    content = stored.read_bytes()
    os.link(stored, seams.in_workspace(experiment))
    experiment.based_experiments = [own_factors]
    seams.develop_up_to_qlib(runner, experiment)
    assert experiment.based_experiments[0] is own_factors
    assert len(experiment.based_experiments) == 2, "with one of its own it needs no empty one"
    written = pd.read_parquet(seams.in_workspace(experiment))["feature"]
    assert set(written.columns) == {"overnight_gap", "own", "MA20"}
    assert (written["overnight_gap"] == 2.0).all()
    assert stored.read_bytes() == content


# --- the store ---


def stored_files() -> list[Path]:
    """Return the factor files of the store that the current folder has by default."""
    return sorted(Path("git_ignore_folder/sota_store").resolve().glob("*.parquet"))


def test_all_models_link_one_file_of_the_store(place: Place) -> None:
    """Each workspace gets a link to the one stored file, or its clone, and nothing reads the set for it."""
    place.switch_on()
    runner = seams.build_runner()
    (stored,) = stored_files()
    assert stored.stat().st_mode & 0o777 == 0o444
    read = pd.read_parquet

    def read_sample(path: Path) -> pd.DataFrame:
        assert pq.read_metadata(path).num_rows == 9, "the set itself is read"
        return read(path)

    place.patch.setattr(pd, "read_parquet", read_sample)
    with seams.logged() as lines:
        files = [place.developed(runner) for _ in range(2)]
    how = "link" if files[0].samefile(stored) else "clone"
    assert [file.samefile(stored) for file in files] == [how == "link"] * 2
    said = f"INFO: SOTA factors placed in the model's workspace: a {how} of {stored}"
    assert sum(said in line for line in lines) == 2
    assert stored_files() == [stored]


def test_a_workspace_of_a_container_has_a_file_of_its_own(place: Place) -> None:
    """Under Docker the workspace gets a copy: `chmod -R 777`, and writing, there reach no stored file."""
    coder = import_module("rdagent.components.coder.model_coder.conf").MODEL_COSTEER_SETTINGS
    place.patch.setattr(coder, "env_type", "docker")
    place.switch_on()
    file = place.developed()
    (stored,) = stored_files()
    content = stored.read_bytes()
    assert file.stat().st_ino != stored.stat().st_ino
    assert file.read_bytes() == content
    file.chmod(0o777)
    file.write_bytes(b"changed in the container")
    assert (stored.stat().st_mode & 0o777, stored.read_bytes()) == (0o444, content)


@pytest.mark.parametrize("what", ["changed", "lost"])
def test_a_stored_file_that_is_spoilt_in_a_run_is_written_anew(what: str, place: Place) -> None:
    """Writing through a workspace's link is a warning in the next loop, a deleted store costs a copy."""
    place.switch_on()
    runner = seams.build_runner()
    first = place.developed(runner)
    (stored,) = stored_files()
    if what == "changed":
        stored.chmod(0o644)
        stored.write_bytes(b"written through a link")
    else:
        shutil.rmtree("git_ignore_folder")
    with seams.logged() as lines:
        second = place.developed(runner)
    warned = sum("WARNING: SOTA factors store:" in line and "written anew" in line for line in lines)
    assert warned == (what == "changed")
    assert second.read_bytes() == (place.workspace / FACTOR_FILE).read_bytes()
    assert not first.exists() or first.stat().st_ino != second.stat().st_ino


def test_a_store_that_fails_in_a_loop_ends_the_run_with_one_message(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the copy can't be written any more, the run ends with the place and the fix, and status 1."""
    place.switch_on(SOTA_STORE_PATH="store")
    runner = seams.build_runner()
    shutil.rmtree("store")
    Path("store").touch()
    with pytest.raises(typer.Exit) as stopped:
        runner.develop(seams.model_experiment())
    assert stopped.value.exit_code == 1
    said = capsys.readouterr().err
    assert f"where: {Path('store').resolve()}" in said
    assert "SOTA_STORE_PATH" in said


@pytest.mark.parametrize(("own", "fact"), [(False, "can't be placed"), (True, "can't be read any more")])
def test_a_set_that_is_gone_at_the_merge_is_one_message(
    own: bool, fact: str, place: Place, own_factors: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stored file that is deleted while RD-Agent merges ends the run before any training."""
    place.switch_on()
    runner, experiment = seams.build_runner(), seams.model_experiment()
    experiment.sub_workspace_list[0].inject_files(**{"model.py": "model_cls = None"})
    experiment.based_experiments = [own_factors] if own else []
    keep = plan.keep_in_store

    def keep_not(record: plan.Record) -> Any:
        stored = keep(record)
        stored.path.unlink()
        return stored

    place.patch.setattr(plan, "keep_in_store", keep_not)
    with pytest.raises(typer.Exit):
        runner.develop(experiment)
    said = capsys.readouterr().err
    assert fact in said
    assert said.count("fix:") == 1


# --- identity ---


def test_cache_keys_differ_by_set_and_base_set(place: Place, tmp_path: Path) -> None:
    """The key differs by content, base set and switch, not by path; switched off it is RD-Agent's."""

    def key(workspace: Path | None, **variables: str) -> str:
        with place.patch.context() as patched:
            if workspace is not None:
                seams.switch_on(patched, workspace, **variables)
            return seams.cache_key(seams.develop_up_to_qlib(seams.build_runner(), seams.model_experiment()))

    other = seams.write_set(tmp_path / "other", seams.factor_frame(place.market) * 2)
    moved = seams.copy_set(place.workspace, tmp_path / "moved")
    keys = {
        "off": key(None),
        "set": key(place.workspace),
        "other set": key(other),
        "alpha20": key(place.workspace, ALPHA_FACTORS="alpha20"),
        "mined alone": key(place.workspace, USE_ALPHA_FACTORS="no"),
    }
    assert len(set(keys.values())) == len(keys)
    assert keys["off"] == seams.cache_key(seams.model_experiment())
    assert keys["set"] == key(moved)


def test_a_changed_file_stops_the_run_between_loops(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A run keeps its set: other content in the second loop ends it with both digests, status 1."""
    place.switch_on()
    runner = seams.build_runner()
    place.developed(runner)
    record = plan.record_of(runner)
    assert record is not None
    seams.write_set(place.workspace, seams.factor_frame(place.market) * 2)
    with pytest.raises(typer.Exit) as stopped:
        runner.develop(seams.model_experiment())
    assert stopped.value.exit_code == 1
    said = capsys.readouterr().err
    assert record["digest"] in said
    assert said.count("sha256:") == 2
    (place.workspace / FACTOR_FILE).unlink()
    with pytest.raises(typer.Exit):
        runner.develop(seams.model_experiment())
    assert "SOTA factors file not found" in capsys.readouterr().err
