"""Factor loops of `fin_quant`: the loaded set joins them, as factors do that the run itself accepted.

RD-Agent judges a factor loop against the result of the last experiment before it, be that a model
(`scenarios/qlib/developer/feedback.py`, 0.8.0 and 1.0.0). The run's models have the loaded set, so its factor
loops get it too: like is compared with like. `fin_factor` uses the same runner and is left alone.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_jsonable_python

from rdagent_sota_bridge.bridge import dry_run, handoff, model_runner, seams, stop
from rdagent_sota_bridge.bridge import plan as plans
from rdagent_sota_bridge.bridge.handoff import HandOff
from rdagent_sota_bridge.bridge.plan import Record
from rdagent_sota_bridge.bridge.stop import logger
from rdagent_sota_bridge.errors import (
    OTHER_RELEASE,
    BridgeError,
    HandOffError,
    SeamError,
    SettingsError,
    plural,
)
from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.factor_set.panel import complete_rows, days_of
from rdagent_sota_bridge.qlib_files import base_sets, market, model_yaml
from rdagent_sota_bridge.settings import read_settings
from rdagent_sota_bridge.system import files

REFERENCE_FILE = "sota_reference.json"
"""The metrics of the loaded set alone, in the run's log folder."""


class _Reference(BaseModel):
    """What is kept of a reference: what its metrics depend on, and they; None for one that is no number."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    key: dict[str, Any]
    metrics: dict[str, float | None] = Field(min_length=1)


_KEPT = (
    "The metrics of the loaded set alone can't be kept in the run's log folder",
    "make room there, or let it be written, and resume the run",
)

_FEW = 0.9
"""The share of a set's rows under which a run is warned that factor loops keep few; as for coverage."""


def runner_patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/scenarios/qlib/developer/factor_runner.py` (0.8.0, 1.0.0).

    Idle but for a runner that carries a set. As with models, RD-Agent's cache stays inside.
    """
    runner_class = getattr(module, "QlibFactorRunner", None)
    develop_before = getattr(runner_class, "develop", None)
    if runner_class is None or develop_before is None:
        raise SeamError("RD-Agent has no QlibFactorRunner.develop", module.__name__, OTHER_RELEASE)

    @functools.wraps(develop_before)
    def develop(self: Any, exp: Any) -> Any:
        return join_factor_loop(functools.partial(develop_before, self), self, exp)

    return [(runner_class, "develop", develop)]


def copy_to_factor_runner(loop: Any, runner: Any) -> None:
    """Let the factor runner of a loop of `fin_quant` carry what its model runner carries; idle elsewhere.

    Where a factor runner can't be given the set, one warning says what that means for the run's verdicts.

    Raises:
        SystemExit: if the back-tests of factor loops would end too late; if no row of the set has what factor
            loops keep, and `SOTA_ON_ERROR` is `fail`.
    """
    factor_runner = getattr(loop, "factor_runner", None)
    if factor_runner is None:
        return
    vars(factor_runner).pop(plans.RUNNER_ATTRIBUTE, None)
    record = plans.record_of(runner)
    if record is not None:
        if "factor runner" in seams.disabled():
            plans.warn_of_unlike_factor_loops(f"{seams.DISABLED} turns off the seam of their runner")
            return
        kind: type = type(factor_runner)
        asked = dry_run.ask_factor_runner(kind, factor_runner)
        if isinstance(asked, str):
            plans.warn_of_unlike_factor_loops(f"{kind.__module__}.{kind.__qualname__}, whose develop {asked}")
            return
        try:
            task = asked.start.task(base_sets.NO_BASE_SET)
            late = market.late_end(market.read_market(task.provider_uri, task.market), asked.start, task)
            if late is not None:
                raise late
            _check_complete_rows(record, task.train)
        except SettingsError as error:  # no loop would end well without the set either
            stop.stop_before_loop(error)
        except BridgeError as error:
            if read_settings().on_error == "fail":
                stop.stop_before_loop(error)
            plans.warn_of_unlike_factor_loops(error.fact)
            return
    if plans.RUNNER_ATTRIBUTE in vars(runner):
        setattr(factor_runner, plans.RUNNER_ATTRIBUTE, getattr(runner, plans.RUNNER_ATTRIBUTE))


def _check_complete_rows(record: Record, train: model_yaml.Segment) -> None:
    """Check that RD-Agent's factor loops, which keep the rows with a value of every factor, keep some.

    A set of many factors, or one joined of other markets or years, may have few or none.

    Raises:
        HandOffError: if none is in the training segment.
    """
    file = plans.keep_in_store(record).path
    with store.failing_at(file, store.GONE):
        complete = complete_rows(file)
        trained = complete & model_yaml.inside(days_of(file), train)
    many = len(record["columns"])
    kept = f"{int(complete.sum())} of {len(complete)} rows have a value of each of the {many} factors"
    if not trained.any():
        raise HandOffError(
            "No row of the factor set has a value of every factor in the training segment, and factor loops "
            "of fin_quant keep no others",
            f"{record['path']}: {kept}, none from {train[0]:%Y-%m-%d} to {train[1]:%Y-%m-%d}",
            "take fewer factors (SOTA_FACTORS, SOTA_FACTORS_EXCLUDE), or train with rdagent fin_model, which "
            "keeps all rows",
        )
    if complete.mean() < _FEW:
        logger().warning(f"SOTA factors check: factor loops of fin_quant keep few rows: {kept}")


def join_factor_loop(develop_before: Any, runner: Any, exp: Any) -> Any:
    """Run RD-Agent's `develop` of a factor loop with the runner's set among the accepted experiments.

    Without a set, or inside another hand-off, the original is called and nothing else happens.
    """
    from rdagent_sota_bridge.bridge import experiment

    record = plans.record_of(runner)
    if record is None or handoff.current() is not None:
        return develop_before(exp)
    try:
        model_runner.check_unchanged(record)
        base = handoff.base_of_run(record, exp)
        # RD-Agent puts an empty experiment first, and runs it (its base features alone) where it is the last.
        accepted = [
            based for based in exp.based_experiments if not experiment.is_ours(based) and based.sub_tasks
        ]
        loaded = experiment.synthetic_experiment(record, base.digest)
        if not accepted:
            loaded.result = _reference_result(develop_before, runner, exp, record, base)
        exp.based_experiments = [experiment.base_experiment(), loaded, *accepted]
        own = f"{plural(len(accepted), 'experiment')} that this run accepted"
        beside = own if accepted else "none of the run's own yet"
        logger().info(f"SOTA factors join the factor loop: {len(record['columns'])} loaded, beside {beside}")
        return _develop(develop_before, runner, exp, record, base)
    except BridgeError as error:
        stop.stop_in_step(error)


def _develop(develop_before: Any, runner: Any, exp: Any, record: Record, base: base_sets.BaseSet) -> Any:
    hand_off = HandOff(record, base, exp, tuple(record["columns"]), model_yaml.FACTOR_CONFIG_FILES)
    return model_runner.develop_with(develop_before, runner, hand_off)


def _reference_result(
    develop_before: Any, runner: Any, exp: Any, record: Record, base: base_sets.BaseSet
) -> pd.Series[float]:
    """Return the metrics of the loaded set alone, which is back-tested once a run.

    They are kept in the run's log folder: with STEP_SEMAPHORE > 1 a step works in a process of its own, on a
    copy of the runner (`utils/workflow/loop.py`, 0.8.0 and 1.0.0), and a resume may follow a kill.
    """
    from rdagent_sota_bridge.bridge import experiment

    key = _reference_key(runner, exp, record, base)
    file = Path(logger().storage.path).absolute() / REFERENCE_FILE
    with store.failing_at(file, _KEPT):
        file.parent.mkdir(parents=True, exist_ok=True)
    with files.held(file.with_suffix(".lock"), logger().info, "back-tests the loaded set alone"):
        metrics = _kept_metrics(file, key)
        if metrics is not None:
            logger().info(
                f"SOTA factors: the factor loop is compared with the loaded set alone, as in {file}"
            )
            return pd.Series(metrics, name="0", dtype=float)
        logger().info(
            "SOTA factors: the loaded set alone is back-tested first, for the factor loop to be compared with"
        )
        reference = experiment.reference_experiment(record, base.digest, exp)
        result: pd.Series[float] = _develop(develop_before, runner, reference, record, base).result
        finite = to_jsonable_python(result.to_dict(), inf_nan_mode="null")  # JSON knows no NaN
        with store.failing_at(file, _KEPT):
            files.write_whole(file, json.dumps({"key": key, "metrics": finite}, indent=1, ensure_ascii=False))
        return result


def _reference_key(runner: Any, exp: Any, record: Record, base: base_sets.BaseSet) -> dict[str, Any]:
    """Return what the metrics of a reference depend on: the sets, and the market and dates that Qlib gets."""
    kind: type = type(runner)
    asked = dry_run.ask_factor_runner(kind, runner)
    variables = {} if isinstance(asked, str) else asked.start.run_env
    text = exp.experiment_workspace.file_dict.get(model_yaml.FACTOR_CONFIG_FILES[0], "")
    codes = getattr(exp, "base_feature_codes", None) or {}
    return {
        "set": record["digest"],
        "base_set": base.digest,
        "base_code": hashlib.sha256(json.dumps(sorted(codes.items())).encode()).hexdigest(),
        **model_yaml.read_task(text, variables).as_record(),
    }


def _kept_metrics(file: Path, key: dict[str, Any]) -> dict[str, float | None] | None:
    """Return the metrics that were written for a key; None where there are none."""
    try:
        kept = _Reference.model_validate(files.read_json(file))
    except (OSError, ValueError):  # it is back-tested anew
        return None
    return kept.metrics if kept.key == key else None
