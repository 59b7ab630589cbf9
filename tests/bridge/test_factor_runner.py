"""Factor loops of `fin_quant`: RD-Agent's real factor runner, up to where Qlib would be started."""

from __future__ import annotations

import copy
import json
import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from rdagent.core.exception import FactorEmptyError
from rdagent.log import rdagent_logger
from rdagent.scenarios.qlib.developer import factor_runner
from rdagent.scenarios.qlib.developer.factor_runner import QlibFactorRunner
from rdagent.scenarios.qlib.experiment import workspace as workspaces
from rdagent.utils.workflow.loop import LoopTrace

from examples.demo.market import Market
from rdagent_sota_bridge.bridge import backtest, dry_run, plan
from rdagent_sota_bridge.bridge import factor_runner as bridge
from rdagent_sota_bridge.bridge import seams as patch
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import model_yaml
from rdagent_sota_bridge.qlib_files.base_sets import ALPHA22
from tests import quant, seams
from tests.quant import (
    Place,
    Qlib,
    QuantRDLoop,
    accepted_model,
    factor_experiment,
    let_code_be_run,
    of_accepted,
)

LIGHTGBM, BEST_MODEL = model_yaml.FACTOR_CONFIG_FILES


@pytest.fixture
def place(place: seams.Place, tmp_path: Path) -> quant.Place:
    """Let back-tests be kept in place of run, and a factor's code give a column of its name."""
    (tmp_path / "back-tests").touch()
    qlib = Qlib(tmp_path / "back-tests")
    place.patch.setattr(rdagent_logger.storage, "path", tmp_path / "log" / "run")
    place.patch.setattr(workspaces, "QlibCondaConf", lambda: None)
    place.patch.setattr(workspaces, "QlibCondaEnv", lambda conf: qlib)
    settings = import_module("rdagent.core.conf").RD_AGENT_SETTINGS
    place.patch.setattr(settings, "cache_with_pickle", False)
    let_code_be_run(place.patch, place.market)
    return quant.Place(place.market, place.workspace, place.patch, qlib)


def test_the_first_factor_loop_is_compared_with_the_loaded_set_alone(place: Place) -> None:
    """The loaded set is back-tested first; the loop's own back-test has it beside the new factor."""
    loop = place.loop()
    exp = loop.factor_runner.develop(factor_experiment("mine"))
    reference, own = place.qlib.tests
    assert (reference.config_name, own.config_name) == (LIGHTGBM, LIGHTGBM)
    assert reference.columns == ["overnight_gap"]
    assert own.columns == ["overnight_gap", "mine"]
    expected = seams.factor_frame(place.market).sort_index()
    pd.testing.assert_frame_equal(reference.factors["feature"], expected)
    pd.testing.assert_frame_equal(own.factors["feature"][["overnight_gap"]], expected)
    assert reference.base_features == own.base_features == list(ALPHA22)
    assert exp.result["IC"] == 2.0
    assert exp.based_experiments[-1].result["IC"] == 1.0, "what RD-Agent's verdict compares with"
    assert exp.based_experiments[0].result.loc["IC"] != 0, "RD-Agent's UI reads the first one's too"


def test_a_later_factor_loop_has_the_set_and_what_was_accepted_each_once(place: Place) -> None:
    """Beside accepted factors, on the accepted model, as wide as what Qlib loads; judged against the last."""
    loop = place.loop()
    accepted = [of_accepted(factor_experiment("first"), 0.1), accepted_model()]
    exp = loop.factor_runner.develop(factor_experiment("MA20", *accepted))
    (own,) = place.qlib.tests
    assert own.config_name == BEST_MODEL
    assert own.columns == ["overnight_gap", "first", "MA20"]
    assert own.base_features == [name for name in ALPHA22 if name != "MA20"], "a mined name comes once"
    assert own.variables["num_features"] == str(21 + 3)
    assert exp.based_experiments[-2:] == accepted
    again = loop.factor_runner.develop(exp)
    assert len(again.based_experiments) == 4, "ours are replaced where a loop is developed again"


def test_base_features_that_are_code_join_both_back_tests(place: Place) -> None:
    """`--base_features_path` of 1.0.0 may name factor code: it is beside the set."""
    loop = place.loop()
    exp = factor_experiment("mine")
    exp.base_feature_codes = {"coded.py": "…"}
    loop.factor_runner.develop(exp)
    reference, own = place.qlib.tests
    assert reference.columns == ["overnight_gap", "coded"]
    assert own.columns == ["overnight_gap", "mine", "coded"]


# --- the reference: one a run ---


def dumped(loop: Any) -> Path:
    """Write a session of a loop into the run's log folder, and return that."""
    now = datetime.now(timezone.utc)
    loop.loop_trace[0].append(LoopTrace(now, now, step_idx=0))
    folder = Path(rdagent_logger.storage.path)
    loop.dump(folder / "__session__" / "0" / "0_running")
    return folder


@pytest.mark.parametrize("is_first_skipped", [False, True])
def test_rejected_factor_loops_have_one_reference(is_first_skipped: bool, place: Place) -> None:
    """Each is compared with the same result, also where the first is skipped after its reference."""
    loop = place.loop()
    if is_first_skipped:
        with place.patch.context() as skipping:
            skipping.setattr(QlibFactorRunner, "deduplicate_new_factors", lambda self, old, new: new.iloc[:0])
            with pytest.raises(FactorEmptyError):
                loop.factor_runner.develop(factor_experiment("alike"))
    with seams.logged() as lines:
        developed = [loop.factor_runner.develop(factor_experiment(name)) for name in ("a", "b", "c")]
    assert place.qlib.count() == 4
    first, *later = (exp.based_experiments[-1].result for exp in developed)
    assert set(first) == {1.0}
    assert all(result.equals(first) for result in later)
    assert sum("the loaded set alone is back-tested first" in line for line in lines) == (
        not is_first_skipped
    )


def test_processes_of_parallel_loops_have_one_reference(place: Place) -> None:
    """STEP_SEMAPHORE > 1: each step has a copy of the runner in a process; two begin at once."""
    loop = place.loop()
    developed = []
    for names in (("a", "b"), ("c",)):
        experiments = [factor_experiment(name) for name in names]
        with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
            developed += pool.map(copy.deepcopy(loop.factor_runner.develop), experiments)
    assert place.qlib.count() == 4
    assert [exp.based_experiments[-1].result["IC"] for exp in developed] == [1.0, 1.0, 1.0]


def test_a_run_that_was_killed_after_its_reference_keeps_it(place: Place) -> None:
    """kill -9 between reference and back-test, and a resume: the factor loop alone is back-tested again."""
    loop = place.loop()
    folder = dumped(loop)
    place.patch.setattr(place.qlib, "kill_at", 2)
    killed = multiprocessing.get_context("fork").Process(
        target=loop.factor_runner.develop, args=(factor_experiment("mine"),)
    )
    killed.start()
    killed.join()
    assert (killed.exitcode, place.qlib.count()) == (-signal.SIGKILL, 2)
    exp = QuantRDLoop.load(folder).factor_runner.develop(factor_experiment("mine"))
    assert place.qlib.count() == 3
    assert exp.based_experiments[-1].result["IC"] == 1.0


OTHER_YAML = {
    "train": ("2014-12-31", "2013-12-31"),
    "provider_uri": ("qlib_data/cn_data", "qlib_data/other"),
    "market": ("&market csi300", "&market all"),
    "label": ("Ref($close, -2)", "Ref($close, -3)"),
}


@pytest.mark.parametrize("what", [*OTHER_YAML, "set", "base_set", "base_code", "a broken file"])
def test_a_reference_of_something_else_is_not_taken(what: str, place: Place) -> None:
    """Metrics of other sets, segments, data, market or label are no reference; a broken file is none."""
    loop = place.loop()
    loop.factor_runner.develop(factor_experiment("a"))
    file = Path(rdagent_logger.storage.path) / bridge.REFERENCE_FILE
    kept = json.loads(file.read_text())
    exp = factor_experiment("b")
    if what in OTHER_YAML:
        text = exp.experiment_workspace.file_dict[LIGHTGBM]
        exp.experiment_workspace.inject_files(**{LIGHTGBM: text.replace(*OTHER_YAML[what])})
        place.patch.setenv("QLIB_FACTOR_TRAIN_END", "2013-12-31" if what == "train" else "2014-12-31")
        dry_run.ask_factor_runner.cache_clear()
    elif what == "base_code":
        exp.base_feature_codes = {"coded.py": "…"}
    elif what == "a broken file":
        file.write_text("{")
    else:
        file.write_text(json.dumps({**kept, "key": {**kept["key"], what: "another"}}))
    loop.factor_runner.develop(exp)
    assert place.qlib.count() == 4
    assert exp.based_experiments[-1].result["IC"] == 3.0
    now = json.loads(file.read_text())
    assert now["metrics"]["IC"] == 3.0
    changed = {name for name in now["key"] if now["key"][name] != kept["key"][name]}
    assert changed == {what} & {*OTHER_YAML, "base_code"}


def test_switched_off_a_factor_loop_is_rdagents_own(place: Place) -> None:
    """Without the switch, and in fin_factor with it, the original gets the experiment and nothing happens."""
    loop = QuantRDLoop(QlibFactorRunner(None))
    place.switch_on()
    for runner in (loop.factor_runner, QlibFactorRunner(None)):
        exp = factor_experiment("mine", of_accepted(factor_experiment("first"), 0.1))
        before = list(exp.based_experiments)
        place.qlib.tests.clear()
        runner.develop(exp)
        assert exp.based_experiments == before
        assert place.qlib.tests[0].columns == ["first", "mine"]
        assert plan.RUNNER_ATTRIBUTE not in vars(runner)


def test_a_factor_loop_that_skips_the_merge_stops_the_run(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """If RD-Agent took the YAML without factors, the loop would be judged unlike: the run stops."""
    loop = place.loop()
    exp = factor_experiment("mine")

    def develop(given: Any) -> Any:
        given.experiment_workspace.execute(qlib_config_name="conf_baseline.yaml", run_env={})

    with pytest.raises(typer.Exit):
        bridge.join_factor_loop(develop, loop.factor_runner, exp)
    assert "RD-Agent took conf_baseline.yaml in place of" in capsys.readouterr().err
    assert place.qlib.tests == []


def test_a_set_that_changed_stops_a_factor_loop(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A run keeps the set it began with, in its factor loops as in its models."""
    loop = place.loop()
    seams.write_set(place.workspace, seams.factor_frame(place.market) * 2)
    with pytest.raises(typer.Exit):
        loop.factor_runner.develop(factor_experiment("mine"))
    assert capsys.readouterr().err.count("sha256:") == 2


# --- rows, names and codes ---


def halves(market: Market) -> pd.DataFrame:
    """Return two factors that fill one half of the instruments each, and so no row together."""
    frame = seams.factor_frame(market, noise=1.0)
    codes = frame.index.get_level_values("instrument")
    first = codes.isin(sorted(set(codes))[::2])
    frame.loc[first, "noise"] = float("nan")
    frame.loc[~first, "overnight_gap"] = float("nan")
    return frame


def test_a_set_without_complete_rows_stops_fin_quant_before_its_first_call(place: Place) -> None:
    """RD-Agent's factor loops keep the rows with every factor: a set that has none is refused for them."""
    seams.write_set(place.workspace, halves(place.market))
    place.switch_on(SOTA_MAX_CORRELATION="off")
    with pytest.raises(SystemExit, match="No row of the factor set has a value of every factor") as stop:
        QuantRDLoop(QlibFactorRunner(None))
    assert "0 of 28500 rows have a value of each of the 2 factors" in str(stop.value)
    assert "train with rdagent fin_model" in str(stop.value)
    place.patch.setenv("SOTA_ON_ERROR", "baseline")
    with seams.logged() as lines:
        loop = QuantRDLoop(QlibFactorRunner(None))
    assert sum("can't join the factor loops" in line for line in lines) == 1
    assert plan.record_of(loop.model_runner) is not None, "models keep all rows"
    assert plan.record_of(loop.factor_runner) is None


def test_the_reference_has_the_rows_that_factor_loops_keep(place: Place) -> None:
    """Both back-tests have the rows with a value of every factor: like is compared with like."""
    frame = seams.factor_frame(place.market, noise=1.0)
    frame.iloc[::3, 1] = float("nan")
    seams.write_set(place.workspace, frame)
    place.switch_on()
    with seams.logged() as lines:
        loop = QuantRDLoop(QlibFactorRunner(None))
        loop.factor_runner.develop(factor_experiment("mine"))
    reference, own = place.qlib.tests
    assert len(reference.factors) == len(own.factors) == 19_000
    assert not reference.factors.isna().any(axis=None)
    said = "".join(lines)
    assert "factor loops of fin_quant keep few rows: 19000 of 28500 rows" in said
    assert said.count("19000 of the loaded set's 28500 rows have a value of every factor, old and new") == 2


def test_new_factors_without_training_values_skip_the_loop(place: Place) -> None:
    """One factor of the LLM's that empties the training segment costs its loop, and neither run nor claim."""
    loop = place.loop()
    whole = factor_runner.process_factor_data

    def late(given: Any) -> pd.DataFrame:
        found = whole(given)
        return found if isinstance(given, list) else found.loc["2018-01-01":]

    index = seams.factor_frame(place.market).index
    once_more = pd.DataFrame({"first": 1.0}, index=index.append(index[:1]))
    doubled = seams.merge_over(lambda given: once_more)
    twice = factor_experiment("twice", of_accepted(factor_experiment("first"), 0.1))
    for code, exp, reason in (
        (late, factor_experiment("late"), "no row of the training segment"),
        (doubled, twice, "can't be joined"),
    ):
        place.patch.setattr(factor_runner, "process_factor_data", code)
        with pytest.raises(FactorEmptyError, match=reason):
            loop.factor_runner.develop(exp)


def test_an_own_factor_of_a_loaded_ones_name_is_a_warning(place: Place) -> None:
    """RD-Agent's merge keeps the newer one: a line names it, in factor loops and models, and the manifest."""
    loop = place.loop()
    with seams.logged() as lines:
        exp = loop.factor_runner.develop(factor_experiment("overnight_gap"))
    said = "1 loaded factors give way to factors of the same name that this run mined itself: overnight_gap"
    assert sum(said in line for line in lines) == 1
    assert place.qlib.tests[-1].columns == ["overnight_gap"]
    model = seams.model_experiment()
    model.based_experiments = [of_accepted(exp, 0.1)]
    with seams.logged() as lines:
        seams.develop_up_to_qlib(loop.model_runner, model)
    assert sum(said in line for line in lines) == 1


def test_base_features_are_counted_once_the_runs_own_factors_are_known(place: Place) -> None:
    """An own factor of a base feature's name leaves one base feature less, and the line says so."""
    loop = place.loop()
    model = seams.model_experiment()
    model.based_experiments = [of_accepted(factor_experiment("MA20"), 0.1)]
    with seams.logged() as lines:
        seams.develop_up_to_qlib(loop.model_runner, model)
    assert [line for line in lines if "叠加Alpha因子" in line] == ["INFO: 叠加Alpha因子: 21个\n"]


def test_the_cache_of_qruns_knows_factor_loops_apart(place: Place) -> None:
    """ENABLE_CACHE knows texts alone: those of the reference and of two loops' new factors all differ."""
    loop = place.loop()
    texts = []
    accepted = of_accepted(factor_experiment("first"), 0.1)
    for exp in (factor_experiment("a"), factor_experiment("b", accepted), factor_experiment("c", accepted)):
        loop.factor_runner.develop(exp)
        texts.append(exp.experiment_workspace.file_dict[backtest.RESULT_SCRIPT])
        texts.append(exp.experiment_workspace.file_dict[LIGHTGBM])
    assert len(set(texts)) == len(texts)
    assert len({test.note for test in place.qlib.tests}) == len(place.qlib.tests) == 4


# --- which runner knows the set ---


class OtherRunner:
    """A factor runner of a user's own, named in QLIB_QUANT_FACTOR_RUNNER."""

    def develop(self, exp: Any) -> Any:
        """Go another way than RD-Agent's."""
        return exp


def test_a_factor_runner_out_of_reach_is_a_warning(place: Place) -> None:
    """The models still get the set; one line says what that means for the verdicts on factor loops."""
    place.switch_on()
    with seams.logged() as lines:
        loop = QuantRDLoop(OtherRunner())
    (warning,) = [line for line in lines if "can't join the factor loops" in line]
    assert warning.startswith("WARNING: ")
    assert f"test_factor_runner.OtherRunner, whose develop {dry_run.ASTRAY}" in warning
    assert plan.record_of(loop.model_runner) is not None
    assert plan.record_of(loop.factor_runner) is None


def test_a_resume_reaches_the_factor_runner(place: Place, tmp_path: Path) -> None:
    """Resumed with the set at another place, the factor runner has that one; switched off, none."""
    loop = place.loop()
    folder = dumped(loop)
    moved = place.workspace.rename(tmp_path / "moved")
    seams.switch_on(place.patch, moved)
    loaded = QuantRDLoop.load(folder)
    record = plan.record_of(loaded.factor_runner)
    assert record is not None
    assert record["path"] == str(moved / FACTOR_FILE)
    place.patch.setenv("LOAD_SOTA_FROM_WORKSPACE", "false")
    assert plan.RUNNER_ATTRIBUTE not in vars(QuantRDLoop.load(folder).factor_runner)


class QlibQuantScenario:
    """Named as RD-Agent names the scenario of fin_quant."""


def test_without_the_seam_of_the_loop_a_run_is_warned_once(place: Place) -> None:
    """QLIB_QUANT_MODEL_RUNNER alone can't reach factor loops: said once, and in fin_quant alone."""
    from rdagent_sota_bridge.runner import SotaModelRunner

    place.switch_on()
    place.patch.setattr(patch, "is_applied", lambda name: name != "loop")
    for scenario, times in ((QlibQuantScenario(), 1), (None, 0)):
        with seams.logged() as lines:
            runner = SotaModelRunner(scenario)
            for name in ("One", "Two"):
                model = seams.model_experiment(name)
                model.based_experiments = [of_accepted(factor_experiment("first"), 0.1)]
                seams.develop_up_to_qlib(runner, model)
        assert sum("can't join the factor loops" in line for line in lines) == times
