"""What happens at the seams of the model runner: the check, the hand-off, the look at what Qlib loaded."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
import sys
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import import_module, resources
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pandas as pd
import typer

from rdagent_sota_bridge import alpha, factors, latest_log, locate, manifest, market, qlib_config
from rdagent_sota_bridge.errors import (
    BridgeError,
    FactorFileNotFoundError,
    HandOffError,
    SeamError,
    SetChangedError,
    WorkspaceNotFoundError,
)
from rdagent_sota_bridge.settings import Settings, is_enabled, read_settings

RUNNER_ATTRIBUTE = "sota_bridge"
"""What a runner carries through a session: {"record": plain dict or None, "reason": text}."""

RESULT_SCRIPT = "read_exp_res.py"
"""RD-Agent's reader of a back-test's results, which runs in Qlib's environment after qrun."""

_SEGMENT_VARIABLES = ("train_start", "train_end", "valid_start", "valid_end", "test_start", "test_end")
_LOGGING_RACE = re.compile(r"Metric '[^']*' is malformed")

Record = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What a run is going to do: hand over the set of `record`, or go on without factors for `reason`."""

    record: Record | None
    reason: str = ""


@dataclass
class _HandOff:
    """The hand-off of one `develop`: what is known so far."""

    record: Record
    base: alpha.BaseSet
    experiment: Any
    mined: tuple[str, ...]
    trained: bool = False
    loaded: manifest.Loaded | None = None

    @property
    def base_beside_mined(self) -> alpha.BaseSet:
        """The base features that the model gets: without those whose names a mined column has."""
        return self.base.without(self.mined)


_active: ContextVar[_HandOff | None] = ContextVar("rdagent_sota_bridge_hand_off", default=None)


# --- the check, before the first LLM call ---


def checked_plan(run_folder: Path | None = None) -> Plan | None:
    """Check everything that a run needs, and return its plan; None where the switch is off.

    What is wrong ends the process with one message and status 1, or is logged (`SOTA_ON_ERROR=baseline`).

    Args:
        run_folder: The log folder of a run to be resumed; None for a new run.
    """
    settings = None
    try:
        if not is_enabled():
            return None
        settings = read_settings()
        return Plan(_checked_record(settings))
    except BridgeError as error:
        if settings is None or settings.on_error == "fail":
            stop_before_loop(error, run_folder)
        _warn_and_go_on(error)
        return Plan(None, str(error))


def refuse(error: BridgeError) -> None:
    """Handle a shape of RD-Agent that is not known: stop a run that asked for the factors, or warn it."""
    try:
        asked = is_enabled()
        on_error = read_settings().on_error if asked else ""
    except BridgeError as settings_error:
        stop_before_loop(settings_error)
    if on_error == "fail":
        stop_before_loop(error)
    if asked:
        _warn_and_go_on(error)
    else:
        sys.stderr.write(f"rdagent-sota-bridge: {error.fact} ({error.place})\n")


def switched_on() -> bool:
    """Return what the switch says; a value that means nothing ends the process with one message."""
    try:
        return is_enabled()
    except BridgeError as error:
        stop_before_loop(error)


def stop_before_loop(error: BridgeError, run_folder: Path | None = None) -> NoReturn:
    """End the process with one message and status 1, outside of a loop's steps.

    SystemExit rather than an exception of typer's: the command line would show that with a traceback here.
    """
    text = _text_of(error)
    latest_log.write_line("ERROR", text, run_folder or Path(_logger().storage.path))
    raise SystemExit(text) from error


def _stop_in_step(error: BridgeError) -> NoReturn:
    """End the run with one message and status 1, inside a step.

    There `asyncio.run` makes a traceback of a SystemExit; typer's Exit ends cleanly, from a process pool too.
    """
    text = _text_of(error)
    latest_log.write_line("ERROR", text)
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
    raise typer.Exit(1) from error


def _warn_and_go_on(error: BridgeError) -> None:
    _logger().warning(_text_of(error))
    _logger().warning("SOTA_ON_ERROR=baseline: the run goes on without the factors")


def _text_of(error: BridgeError) -> str:
    """Return the text that users grep for: the line of the plan, then the place and the mend."""
    if isinstance(error, (WorkspaceNotFoundError, FactorFileNotFoundError, HandOffError, SetChangedError)):
        return str(error)
    return f"Failed to load SOTA factors from workspace: {error}"


def _checked_record(settings: Settings) -> Record:
    """Check set, base set, RD-Agent's shape and the market, and return the record of what will be used."""
    _check_seams()
    base = alpha.base_set(settings.alpha_factors) if settings.use_alpha_factors else alpha.NO_BASE_SET
    path = locate.factor_file(settings.workspace_path)
    text = _packaged_config()
    qlib_config.adapt(text, base, "")
    task = qlib_config.read_task(text, _segment_variables())
    found = factors.examine(path)
    home = market.read_market(task.provider_uri, task.market)
    market.check_fit(found, home, task.train)

    log = _logger()
    if home is None:
        log.warning(
            f"Qlib data is not there yet ({task.provider_uri}, market {task.market}): whether the factors' "
            "instruments and times match the market was not checked"
        )
    log.info(f"SOTA factors loaded from workspace: {path}")
    log.info(f"SOTA factors shape: ({found.rows}, {len(found.columns)})")
    log.info(f"SOTA factors digest: {found.digest}")
    return {
        "version": 1,
        "path": str(path),
        "digest": found.digest,
        "columns": list(found.columns),
        "rows": found.rows,
        "instruments": len(found.instruments),
        "start": str(found.dates[0]),
        "end": str(found.dates[-1]),
        "base_set": {
            "name": base.name,
            "digest": f"sha256:{base.digest}",
            "features": [list(pair) for pair in base.features],
            "explicit": settings.alpha_factors_explicit or not settings.use_alpha_factors,
        },
    }


def _check_seams() -> None:
    """Raise the reason where a seam that the hand-off needs does not fit the installed RD-Agent."""
    from rdagent_sota_bridge import patch

    for status in patch.status():
        if status.seam.name == "workspace" and status.state == "misfit":
            raise SeamError(status.reason, status.seam.module, _OTHER_RELEASE)


def _packaged_config() -> str:
    """Return RD-Agent's own model YAML, which a model's workspace will start with."""
    package = resources.files("rdagent.scenarios.qlib.experiment")
    file = package / "model_template" / qlib_config.CONFIG_FILE
    if not file.is_file():
        raise SeamError("RD-Agent has no YAML for models that train on factors", str(file), _OTHER_RELEASE)
    return file.read_text(encoding="utf-8")


def _segment_variables() -> dict[str, str]:
    """Return the dates that RD-Agent hands to the YAML: settings in 1.0.0; 0.8.0 has them written there."""
    settings = import_module("rdagent.app.qlib_rd_loop.conf").ModelBasePropSetting()
    found = {name: getattr(settings, name, None) for name in _SEGMENT_VARIABLES}
    return {name: str(value) for name, value in found.items() if value is not None}


# --- the runner's memory ---


def record_of(runner: Any) -> Record | None:
    """Return the record of the set that a runner hands over, or None."""
    carried = getattr(runner, RUNNER_ATTRIBUTE, None) or {}
    return carried.get("record")


def was_asked(runner: Any) -> bool:
    """Return True if this runner was built with the switch on, whatever came of it."""
    return hasattr(runner, RUNNER_ATTRIBUTE)


def remember(runner: Any, plan: Plan | None) -> None:
    """Let a runner carry a plan through its session; None takes away what it carries."""
    if plan is None:
        vars(runner).pop(RUNNER_ATTRIBUTE, None)
    else:
        setattr(runner, RUNNER_ATTRIBUTE, dataclasses.asdict(plan))


def check_same_set(began: Record | None, now: Record) -> None:
    """Check that a resumed run goes on with the set and the base set that it began with.

    Raises:
        SetChangedError: if not; it names both digests.
    """
    if began is None:
        return
    if began["digest"] != now["digest"]:
        raise SetChangedError(
            "The factor set is not the one that this run began with: "
            f"it began with {began['digest']}, now named is {now['digest']}",
            f"{began['path']} then, {now['path']} now",
            "name the set of the first digest and resume, or start a new run with the new set",
        )
    if began["base_set"]["digest"] != now["base_set"]["digest"]:
        raise SetChangedError(
            "The base set is not the one that this run began with: it began with "
            f"{began['base_set']['name']} ({began['base_set']['digest']}), "
            f"now asked for is {now['base_set']['name']} ({now['base_set']['digest']})",
            "USE_ALPHA_FACTORS and ALPHA_FACTORS",
            "set them as they were and resume, or start a new run",
        )


def adopt(runner: Any, plan: Plan | None) -> None:
    """Give a resumed runner the plan of this process, with one warning where the run changes its footing."""
    began = record_of(runner)
    if began is not None and (plan is None or plan.record is None):
        _logger().warning(
            f"This run was trained on the factor set {began['digest']} ({began['path']}) so far, and goes on "
            "without it: LOAD_SOTA_FROM_WORKSPACE is off. Results before and after don't compare"
            if plan is None
            else f"This run was trained on the factor set {began['digest']} so far, and goes on without it"
        )
    if began is None and plan is not None and plan.record is not None:
        _logger().warning(
            f"This run was trained without factors so far, and goes on with the set {plan.record['digest']}: "
            "results before and after don't compare"
        )
    remember(runner, plan)


def build_without_hook(runner: Any) -> None:
    """Check the set for a runner that was built where the import hook is off; idle where that was done."""
    if was_asked(runner):
        return
    plan = checked_plan()
    if plan is not None:
        remember(runner, plan)


def hand_over_without_hook(develop_before: Any, runner: Any, exp: Any) -> Any:
    """Run `develop` with the factor set where no hook looked at a resumed session: compare here."""
    if _active.get() is None and _hook_is_off():
        plan = _resumed_plan(runner)
        if plan != Plan(record_of(runner)):
            adopt(runner, plan)
    return hand_over(lambda _, experiment: develop_before(experiment), runner, exp)


def _hook_is_off() -> bool:
    from rdagent_sota_bridge import patch

    return all(status.state != "applied" for status in patch.status() if status.seam.name == "loop")


def _resumed_plan(runner: Any) -> Plan | None:
    """Return the plan of this process for a runner that may come from a session, compared with its own."""
    began = record_of(runner)
    try:
        if not is_enabled():
            return None
        if began is None:
            return Plan(None)
        settings = read_settings()
        path = locate.factor_file(settings.workspace_path)
        if path != Path(began["path"]):
            now = {**began, "path": str(path), "digest": factors.current_digest(path)}
            check_same_set(began, now)
            return Plan(now)
        return Plan(began)
    except BridgeError as error:
        _stop_in_step(error)


# --- the seam of the runner ---

_OTHER_RELEASE = "use a release of RD-Agent that README lists, or tell us about this one"

# What `develop` must do for the hand-off to reach it: this is its merge path in 0.8.0 and 1.0.0.
_DEVELOP_NAMES = frozenset(
    {"based_experiments", "process_factor_data", "experiment_workspace", "to_parquet", "execute", "sub_tasks"}
)
_DEVELOP_TEXTS = frozenset({locate.FACTOR_FILE, qlib_config.CONFIG_FILE})


def missing_from_develop(develop: Any) -> list[str]:
    """Return what the merge path of `develop` lacks, by the names and texts in its code; [] if it fits."""
    code = getattr(inspect.unwrap(develop), "__code__", None)
    if code is None:
        return ["Python code"]
    texts = {constant for constant in code.co_consts if isinstance(constant, str)}
    return sorted((_DEVELOP_NAMES - set(code.co_names)) | (_DEVELOP_TEXTS - texts))


def runner_patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/scenarios/qlib/developer/model_runner.py` (0.8.0, 1.0.0).

    Our `develop` lies outside RD-Agent's cache, which is part of the original and stays.
    """
    runner_class = getattr(module, "QlibModelRunner", None)
    develop_before = getattr(runner_class, "develop", None)
    if runner_class is None or develop_before is None:
        raise SeamError("RD-Agent has no QlibModelRunner.develop", module.__name__, _OTHER_RELEASE)
    missing = missing_from_develop(develop_before)
    if missing:
        raise SeamError(
            f"QlibModelRunner.develop has a shape that is not known: it lacks {', '.join(missing)}",
            str(module.__file__),
            _OTHER_RELEASE,
        )
    init_before = runner_class.__init__

    @functools.wraps(init_before)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it replaces one
        init_before(self, *args, **kwargs)
        plan = checked_plan()
        if plan is not None:
            remember(self, plan)

    @functools.wraps(develop_before)
    def develop(self: Any, exp: Any) -> Any:
        return hand_over(develop_before, self, exp)

    return [(runner_class, "__init__", __init__), (runner_class, "develop", develop)]


def merge_patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return the replacement of `process_factor_data` where `develop` looks it up; idle outside a hand-off.

    RD-Agent's own (`scenarios/qlib/developer/utils.py`, 0.8.0, 1.0.0) runs factor code again, and raises
    FactorEmptyError for experiments without any, on which the loop is skipped with its LLM calls spent.
    """
    process_before = getattr(module, "process_factor_data", None)
    if process_before is None:
        raise SeamError("RD-Agent's model runner has no process_factor_data", module.__name__, _OTHER_RELEASE)

    @functools.wraps(process_before)
    def process_factor_data(exp_or_list: Any) -> Any:
        hand_off = _active.get()
        return (
            process_before(exp_or_list)
            if hand_off is None
            else _merged(process_before, exp_or_list, hand_off)
        )

    return [(module, "process_factor_data", process_factor_data)]


def workspace_patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/scenarios/qlib/experiment/workspace.py` (0.8.0, 1.0.0).

    On the class: a workspace is pickled with every session, so nothing of ours may hang on an instance.
    """
    workspace_class = getattr(module, "QlibFBWorkspace", None)
    execute_before = getattr(workspace_class, "execute", None)
    if workspace_class is None or execute_before is None:
        raise SeamError("RD-Agent has no QlibFBWorkspace.execute", module.__name__, _OTHER_RELEASE)
    signature = inspect.signature(execute_before)
    if not {"qlib_config_name", "run_env"} <= set(signature.parameters):
        raise SeamError(f"QlibFBWorkspace.execute takes {signature}", module.__name__, _OTHER_RELEASE)

    @functools.wraps(execute_before)
    def execute(self: Any, *args: Any, **kwargs: Any) -> Any:
        hand_off = _active.get()
        if hand_off is None or self is not hand_off.experiment.experiment_workspace:
            return execute_before(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        named = bound.arguments
        others = named.get("kwargs", {})
        return _train(
            functools.partial(execute_before, self, **others),
            self,
            named["qlib_config_name"],
            named["run_env"] or {},
            hand_off,
        )

    return [(workspace_class, "execute", execute)]


# --- the hand-off ---


def hand_over(develop_before: Any, runner: Any, exp: Any) -> Any:
    """Run RD-Agent's `develop` with the runner's factor set in `exp.based_experiments`.

    Without a set, or inside another hand-off (develop calls itself; a patched class may have a patched
    parent), the original is called and nothing else happens.
    """
    record = record_of(runner)
    if record is None or _active.get() is not None:
        return develop_before(runner, exp)
    try:
        return _hand_over(develop_before, runner, exp, record)
    except BridgeError as error:
        _stop_in_step(error)


def _hand_over(develop_before: Any, runner: Any, exp: Any, record: Record) -> Any:
    from rdagent_sota_bridge import experiment

    path = Path(record["path"])
    if not path.is_file():
        raise FactorFileNotFoundError(
            f"SOTA factors file not found: {path}, though the run began with it",
            f"{path}, {record['digest']}",
            "put the file back and resume the run",
        )
    now = factors.current_digest(path)
    if now != record["digest"]:
        raise factors.changed_set(path, record["digest"], now)

    base = _effective_base(record, exp)
    hand_off = _HandOff(record, base, exp, tuple(record["columns"]))
    metrics = experiment.factor_metrics(path.parent)
    others = [based for based in exp.based_experiments or [] if not experiment.is_ours(based)]
    if not any(experiment.is_factor_experiment(based) for based in others):
        others.insert(0, experiment.base_experiment())
    exp.based_experiments = [*others, experiment.synthetic_experiment(record, base.digest, metrics)]
    if hasattr(exp, "base_features"):
        exp.base_features = dict(hand_off.base_beside_mined.features)

    log = _logger()
    log.info("SOTA factor experiment added to based_experiments")
    _log_base_set(hand_off)
    token = _active.set(hand_off)
    try:
        developed = develop_before(runner, exp)
    finally:
        _active.reset(token)
    if not hand_off.trained:
        log.info(
            "The result comes from RD-Agent's cache: same model, same base set, same factor set "
            f"({record['digest']})"
        )
    _write_manifest(hand_off, developed, metrics)
    return developed


def _effective_base(record: Record, exp: Any) -> alpha.BaseSet:
    """Return the base set of this model: the one asked for, or features that the user chose in RD-Agent."""
    asked = record["base_set"]
    base = alpha.BaseSet(asked["name"], tuple((name, expression) for name, expression in asked["features"]))
    given = getattr(exp, "base_features", None)
    ours = dict(base.without(record["columns"]).features)  # of an experiment that is developed again
    if (
        not given
        or asked["explicit"]
        or any(alpha.same_features(given, known) for known in (alpha.ALPHA20, ours))
    ):
        return base
    return alpha.given_set(given)


def _log_base_set(hand_off: _HandOff) -> None:
    log = _logger()
    base, beside = hand_off.base, hand_off.base_beside_mined
    if base.name == "rd-agent":
        log.info("Base features chosen in RD-Agent are kept, for ALPHA_FACTORS is not set")
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


def _merged(process_before: Any, experiments: Any, hand_off: _HandOff) -> pd.DataFrame:
    """Return the loaded set, and beside it what this run's own factor experiments (fin_quant) bring."""
    from rdagent_sota_bridge import experiment

    frame = factors.load(Path(hand_off.record["path"]), hand_off.record["digest"])
    listed = experiments if isinstance(experiments, list) else [experiments]
    own = [
        based
        for based in listed
        if not experiment.is_ours(based) and (based.sub_tasks or getattr(based, "base_feature_codes", None))
    ]
    if own:
        frame = pd.concat([frame, process_before(own)], axis=1)
    hand_off.mined = tuple(dict.fromkeys(str(name) for name in frame.columns))
    if hasattr(hand_off.experiment, "base_features"):
        # 1.0.0 counts these into num_features right after the merge.
        hand_off.experiment.base_features = dict(hand_off.base_beside_mined.features)
    return frame


def _train(
    execute_before: Any, workspace: Any, config_name: str, run_env: dict[str, Any], hand_off: _HandOff
) -> Any:
    """Run qrun on a workspace whose YAML says what is handed over, and look at what Qlib loaded."""
    if config_name != qlib_config.CONFIG_FILE:
        raise HandOffError(
            f"RD-Agent took {config_name} in place of {qlib_config.CONFIG_FILE}: "
            "the model would be trained without the factors",
            str(workspace.workspace_path),
            _OTHER_RELEASE,
        )
    base = hand_off.base_beside_mined
    note = f"factor set {hand_off.record['digest']}, base set {base.name} sha256:{base.digest}"
    files = workspace.file_dict
    workspace.inject_files(
        **{
            qlib_config.CONFIG_FILE: qlib_config.adapt(files[qlib_config.CONFIG_FILE], base, note),
            RESULT_SCRIPT: manifest.with_probe(files[RESULT_SCRIPT]),
        }
    )
    width = len(base.features) + len(hand_off.mined)
    run_env = {**run_env, **qlib_config.feature_variables(base), "num_features": str(width)}
    (workspace.workspace_path / manifest.LOADED_FILE).unlink(missing_ok=True)

    run = functools.partial(execute_before, qlib_config_name=qlib_config.CONFIG_FILE, run_env=run_env)
    result, output = run()
    if result is None and (race := _LOGGING_RACE.search(str(output))):
        _logger().warning(f"qrun died of Qlib's logging race ({race.group()}); it is repeated once")
        result, output = run()
    hand_off.trained = True
    if result is not None:
        _look_at_loaded(hand_off, workspace.workspace_path)
    return result, output


def _look_at_loaded(hand_off: _HandOff, workspace: Path) -> None:
    loaded = manifest.read_loaded(workspace)
    if loaded is None:
        _logger().warning(
            f"The factors were handed over; what Qlib loaded could not be read back ({workspace}), so this "
            "loop has no proof that they were used"
        )
        return
    manifest.check_loaded(loaded, hand_off.base_beside_mined.names, hand_off.mined, workspace)
    hand_off.loaded = loaded
    _logger().info(
        f"SOTA factors used: Qlib loaded {len(loaded.columns)} columns ({len(hand_off.mined)} mined, "
        f"{len(hand_off.base_beside_mined.features)} base), num_features {loaded.num_features}"
    )


def _write_manifest(hand_off: _HandOff, exp: Any, metrics: dict[str, float]) -> None:
    record, base = hand_off.record, hand_off.base
    workspace = Path(exp.experiment_workspace.workspace_path)
    workspace.mkdir(parents=True, exist_ok=True)
    task = exp.sub_tasks[0]
    manifest.write_manifest(
        workspace,
        {
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "model": {"name": task.name, "type": str(getattr(task, "model_type", ""))},
            "from_cache": not hand_off.trained,
            "factor_set": {
                **{name: record[name] for name in ("path", "digest", "rows", "instruments", "start", "end")},
                "columns": record["columns"],
                "metrics": _finite(metrics),
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


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    """Return metrics as JSON can hold them: JSON knows no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _logger() -> Any:
    """Return RD-Agent's logger. Imported late: the seams are applied while RD-Agent is being imported."""
    return import_module("rdagent.log").rdagent_logger
