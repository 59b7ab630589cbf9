"""RD-Agent's model runner: the set is checked when it is built, and handed over in `develop`."""

from __future__ import annotations

import functools
import weakref
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from pydantic_core import to_jsonable_python

from rdagent_sota_bridge.bridge import backtest, dry_run, handoff, stop
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
from rdagent_sota_bridge.factor_set import panel, parquet, store
from rdagent_sota_bridge.qlib_files import manifest
from rdagent_sota_bridge.sharing import fetch
from rdagent_sota_bridge.system import files

_checked: weakref.WeakSet[Any] = weakref.WeakSet()  # runners that were checked in this process


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
        return hand_over(functools.partial(develop_before, self), self, exp)

    return [(runner_class, "__init__", __init__), (runner_class, "develop", develop)]


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


def _check_if_unseen(runner: Any) -> None:
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
    """Warn a run of `fin_quant` whose factor runner can't learn of the set."""
    from rdagent_sota_bridge.bridge import seams

    quant = type(getattr(runner, "scen", None)).__name__ == "QlibQuantScenario"
    if quant and plans.record_of(runner) is not None and not seams.is_applied("loop"):
        plans.warn_of_unlike_factor_loops("the seam of the loop, which gives them the set, is not applied")


def hand_over(develop_before: Any, runner: Any, exp: Any) -> Any:
    """Run RD-Agent's `develop` of a model with the runner's factor set in `exp.based_experiments`.

    Without a set, or inside another hand-off (develop calls itself; a patched class may have a patched
    parent), the original is called and nothing else happens.

    Args:
        develop_before: RD-Agent's `develop`, bound to the runner.
        runner: The runner.
        exp: RD-Agent's model experiment.
    """
    from rdagent_sota_bridge.bridge import experiment

    _check_if_unseen(runner)
    record = plans.record_of(runner)
    if record is None or handoff.current() is not None:
        return develop_before(exp)
    try:
        check_unchanged(record)
        base = handoff.base_of_run(record, exp)
        keeps_frame = plans.check_runner(runner).keeps_frame
        hand_off = HandOff(record, base, exp, tuple(record["columns"]), whole=not keeps_frame)
        others = [based for based in exp.based_experiments or [] if not experiment.is_ours(based)]
        own = [based for based in others if experiment.is_factor_experiment(based)]
        if not own:
            others.insert(0, experiment.base_experiment())
        exp.based_experiments = [*others, experiment.synthetic_experiment(record, base.digest)]
        logger().info("SOTA factor experiment added to based_experiments")
        if not experiment.with_code(own):  # else once the run's own factors are merged: names may be the same
            handoff.log_base_set(hand_off)
        if hand_off.whole:
            logger().info(
                "RD-Agent's develop changes the factors that it is given: it gets the whole set, and the "
                "model is trained on the file that it writes"
            )
        developed = develop_with(develop_before, runner, hand_off)
        _write_manifest(hand_off, developed)
        return developed
    except BridgeError as error:
        stop.stop_in_step(error)


def develop_with(develop_before: Any, runner: Any, hand_off: HandOff) -> Any:
    """Run RD-Agent's `develop` on the experiment of a hand-off, whose based experiments are set already.

    RD-Agent's cache of results is off: its key knows no segments, market or label.

    Raises:
        BridgeError: if what RD-Agent did is not what was handed over.
    """
    exp = hand_off.experiment
    hand_off.uses_cache = import_module("rdagent.core.conf").RD_AGENT_SETTINGS.cache_with_pickle
    given = getattr(exp, "base_features", None)
    try:
        with handoff.activate(hand_off), handoff.cache_switched(False):
            handoff.give_base_features(hand_off)
            developed = develop_before(exp)
    except Exception:
        if hand_off.failed is None:  # else a fork may have raised its own in place of ours
            raise
    finally:
        if given is not None:
            exp.base_features = given
        backtest.put_back(hand_off)
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
        if not path.exists():
            raise FactorFileNotFoundError(
                f"SOTA factors file not found: {path}, though the run began with it",
                f"{path}, {source['digest']}",
                "put the file back and resume the run",
            )
        now = fetch.current_digest(path) if "url" in source else parquet.current_digest(path)
        if now != source["digest"]:
            raise parquet.changed_set(path, source["digest"], now)


def _write_manifest(hand_off: HandOff, exp: Any) -> None:
    record = to_jsonable_python(hand_off.record, inf_nan_mode="null")
    workspace = Path(exp.experiment_workspace.workspace_path)
    workspace.mkdir(parents=True, exist_ok=True)
    task = exp.sub_tasks[0]
    manifest.write_manifest(
        workspace,
        {
            "model": {"name": task.name, "type": str(getattr(task, "model_type", ""))},
            "factor_set": {
                **{name: record[name] for name in ("path", "digest", "rows", "instruments", "start", "end")},
                **{name: record[name] for name in ("columns", "metrics", "sources", "choice")},
                "stored": hand_off.stored,
                "replaced_by_own": list(hand_off.replaced),
            },
            **manifest.of_training(
                hand_off.mined, hand_off.base, hand_off.task, hand_off.loaded, hand_off.batches
            ),
        },
    )


# --- the merge ---


def merge_patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return the replacements of `process_factor_data` wherever it is held; idle outside a hand-off.

    RD-Agent's own (`scenarios/qlib/developer/utils.py`, 0.8.0, 1.0.0) runs factor code again, and raises
    FactorEmptyError for experiments without any, on which the loop is skipped with its LLM calls spent.
    """
    places = dry_run.merge_places(module)
    if not places:
        raise SeamError("RD-Agent's runner has no process_factor_data", module.__name__, OTHER_RELEASE)
    return [
        # Of a reloaded module it is our replacement, imported from another one.
        (owner, name, _merge_in_place_of(dry_run.without_ours(getattr(owner, name))))
        for owner, name in places
        if owner is module or not dry_run.is_ours(getattr(owner, name))
    ]


def _merge_in_place_of(process_before: Any) -> Any:
    @functools.wraps(process_before)
    def process_factor_data(exp_or_list: Any) -> Any:
        hand_off = handoff.current()
        if hand_off is None:
            return process_before(exp_or_list)

        def process_own(experiments: Any) -> Any:
            # Outside of the hand-off: where a fork looks the merge up in its module, others have the
            # replacement from there too, and one may lie in another.
            with handoff.activate(None), handoff.cache_switched(hand_off.uses_cache):
                return process_before(experiments)

        return handoff.fail_once(hand_off, lambda: _merged(process_own, exp_or_list, hand_off))

    return process_factor_data


def _merged(process_before: Any, experiments: Any, hand_off: HandOff) -> pd.DataFrame:
    """Return the loaded set, and beside it what this run's own factor experiments (fin_quant) bring.

    What RD-Agent asks for without the set (a factor loop's new factors) is RD-Agent's own.
    """
    from rdagent_sota_bridge.bridge import experiment

    listed = experiments if isinstance(experiments, list) else [experiments]
    if not any(experiment.stands_for_a_set(based) for based in listed):
        new: pd.DataFrame = process_before(experiments)  # the new factors of a factor loop
        _warn_of_names(hand_off, new.columns)
        return new
    stored = plans.keep_in_store(hand_off.record)
    files.detach(hand_off.file)  # RD-Agent writes there, and may not write through a link
    own = experiment.with_code(listed)
    if hand_off.is_of_model and not own and not hand_off.whole:
        hand_off.to_place = stored
        frame = dry_run.sample(stored.columns).copy()
    else:
        with store.failing_at(stored.path, store.GONE):
            frame = pd.read_parquet(stored.path)
            if experiment.stands_for_a_set(hand_off.experiment):
                # The reference of factor loops, in which RD-Agent keeps only such rows.
                frame = frame[panel.complete_rows(stored.path)]
        frame = frame.set_axis(pd.Index(stored.columns, dtype=object), axis=1)
    if own:
        # The set was read first: that it is gone is said before minutes of factor code.
        mined = process_before(own)
        try:
            frame = pd.concat([frame, mined], axis=1)
        except (ValueError, pd.errors.InvalidIndexError) as error:  # a row twice in what a factor's code made
            # RD-Agent's own error for it (`developer/utils.py`, 1.0.0): the loop is skipped.
            raise handoff.loop_is_empty(
                f"the run's own factors can't be joined with the loaded set: {error}"
            ) from None
        _warn_of_names(hand_off, mined.columns)
    hand_off.mined = tuple(dict.fromkeys(str(name) for name in frame.columns))
    handoff.give_base_features(hand_off)
    if own and hand_off.is_of_model:
        handoff.log_base_set(hand_off)
    return frame


def _warn_of_names(hand_off: HandOff, names: Any) -> None:
    """Warn of loaded factors whose name the run's own have: RD-Agent's merge keeps the newer one."""
    both = [str(name) for name in names if str(name) in set(hand_off.record["columns"])]
    new = [name for name in both if name not in hand_off.replaced]
    if new:
        hand_off.replaced += tuple(new)
        logger().warning(
            f"{len(new)} loaded factors give way to factors of the same name that this run mined itself: "
            f"{', '.join(new)}"
        )
