"""What happens at the seams of the runners: the hand-off, and the look at what Qlib loaded."""

from __future__ import annotations

import functools
import inspect
import math
import re
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from rdagent_sota_bridge import (
    alpha,
    factors,
    inspection,
    manifest,
    normal,
    placing,
    prepared,
    qlib_config,
    recognition,
    store,
)
from rdagent_sota_bridge import plan as plans
from rdagent_sota_bridge.errors import (
    OTHER_RELEASE,
    BridgeError,
    FactorFileError,
    FactorFileNotFoundError,
    HandOffError,
    SeamError,
)
from rdagent_sota_bridge.frame import StoredFrame
from rdagent_sota_bridge.locate import FACTOR_FILE
from rdagent_sota_bridge.plan import Record, logger
from rdagent_sota_bridge.settings import read_settings

RESULT_SCRIPT = "read_exp_res.py"
"""RD-Agent's reader of a back-test's results, which runs in Qlib's environment after qrun."""

_LOGGING_RACE = re.compile(r"Metric '[^']*' is malformed")


@dataclass
class HandOff:
    """The hand-off of one `develop`: what is known so far.

    Attributes:
        record: The set, as the runner remembers it.
        base: The base set of this model, whole.
        experiment: RD-Agent's experiment: a model's, or that of a factor loop of fin_quant.
        mined: The mined columns; with fin_quant's own factors, once RD-Agent has merged.
        configs: The YAML files that train on factors; RD-Agent has to take one of them.
        own_codes: Digest of the code of fin_quant's own factors; empty without any.
        new_codes: Digest of the code of a factor loop's new factors; empty for a model, and without any.
        replaced: Loaded factors that give way to fin_quant's own of the same name.
        merged: True once the merge path has asked for the factors.
        trained: True once qrun has run.
        loaded: What Qlib loaded, once it has.
        stored: The stored file in the model's workspace, once it is placed there.
        prepared: What came of prepared data, where they are asked for.
        training: What tells this training's files from those that RD-Agent's ENABLE_CACHE puts there.
        failed: What ended the merge or the training. A `develop` that catches it must not go on.
        result_caches: RD-Agent's setting `cache_with_pickle`, as it is outside of this `develop`.
    """

    record: Record
    base: alpha.BaseSet
    experiment: Any
    mined: tuple[str, ...]
    configs: tuple[str, ...] = (qlib_config.CONFIG_FILE,)
    own_codes: str = ""
    new_codes: str = ""
    replaced: tuple[str, ...] = ()
    merged: bool = False
    trained: bool = False
    loaded: manifest.Loaded | None = None
    stored: dict[str, str] | None = None
    prepared: str | None = None
    training: str = field(default_factory=lambda: uuid.uuid4().hex)
    failed: BridgeError | None = None
    result_caches: bool = True

    @property
    def is_of_model(self) -> bool:
        """True for a model's experiment, False for one on factors (in fin_quant)."""
        return qlib_config.CONFIG_FILE in self.configs

    @property
    def base_beside_mined(self) -> alpha.BaseSet:
        """The base features that the model gets: without those whose names a mined column has."""
        return self.base.without(self.mined)

    @property
    def note(self) -> str:
        """What tells this hand-off from others, in one line."""
        own = f", own factors sha256:{self.own_codes}" if self.own_codes else ""
        own += f", new factors sha256:{self.new_codes}" if self.new_codes else ""
        base = self.base_beside_mined
        return f"factor set {self.record['digest']}{own}, base set {base.name} sha256:{base.digest}"


_active: ContextVar[HandOff | None] = ContextVar("rdagent_sota_bridge_hand_off", default=None)


# --- the seams ---


def runner_patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/scenarios/qlib/developer/model_runner.py` (0.8.0, 1.0.0).

    Our `develop` lies outside RD-Agent's cache, which is part of the original and stays.
    """
    plans.check_develop(module)
    runner_class = module.QlibModelRunner
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


def merge_patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return the replacement of `process_factor_data` where `develop` looks it up; idle outside a hand-off.

    That is a name of the module, or in forks one of the module that has it.

    RD-Agent's own (`scenarios/qlib/developer/utils.py`, 0.8.0, 1.0.0) runs factor code again, and raises
    FactorEmptyError for experiments without any, on which the loop is skipped with its LLM calls spent.
    """
    places = recognition.merge_places(module) or [(module, recognition.MERGE)]
    if not all(hasattr(owner, name) for owner, name in places):
        raise SeamError("RD-Agent's runner has no process_factor_data", module.__name__, OTHER_RELEASE)
    return [(owner, name, _merge_in_place_of(getattr(owner, name))) for owner, name in places]


def _merge_in_place_of(process_before: Any) -> Any:
    @functools.wraps(process_before)
    def process_factor_data(exp_or_list: Any) -> Any:
        hand_off = _active.get()
        if hand_off is None:
            return process_before(exp_or_list)

        def process_own(experiments: Any) -> Any:
            # Outside of the hand-off: where a fork looks the merge up in its module, others have the
            # replacement from there too, and one may lie in another.
            token = _active.set(None)
            try:
                with _result_caches(hand_off.result_caches):
                    return process_before(experiments)
            finally:
                _active.reset(token)

        return _remembering(hand_off, lambda: _merged(process_own, exp_or_list, hand_off))

    return process_factor_data


def _remembering(hand_off: HandOff, work: Callable[[], Any]) -> Any:
    """Do the work of a seam inside `develop`; after one that failed there is none.

    A fork may retry, or go on without the factors, at whatever exception comes.
    """
    if hand_off.failed is not None:
        raise hand_off.failed
    try:
        return work()
    except BridgeError as error:
        hand_off.failed = error
        raise


def workspace_patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/scenarios/qlib/experiment/workspace.py` (0.8.0, 1.0.0).

    On the class: a workspace is pickled with every session, so nothing of ours may hang on an instance.
    """
    workspace_class = getattr(module, "QlibFBWorkspace", None)
    execute_before = getattr(workspace_class, "execute", None)
    if workspace_class is None or execute_before is None:
        raise SeamError("RD-Agent has no QlibFBWorkspace.execute", module.__name__, OTHER_RELEASE)
    signature = inspect.signature(execute_before)
    if not {"qlib_config_name", "run_env"} <= set(signature.parameters):
        raise SeamError(f"QlibFBWorkspace.execute takes {signature}", module.__name__, OTHER_RELEASE)

    @functools.wraps(execute_before)
    def execute(self: Any, *args: Any, **kwargs: Any) -> Any:
        hand_off = _active.get()
        if hand_off is None or self is not hand_off.experiment.experiment_workspace:
            return execute_before(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        named = bound.arguments
        run = functools.partial(execute_before, self, **named.get("kwargs", {}))
        name, run_env = named["qlib_config_name"], named["run_env"] or {}
        return _remembering(hand_off, lambda: _train(run, self, name, run_env, hand_off))

    return [(workspace_class, "execute", execute)]


# --- the runner ---

_checked: weakref.WeakSet[Any] = weakref.WeakSet()  # runners that were checked in this process


def check_when_built(runner: Any) -> None:
    """Check the set for a runner that was just built, and let the runner remember it; once a runner."""
    if runner in _checked:
        return
    _checked.add(runner)
    try:
        plan = plans.checked_plan()
    except BridgeError as error:
        plans.stop_before_loop(error)
    if plan is not None:
        plans.remember(runner, plan)
        _warn_without_loop_seam(runner)


def check_if_unseen(runner: Any) -> None:
    """Check the set for a runner of a resumed session, once, where the loop's seam is not there to do it."""
    from rdagent_sota_bridge import patch

    if runner in _checked or patch.is_applied("loop"):
        return
    _checked.add(runner)
    try:
        plans.adopt(runner, plans.checked_plan())
    except BridgeError as error:
        plans.stop_in_step(error)
    _warn_without_loop_seam(runner)


def _warn_without_loop_seam(runner: Any) -> None:
    """Warn a run of `fin_quant` whose factor runner nothing can tell of the set (see `quant.share`)."""
    from rdagent_sota_bridge import patch

    quant = type(getattr(runner, "scen", None)).__name__ == "QlibQuantScenario"
    if quant and plans.record_of(runner) is not None and not patch.is_applied("loop"):
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
    """Run RD-Agent's `develop` of a model with the runner's factor set in `exp.based_experiments`."""
    return with_set(_hand_over, develop_before, runner, exp)


def with_set(work: Callable[[Any, Any, Any, Record], Any], develop_before: Any, runner: Any, exp: Any) -> Any:
    """Do `work` in place of RD-Agent's `develop`, with the record of the runner's set.

    Without a set, or inside another hand-off (develop calls itself; a patched class may have a patched
    parent), the original is called and nothing else happens.
    """
    record = plans.record_of(runner)
    if record is None or _active.get() is not None:
        return develop_before(exp)
    try:
        return work(develop_before, runner, exp, record)
    except BridgeError as error:
        plans.stop_in_step(error)


def _hand_over(develop_before: Any, runner: Any, exp: Any, record: Record) -> Any:
    from rdagent_sota_bridge import experiment

    check_unchanged(record)
    base = base_of_run(record, exp)
    hand_off = HandOff(record, base, exp, tuple(record["columns"]))
    others = [based for based in exp.based_experiments or [] if not experiment.is_ours(based)]
    if not any(experiment.is_factor_experiment(based) for based in others):
        others.insert(0, experiment.base_experiment())
    exp.based_experiments = [*others, experiment.synthetic_experiment(record, base.digest)]
    logger().info("SOTA factor experiment added to based_experiments")
    if not experiment.with_code(exp.based_experiments):  # else once they are merged: names may be the same
        _log_base_set(hand_off)

    developed = develop_with(develop_before, runner, hand_off)
    _write_manifest(hand_off, developed, from_cache=not hand_off.trained)
    return developed


def develop_with(develop_before: Any, runner: Any, hand_off: HandOff) -> Any:
    """Run RD-Agent's `develop` on the experiment of a hand-off, whose based experiments are set already.

    Raises:
        HandOffError: if what RD-Agent did is not what was handed over.
    """
    exp = hand_off.experiment
    hand_off.result_caches = import_module("rdagent.core.conf").RD_AGENT_SETTINGS.cache_with_pickle
    cache = recognition.result_cache(develop_before)
    usable = cache is None or _tells_sets_apart(cache, hand_off, runner)
    given = getattr(exp, "base_features", None)
    token = _active.set(hand_off)
    try:
        _give_base_features(hand_off)
        with _result_caches(hand_off.result_caches and usable):
            developed = develop_before(exp)
    except Exception:
        if hand_off.failed is None:
            raise
    finally:
        _active.reset(token)
        if given is not None:
            exp.base_features = given
    if hand_off.failed is not None:
        raise hand_off.failed
    if not hand_off.trained:
        _check_cached(hand_off, cache if usable else None, runner, exp)
        logger().info(
            "The result comes from RD-Agent's cache: same experiment, same base set, same factor set "
            f"({hand_off.record['digest']})"
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
            raise factors.changed_set(path, source["digest"], now)


def _digest_now(path: Path, source: Record) -> str:
    if "url" not in source:
        return factors.current_digest(path)
    from rdagent_sota_bridge import fetched  # late: nothing of it is needed without a URL

    return fetched.current_digest(path)


def base_of_run(record: Record, exp: Any) -> alpha.BaseSet:
    """Return the base set of the run: the one asked for, or features that the user chose in RD-Agent.

    The record remembers which, from the first model on: later ones must have the same.
    """
    asked = record["base_set"]
    base = alpha.BaseSet(asked["name"], tuple((name, expression) for name, expression in asked["features"]))
    given = _chosen_in_rdagent(exp)
    if given and not asked["explicit"]:
        base = alpha.given_set(given)
    began_name, began_digest = record.setdefault("base_of_run", [base.name, base.digest])
    if began_digest != base.digest:
        raise plans.changed_base_set(
            f"{began_name} (sha256:{began_digest})", f"{base.name} (sha256:{base.digest})"
        )
    return base


def _chosen_in_rdagent(exp: Any) -> dict[str, str]:
    """Return the base features that the user chose in RD-Agent, or wrote into its YAML; empty for ALPHA20."""
    given = getattr(exp, "base_features", None)
    if given and not alpha.same_features(given, alpha.ALPHA20):
        return dict(given)
    # A factor loop's workspace has other YAML files; its base features have to be the models'.
    text = exp.experiment_workspace.file_dict.get(qlib_config.CONFIG_FILE)
    written = qlib_config.written_features(inspection.packaged_config() if text is None else text)
    return {} if written == alpha.ALPHA20 else written


def _log_base_set(hand_off: HandOff) -> None:
    log = logger()
    base, beside = hand_off.base, hand_off.base_beside_mined
    given = _chosen_in_rdagent(hand_off.experiment)
    if base.name == alpha.GIVEN:
        shown = ", ".join(base.names[:5]) + (", …" if len(base.names) > 5 else "")
        log.info(f"Base features chosen in RD-Agent are kept, for ALPHA_FACTORS is not set: {shown}")
    elif given:
        log.info(f"The base set {base.name} takes the place of {len(given)} base features chosen in RD-Agent")
    if not base.features:
        log.info("USE_ALPHA_FACTORS is off: the model trains on the mined factors alone")
        return
    log.info(f"叠加Alpha因子: {len(beside.features)}个")
    replaced = [name for name in base.names if name not in set(beside.names)]
    if replaced:
        log.info(
            f"{len(replaced)} of the {len(base.features)} features of {base.name} give way to mined columns "
            f"of the same name: {', '.join(replaced)}"
        )


def _give_base_features(hand_off: HandOff) -> None:
    """Give RD-Agent 1.0.0 the base features that it counts into num_features; 0.8.0 knows none."""
    if hasattr(hand_off.experiment, "base_features"):
        hand_off.experiment.base_features = dict(hand_off.base_beside_mined.features)


def _tells_sets_apart(cache: recognition.ResultCache, hand_off: HandOff, runner: Any) -> bool:
    """Return True if a cache of results gives no model the result of another set, or of none.

    A fork's own key function may leave out the experiments before, or count them: the function is asked.

    Raises:
        HandOffError: if the function fails, or a cache that does not tell sets apart can't be turned off.
    """
    from rdagent_sota_bridge import experiment

    exp, record, base = hand_off.experiment, hand_off.record, hand_off.base
    given = exp.based_experiments
    # The reference of fin_quant's factor loops has the set in its own sub-task.
    stands_there = any(experiment.stands_for_a_set(based) for based in given)
    if not stands_there or not (hand_off.result_caches or cache.forced):
        return True
    place = f"{cache.key.__module__}.{cache.key.__qualname__}, the key of the cache of develop's results"
    others = [
        None,
        experiment.synthetic_experiment({**record, "digest": "another set"}, base.digest),
        experiment.synthetic_experiment(record, "another base set"),
    ]
    try:
        key = cache.key(runner, exp)
        keys = []
        for other in others:
            replaced = [other if experiment.stands_for_a_set(based) else based for based in given]
            exp.based_experiments = [based for based in replaced if based is not None]
            keys.append(cache.key(runner, exp))
    except Exception as error:
        raise HandOffError(
            f"RD-Agent's cache makes no key for a model with factors: {type(error).__name__}: {error}",
            place,
            "let it make one of the text of all sub-tasks, as RD-Agent's CachedRunner.get_cache_key does",
        ) from error
    finally:
        exp.based_experiments = given
    if key is None or key not in keys:
        return True
    if cache.forced:
        raise HandOffError(
            "RD-Agent's cache would answer with the result of another factor set, and can't be turned off",
            place,
            "take force=True away, or let the key have the text of all sub-tasks in based_experiments",
        )
    logger().warning(f"RD-Agent's result cache is not used: it does not tell factor sets apart ({place})")
    return False


@contextmanager
def _result_caches(on: bool) -> Iterator[None]:
    """Turn RD-Agent's caches of results on or off; `cache_with_pickle` reads the setting at each call."""
    settings = import_module("rdagent.core.conf").RD_AGENT_SETTINGS
    before = settings.cache_with_pickle
    settings.cache_with_pickle = on
    try:
        yield
    finally:
        settings.cache_with_pickle = before


def _check_cached(hand_off: HandOff, cache: recognition.ResultCache | None, runner: Any, exp: Any) -> None:
    """Check that a result without a training is one of RD-Agent's cache, and not one without the factors."""
    settings = import_module("rdagent.core.conf").RD_AGENT_SETTINGS
    key = None if cache is None else cache.key(runner, exp)
    cached = key is not None and any(Path(settings.pickle_cache_folder_path_str).glob(f"*/{key}.pkl"))
    if hand_off.merged or not cached:
        raise HandOffError(
            "RD-Agent gave a result without training a model, and not from its cache",
            f"{type(runner).__module__}.{type(runner).__qualname__}.develop",
            OTHER_RELEASE,
        )


# --- the merge ---


def _merged(process_before: Any, experiments: Any, hand_off: HandOff) -> pd.DataFrame:
    """Return the loaded set, and beside it what this run's own factor experiments (fin_quant) bring.

    What RD-Agent asks for without the set (a factor loop's new factors) is RD-Agent's own.
    """
    from rdagent_sota_bridge import experiment

    listed = experiments if isinstance(experiments, list) else [experiments]
    if not any(experiment.stands_for_a_set(based) for based in listed):
        new = process_before(experiments)  # the new factors of a factor loop
        _warn_of_names(hand_off, new.columns)
        return new
    stored = plans.keep_in_store(hand_off.record)
    # In a container RD-Agent changes the modes of all files of the workspace (`_get_chmod_cmd` in
    # `utils/env.py`, 0.8.0 and 1.0.0), and through a hard link those of the stored file.
    link = not inspection.is_qlib_in_docker()
    frame: pd.DataFrame = StoredFrame(stored, link, functools.partial(_placed, hand_off, stored))
    if (
        experiment.stands_for_a_set(hand_off.experiment)
        and not (whole := normal.complete_rows(stored.path)).all()
    ):
        # The reference of factor loops, in which RD-Agent keeps the rows with a value of every factor.
        frame = frame.copy()[whole]
    own = experiment.with_code(listed)
    if own:
        # RD-Agent will open this file for writing: where it is a link, it must not write through it.
        placing.detach(Path(hand_off.experiment.experiment_workspace.workspace_path) / FACTOR_FILE)
        # Read first: a set that is gone is told before minutes of factor code.
        mined = process_before(own)
        frame = _joined(frame.copy(), mined)
        _warn_of_names(hand_off, mined.columns)
        hand_off.own_codes = experiment.codes_digest(own)
    hand_off.mined = tuple(dict.fromkeys(str(name) for name in frame.columns))
    hand_off.merged = True
    _give_base_features(hand_off)
    if own and hand_off.is_of_model:
        _log_base_set(hand_off)
    return frame


def _joined(loaded: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    try:
        return pd.concat([loaded, own], axis=1)
    except (ValueError, pd.errors.InvalidIndexError) as error:  # a row twice in what a factor's code made
        # RD-Agent's own error for it (`developer/utils.py`, 1.0.0): the loop is skipped, and the LLM told.
        raise _loop_is_empty(f"the run's own factors can't be joined with the loaded set: {error}") from None


def _loop_is_empty(reason: str) -> Exception:
    """Return RD-Agent's error for factors without values, on which it skips the loop and tells the LLM."""
    error: Exception = import_module("rdagent.core.exception").FactorEmptyError(reason)
    return error


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


def _placed(hand_off: HandOff, stored: store.Stored, how: placing.How) -> None:
    hand_off.stored = {"path": str(stored.path), "digest": stored.content, "placed_as": how}
    logger().info(f"SOTA factors placed in the model's workspace: a {how} of {stored.path}")


# --- the training ---


def _train(run: Any, workspace: Any, config_name: str, run_env: dict[str, Any], hand_off: HandOff) -> Any:
    """Run qrun on a workspace whose YAML says what is handed over, and look at what Qlib loaded."""
    if config_name not in hand_off.configs:
        raise HandOffError(
            f"RD-Agent took {config_name} in place of {' or '.join(hand_off.configs)}: the model would be "
            "trained without the factors",
            str(workspace.workspace_path),
            OTHER_RELEASE,
        )
    if not hand_off.is_of_model:
        # With the loop's new factors, less those that RD-Agent found too like old ones.
        hand_off.mined = _merged_columns(Path(workspace.workspace_path) / FACTOR_FILE)
    base = hand_off.base_beside_mined
    width = len(base.features) + len(hand_off.mined)
    run_env = {**run_env, **qlib_config.feature_variables(base, hand_off.mined), "num_features": str(width)}
    config, script = (_text_in(workspace, name) for name in (config_name, RESULT_SCRIPT))

    settings = read_settings()
    # A factor loop's data are never asked for again.
    prepares = settings.prepared_data and hand_off.is_of_model
    if not hand_off.is_of_model:
        text = qlib_config.adapt(config, base, hand_off.note, hand_off.mined)
        _look_at_rows(hand_off, Path(workspace.workspace_path) / FACTOR_FILE, text, run_env)

    def attempt(note: str) -> Any:
        adapted = qlib_config.adapt(config, base, note, hand_off.mined)
        files = {RESULT_SCRIPT: manifest.with_probe(script, note)}
        if prepares:
            adapted = prepared.with_prepared_handler(adapted)
            folder = prepared.folder(store.folder(settings.store_path))
            files[prepared.SCRIPT_FILE] = prepared.script(folder, hand_off.note)
        workspace.inject_files(**files, **{config_name: adapted})
        for left in (manifest.LOADED_FILE, prepared.OUTCOME_FILE):
            (workspace.workspace_path / left).unlink(missing_ok=True)
        environment = {**run_env, prepared.TRAINING: hand_off.training}
        return run(qlib_config_name=config_name, run_env=environment)

    result, output = attempt(hand_off.note)
    if result is None and (race := _LOGGING_RACE.search(str(output))):
        logger().warning(f"qrun died of Qlib's logging race ({race.group()}); it is repeated once")
        # With another note, for RD-Agent's ENABLE_CACHE would answer the same YAML with the failure.
        result, output = attempt(f"{hand_off.note}, second attempt")
    hand_off.trained = True
    if result is not None:
        _look_at_placed(hand_off, workspace.workspace_path)
        _look_at_loaded(hand_off, workspace.workspace_path)
        _look_at_prepared(hand_off, workspace.workspace_path)
    return result, output


def _merged_columns(file: Path) -> tuple[str, ...]:
    """Return the factors that a factor loop is back-tested with.

    Raises:
        FactorEmptyError: RD-Agent's, if no row has a value of every factor.
    """
    try:
        return factors.read_footer(file).columns
    except FactorFileError as error:
        raise _loop_is_empty(
            f"no row has a value of every factor, old and new ({error.failures[0]})"
        ) from None


def _look_at_rows(hand_off: HandOff, file: Path, text: str, run_env: dict[str, Any]) -> None:
    """Tell how many rows a factor loop is trained on: RD-Agent keeps those with a value of every factor.

    Raises:
        FactorEmptyError: RD-Agent's, if none is in the training segment: no factor would be seen there.
    """
    days = normal.days(file)
    train = qlib_config.read_task(text, {name: str(value) for name, value in run_env.items()}).train
    trained = int(qlib_config.inside(days, train).sum())
    logger().info(
        f"SOTA factors: {len(days)} of the loaded set's {hand_off.record['rows']} rows have a value of every "
        f"factor, old and new; {trained} of them are in the training segment"
    )
    if not trained:
        raise _loop_is_empty(
            f"no row of the training segment ({train[0]:%Y-%m-%d} to {train[1]:%Y-%m-%d}) has a value of "
            "every factor, old and new"
        )


def _text_in(workspace: Any, name: str) -> str:
    text = workspace.file_dict.get(name)
    if text is None:
        raise SeamError(f"A model's workspace has no {name}", str(workspace.workspace_path), OTHER_RELEASE)
    return str(text)


def _look_at_placed(hand_off: HandOff, workspace: Path) -> None:
    """Claim no link that is none any more: RD-Agent's ENABLE_CACHE puts an old workspace in its place."""
    told = hand_off.stored
    if told is not None and told["placed_as"] == "link":
        file = workspace / FACTOR_FILE
        if not (file.exists() and file.samefile(told["path"])):
            hand_off.stored = None


def _look_at_loaded(hand_off: HandOff, workspace: Path) -> None:
    loaded = manifest.read_loaded(workspace)
    if loaded is None:
        logger().warning(
            f"The factors were handed over; what Qlib loaded could not be read back ({workspace}), so this "
            "loop has no proof that they were used"
        )
        return
    manifest.check_loaded(loaded, hand_off.base_beside_mined.names, hand_off.mined, workspace)
    hand_off.loaded = loaded
    kinds = f"({len(hand_off.mined)} mined, {len(hand_off.base_beside_mined.features)} base)"
    if loaded.columns is None:
        logger().info(f"SOTA factors used: LightGBM was trained on {loaded.num_features} columns {kinds}")
        return
    logger().info(
        f"SOTA factors used: Qlib loaded {len(loaded.columns)} columns {kinds}, "
        f"num_features {loaded.num_features}"
    )


def _look_at_prepared(hand_off: HandOff, workspace: Path) -> None:
    outcome = prepared.outcome(workspace, hand_off.training)
    if outcome is not None:
        hand_off.prepared = outcome.state
        tell = logger().warning if outcome.warning else logger().info
        tell(outcome.line)


def _write_manifest(hand_off: HandOff, exp: Any, from_cache: bool) -> None:
    record, base = hand_off.record, hand_off.base
    workspace = Path(exp.experiment_workspace.workspace_path)
    workspace.mkdir(parents=True, exist_ok=True)
    task = exp.sub_tasks[0]
    manifest.write_manifest(
        workspace,
        {
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "model": {"name": task.name, "type": str(getattr(task, "model_type", ""))},
            "from_cache": from_cache,
            "factor_set": {
                **{name: record[name] for name in ("path", "digest", "rows", "instruments", "start", "end")},
                "columns": record["columns"],
                "metrics": _finite(record["metrics"]),
                "sources": [{**at, "metrics": _finite(at["metrics"])} for at in record["sources"]],
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
            "prepared_data": hand_off.prepared,
            "qlib_loaded": None if hand_off.loaded is None else hand_off.loaded.as_record(),
            "versions": {
                "rd_agent_side": manifest.versions(),
                "qlib_side": {} if hand_off.loaded is None else hand_off.loaded.versions,
            },
        },
    )


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    """Return metrics as JSON can hold them: JSON knows no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
