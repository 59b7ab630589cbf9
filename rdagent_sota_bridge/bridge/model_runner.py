"""What happens at the seam of the model runner: the check when it is built, and the hand-off in `develop`."""

from __future__ import annotations

import functools
import weakref
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic_core import to_jsonable_python

from rdagent_sota_bridge.bridge import handoff, merge, stop
from rdagent_sota_bridge.bridge import plan as plans
from rdagent_sota_bridge.bridge.handoff import HandOff
from rdagent_sota_bridge.bridge.plan import Record
from rdagent_sota_bridge.bridge.stop import logger
from rdagent_sota_bridge.errors import (
    OTHER_RELEASE,
    BridgeError,
    FactorFileNotFoundError,
    HandOffError,
    SeamError,
)
from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.qlib_files import manifest
from rdagent_sota_bridge.sharing import fetch


def runner_patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/scenarios/qlib/developer/model_runner.py` (0.8.0, 1.0.0).

    Our `develop` lies outside RD-Agent's cache, which is part of the original and stays.
    """
    runner_class: Any = getattr(module, "QlibModelRunner", None)
    if getattr(runner_class, "develop", None) is None:
        raise SeamError("RD-Agent has no QlibModelRunner.develop", module.__name__, OTHER_RELEASE)
    init_before, develop_before = runner_class.__init__, runner_class.develop

    @functools.wraps(init_before)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it replaces one
        init_before(self, *args, **kwargs)
        check_when_built(self)

    @functools.wraps(develop_before)
    def develop(self: Any, exp: Any) -> Any:
        check_if_unseen(self)
        return hand_over(functools.partial(develop_before, self), self, exp)

    return [(runner_class, "__init__", __init__), (runner_class, "develop", develop)]


_checked: weakref.WeakSet[Any] = weakref.WeakSet()  # runners that were checked in this process


def check_when_built(runner: Any) -> None:
    """Check the set for a runner that was just built, and let the runner remember it; once a runner."""
    if runner in _checked:
        return
    _checked.add(runner)
    try:
        plan = plans.checked_plan()
    except BridgeError as error:
        stop.stop_before_loop(error)
    if plan is not None:
        plans.remember(runner, plan)
        _warn_without_loop_seam(runner)


def check_if_unseen(runner: Any) -> None:
    """Check the set for a runner of a resumed session, once, where the loop's seam is not there to do it."""
    from rdagent_sota_bridge.bridge import seams

    if runner in _checked or seams.is_applied("loop"):
        return
    _checked.add(runner)
    try:
        plans.resume_with(runner, plans.checked_plan())
    except BridgeError as error:
        stop.stop_in_step(error)
    _warn_without_loop_seam(runner)


def _warn_without_loop_seam(runner: Any) -> None:
    """Warn a run of `fin_quant` whose factor runner nothing can tell of the set (see `quant.share`)."""
    from rdagent_sota_bridge.bridge import seams

    quant = type(getattr(runner, "scen", None)).__name__ == "QlibQuantScenario"
    if quant and plans.record_of(runner) is not None and not seams.is_applied("loop"):
        plans.warn_of_unlike_factor_loops("the seam of the loop, which tells them of the set, is not applied")


def hand_over_without_hook(develop_before: Any, runner: Any, exp: Any) -> Any:
    """Run `develop` with the runner's set, where no hook has looked at the session that it may come from.

    Args:
        develop_before: RD-Agent's `develop`, bound to the runner.
        runner: The runner, which the check of a resume has not seen.
        exp: RD-Agent's model experiment.
    """
    check_if_unseen(runner)
    return hand_over(develop_before, runner, exp)


def hand_over(develop_before: Any, runner: Any, exp: Any) -> Any:
    """Run RD-Agent's `develop` of a model with the runner's factor set in `exp.based_experiments`.

    Without a set, or inside another hand-off (develop calls itself; a patched class may have a patched
    parent), the original is called and nothing else happens.
    """
    from rdagent_sota_bridge.bridge import experiment

    record = plans.record_of(runner)
    if record is None or handoff.current() is not None:
        return develop_before(exp)
    try:
        check_unchanged(record)
        base = handoff.base_of_run(record, exp)
        hand_off = HandOff(record, base, exp, tuple(record["columns"]))
        others = [based for based in exp.based_experiments or [] if not experiment.is_ours(based)]
        if not any(experiment.is_factor_experiment(based) for based in others):
            others.insert(0, experiment.base_experiment())
        exp.based_experiments = [*others, experiment.synthetic_experiment(record, base.digest)]
        logger().info("SOTA factor experiment added to based_experiments")
        if not experiment.with_code([one for one in others if experiment.is_factor_experiment(one)]):
            # Else once the run's own factors are merged: names may be the same.
            handoff.log_base_set(hand_off)
        developed = develop_with(develop_before, runner, hand_off)
        _write_manifest(hand_off, developed)
        return developed
    except BridgeError as error:
        stop.stop_in_step(error)


def develop_with(develop_before: Any, runner: Any, hand_off: HandOff) -> Any:
    """Run RD-Agent's `develop` on the experiment of a hand-off, whose based experiments are set already.

    RD-Agent's cache of results is off: its key knows no segments, market or label.

    Raises:
        HandOffError: if what RD-Agent did is not what was handed over.
    """
    exp = hand_off.experiment
    hand_off.uses_cache = import_module("rdagent.core.conf").RD_AGENT_SETTINGS.cache_with_pickle
    given = getattr(exp, "base_features", None)
    try:
        with handoff.activate(hand_off), handoff.cache_switched(False):
            handoff.give_base_features(hand_off)
            developed = develop_before(exp)
    except Exception:
        if hand_off.failed is None and not merge.changed_sample(hand_off):
            raise
    finally:
        if given is not None:
            exp.base_features = given
        merge.put_back(hand_off)
    if merge.changed_sample(hand_off):
        logger().info(
            "RD-Agent's develop changes the factors that it is given: it gets the whole set, and the model "
            "is trained on the file that it writes"
        )
        hand_off.whole, hand_off.to_place, hand_off.failed = True, None, None
        return develop_with(develop_before, runner, hand_off)
    if hand_off.failed is not None:
        raise hand_off.failed
    if not hand_off.trained:
        raise HandOffError(
            "RD-Agent gave a result without training a model",
            f"{type(runner).__module__}.{type(runner).__qualname__}.develop",
            "let develop train every model: take away the cache around it, or what else answers for it",
        )
    return developed


def check_unchanged(record: Record) -> None:
    """Check that the files of a run's set are what it began with.

    Raises:
        FactorFileNotFoundError, SetChangedError: if not.
    """
    for source in record["sources"]:
        path = Path(source["path"])
        if not path.is_file():
            raise FactorFileNotFoundError(
                f"SOTA factors file not found: {path}, though the run began with it",
                f"{path}, {source['digest']}",
                "put the file back and resume the run",
            )
        now = _digest_now(path, source)
        if now != source["digest"]:
            raise parquet.changed_set(path, source["digest"], now)


def _digest_now(path: Path, source: Record) -> str:
    if "url" not in source:
        return parquet.current_digest(path)
    return fetch.current_digest(path)


def _write_manifest(hand_off: HandOff, exp: Any) -> None:
    record, base = hand_off.record, hand_off.base
    workspace = Path(exp.experiment_workspace.workspace_path)
    workspace.mkdir(parents=True, exist_ok=True)
    task = exp.sub_tasks[0]
    manifest.write_manifest(
        workspace,
        {
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "model": {"name": task.name, "type": str(getattr(task, "model_type", ""))},
            "factor_set": {
                **{name: record[name] for name in ("path", "digest", "rows", "instruments", "start", "end")},
                "columns": record["columns"],
                "metrics": to_jsonable_python(record["metrics"], inf_nan_mode="null"),
                "sources": to_jsonable_python(record["sources"], inf_nan_mode="null"),
                "choice": record["choice"],
                "stored": hand_off.stored,
                "replaced_by_own": list(hand_off.replaced),
            },
            "mined_columns": list(hand_off.mined),
            "base_set": {
                "name": base.name,
                "digest": f"sha256:{base.digest}",
                "features": dict(base.features),
                "replaced_by_mined": [name for name in base.names if name in set(hand_off.mined)],
            },
            "qlib_loaded": None if hand_off.loaded is None else hand_off.loaded.as_record(),
            "versions": {
                "rd_agent_side": manifest.versions(),
                "qlib_side": {} if hand_off.loaded is None else hand_off.loaded.versions,
            },
        },
    )
