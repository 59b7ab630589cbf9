"""What a runner's `develop` does with a factor set: it is asked, with known rows and without a training."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any
from unittest import mock

import pandas as pd
from pandas.core.groupby import DataFrameGroupBy

from rdagent_sota_bridge.errors import OTHER_RELEASE, SeamError
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import base_sets, model_yaml
from rdagent_sota_bridge.qlib_files.model_yaml import QlibStart

MERGE = "process_factor_data"
"""The function that `develop` asks for the factors (RD-Agent's `scenarios/qlib/developer/utils.py`)."""

ASTRAY = "does not lead to the develop of RD-Agent's runner"
CACHED = "has a result cache around it, which answers before any factors are handed over"

_DEVELOPER = "rdagent.scenarios.qlib.developer"
_RECORD = {"path": "probe", "digest": "sha256:probe", "columns": ["probe_a", "probe_b"], "metrics": {}}


@dataclass(frozen=True)
class DryRun:
    """What a `develop` does with a factor set.

    Attributes:
        keeps_frame: True where it writes the merged frame as it got it, all rows, names and values. Where it
            does not, it has to be given the whole frame, and its own file has to stay.
        start: What it would start Qlib with.
    """

    keeps_frame: bool
    start: QlibStart


def of_models() -> DryRun:
    """Return what the `develop` of RD-Agent's own model runner does.

    Raises:
        SeamError: if it can't be given the factors; it says why.
    """
    module = import_module(f"{_DEVELOPER}.model_runner")
    asked = ask_model_runner(module.QlibModelRunner)
    if isinstance(asked, DryRun):
        return asked
    raise SeamError(
        f"QlibModelRunner.develop has a shape that is not known: it {asked}",
        f"{module.__file__}, develop and what it calls",
        OTHER_RELEASE,
    )


@functools.cache  # once a process
def ask_model_runner(runner_class: Any) -> DryRun | str:
    """Return what the `develop` of a model runner does, or why it can't be given the factors."""
    home = import_module(f"{_DEVELOPER}.model_runner")
    found = [_ask(runner_class, home.QlibModelRunner, kind) for kind in ("Tabular", "TimeSeries")]
    return _together(found, (model_yaml.CONFIG_FILE,))


@functools.cache
def ask_factor_runner(runner_class: Any) -> DryRun | str:
    """Return what the `develop` of a factor runner does in fin_quant, or why it can't have the factors."""
    home = import_module(f"{_DEVELOPER}.factor_runner")
    found = [_ask(runner_class, home.QlibFactorRunner, kind, of_models=False) for kind in ("", "Tabular")]
    return _together(found, model_yaml.FACTOR_CONFIG_FILES)


def merge_places(module: ModuleType) -> list[tuple[ModuleType, str]]:
    """Return where the merge is held: modules of RD-Agent, and `module`, with the name that it has there."""
    known = [sys.modules.get(f"{_DEVELOPER}.{name}") for name in ("utils", "model_runner", "factor_runner")]
    merges = [
        _without_ours(vars(at)[MERGE]) for at in (module, *known) if at and callable(vars(at).get(MERGE))
    ]
    rdagents = [at for name, at in list(sys.modules.items()) if name.split(".")[0] == "rdagent" and at]
    return [
        (at, name)
        for at in dict.fromkeys([module, *rdagents])
        for name, value in list(vars(at).items())
        if isinstance(value, FunctionType) and _without_ours(value) in merges
    ]


def result_cache(develop: Any) -> dict[str, Any] | None:
    """Return the variables of the result cache around a `develop`, or None for one without.

    That is RD-Agent's (`cache_with_pickle` in `core/utils.py`, 0.5.0 to 1.0.0): `hash_func` makes its key,
    and with `force` no setting turns it off. They stand in the closure of the decorator alone.
    """
    waiting, seen = [develop], set()
    while waiting:
        function = waiting.pop()
        for name in ("func", "__func__"):  # of a partial, and of a bound method
            function = getattr(function, name, function)
        if not isinstance(function, FunctionType) or function in seen:
            continue
        seen.add(function)
        found = dict(inspect.getclosurevars(function).nonlocals)
        if callable(found.get("hash_func")):
            return found
        waiting += [value for value in found.values() if getattr(value, "__name__", "") == "develop"]
    return None


# --- the dry run ---


class _Reached(BaseException):
    """Ends a dry run where Qlib would be started; a fork that catches `Exception` does not catch it."""


def _ask(runner_class: type, rdagents: type, model_type: str, *, of_models: bool = True) -> DryRun | str:
    """Run `develop` up to where Qlib would be started; return what it did, or why it can't have the factors.

    Every file that it may write goes into a temporary folder, and RD-Agent's logger is silent. Our own
    `develop`, merge and `execute` are replaced too, so no hand-off is looked at.

    Args:
        runner_class: The class of the runner.
        rdagents: RD-Agent's own class for it.
        model_type: The type of the model; for factors, of the best model so far, or empty for none.
        of_models: False for a factor runner.
    """
    from rdagent_sota_bridge.bridge import experiment  # late: it imports RD-Agent

    owner: Any
    before = list(runner_class.__mro__)
    for position, kind in enumerate(before):
        if is_ours(vars(kind).get("develop")) or kind is rdagents:
            owner, before = kind, before[:position]
            break
    else:
        return ASTRAY
    if any(result_cache(vars(kind).get("develop")) is not None for kind in before):
        return CACHED
    runner: Any = object.__new__(runner_class)
    below = _without_ours(owner.develop)
    if is_ours(below):  # our own runner class, which wraps none
        below = _without_ours(super(owner, runner).develop.__func__)
    seen: dict[str, Any] = {}
    loaded = _known_rows(of_models=of_models)

    def develop(self: Any, exp: Any) -> Any:
        seen["led"] = True
        exp.based_experiments = based
        return below(self, exp)

    def merge(experiments: Any) -> pd.DataFrame:
        listed = experiments if isinstance(experiments, list) else [experiments]
        if any(experiment.stands_for_a_set(one) for one in listed):
            seen["merged"] = True
            return loaded.copy()
        return pd.DataFrame({"probe_new": [2.0, 1.0, 3.0]}, index=loaded.index)  # a loop's new factor

    def execute(self: Any, qlib_config_name: str = "", run_env: Any = None, *_: Any, **__: Any) -> Any:
        file = Path(self.workspace_path) / FACTOR_FILE
        written = pd.read_parquet(file) if file.is_file() else None
        seen.setdefault(
            "training", (written, qlib_config_name, self.file_dict.get(qlib_config_name), run_env)
        )
        raise _Reached

    def start(*_: Any, **__: Any) -> None:
        seen.setdefault("training", None)
        raise _Reached

    settings = import_module("rdagent.core.conf").RD_AGENT_SETTINGS
    logger = import_module("rdagent.log").rdagent_logger
    error = ""
    with ExitStack() as stack:

        def replace(at: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(at, name, value, create=True))

        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rdagent-sota-")))
        replace(settings, "workspace_path", folder)
        replace(settings, "pickle_cache_folder_path_str", str(folder / "pickle_cache"))
        replace(settings, "cache_with_pickle", False)
        for name in ("_log", "log_object"):
            replace(logger, name, lambda *_, **__: None)
        exp = _model(model_type) if of_models else _factors()
        based = [experiment.base_experiment(), experiment.synthetic_experiment(_RECORD, "probe")]
        if model_type and not of_models:
            based.append(_model(model_type))
        replace(owner, "develop", develop)
        # pandarallel's, for which RD-Agent's factor runner would start processes.
        replace(DataFrameGroupBy, "parallel_apply", DataFrameGroupBy.apply)
        replace(type(exp.experiment_workspace), "execute", execute)
        replace(import_module("rdagent.utils.env").Env, "__init__", start)
        for at, name in merge_places(sys.modules[rdagents.__module__]):
            replace(at, name, merge)
        try:
            runner.develop(exp)
        except _Reached:
            pass
        except Exception as raised:  # whatever foreign code raises is the answer here
            error = f" ({type(raised).__name__}: {raised})"
    if not seen.get("led"):
        return ASTRAY + error
    if not seen.get("merged"):
        return f"does not ask {MERGE} for the factors{error}"
    if "training" not in seen:
        return f"ends before it starts Qlib{error}"
    if seen["training"] is None:
        return "starts Qlib by itself, not by its workspace's execute"
    written, name, text, run_env = seen["training"]
    if written is None:
        return f"writes no {FACTOR_FILE}"
    nested = pd.concat({"feature": loaded}, axis=1)
    variables = {key: str(value) for key, value in (run_env or {}).items() if value is not None}
    launch = QlibStart(name, "" if text is None else str(text), variables)
    return DryRun(written.equals(nested), launch)


def _together(found: list[DryRun | str], config_names: tuple[str, ...]) -> DryRun | str:
    """Return what is the same in all of some dry runs, or why one of them can't have the factors."""
    asked = [one for one in found if isinstance(one, DryRun)]
    if len(asked) < len(found):
        return next(one for one in found if isinstance(one, str))
    for one in asked:
        if one.start.config_name not in config_names:
            return (
                f"takes {one.start.config_name} in place of {' or '.join(config_names)}, without the factors"
            )
        if not one.start.config:
            return f"has no {one.start.config_name} in its workspace"
    return dataclasses.replace(asked[0], keeps_frame=all(one.keeps_frame for one in asked))


def _known_rows(*, of_models: bool) -> pd.DataFrame:
    """Return three rows of a set of two factors.

    For a model runner one value is NaN, no market has the instruments, and one day is long ago, one far
    ahead: whatever filters or fills them changes them. A factor runner correlates the factors of each day.
    """
    days = ["1990-01-01", "2015-06-30", "2090-01-01"] if of_models else ["2015-06-30"] * 3
    levels = [pd.DatetimeIndex(days), ["probe 1", "probe 2", "probe 3"]]
    index = pd.MultiIndex.from_arrays(levels, names=["datetime", "instrument"])
    second = float("nan") if of_models else 2.0
    return pd.DataFrame({"probe_a": [1.0, second, 3.0], "probe_b": [0.5, 8.0, 0.25]}, index=index)


def _model(model_type: str) -> Any:
    """Return a model experiment of RD-Agent's, with a result."""
    coder = import_module("rdagent.components.coder.model_coder.model")
    task = coder.ModelTask(
        name="probe",
        description="",
        architecture="",
        hyperparameters={},
        training_hyperparameters={},
        formulation="",
        variables={},
        model_type=model_type,
    )
    model = import_module("rdagent.scenarios.qlib.experiment.model_experiment").QlibModelExperiment([task])
    model.sub_workspace_list[0] = coder.ModelFBWorkspace(target_task=task)
    model.sub_workspace_list[0].file_dict["model.py"] = "model_cls = None"
    model.base_features = dict(base_sets.ALPHA20)
    model.based_experiments = []
    model.result = pd.Series({"IC": 0.0})
    return model


def _factors() -> Any:
    """Return a factor experiment of RD-Agent's."""
    coder = import_module("rdagent.components.coder.factor_coder.factor")
    factors = import_module("rdagent.scenarios.qlib.experiment.factor_experiment").QlibFactorExperiment(
        [coder.FactorTask("probe_new", "", "")]
    )
    factors.base_features = dict(base_sets.ALPHA20)
    factors.based_experiments = []
    return factors


# --- what is ours ---


def is_ours(function: Any) -> bool:
    """Return True for a function of this package."""
    home = str(getattr(function, "__globals__", {}).get("__name__"))
    return home.partition(".")[0] == __name__.partition(".")[0]


def _without_ours(function: Any) -> Any:
    """Return a function of RD-Agent's that lies below our replacements of it."""
    while is_ours(function) and hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function
