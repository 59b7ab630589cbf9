"""What a runner's `develop` does with a factor set: it is run on nine known rows, and without a training."""

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

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pandas.core.groupby import DataFrameGroupBy

from rdagent_sota_bridge.errors import OTHER_RELEASE, SeamError
from rdagent_sota_bridge.factor_set import panel
from rdagent_sota_bridge.factor_set.names import DATETIME, FACTOR_FILE, INSTRUMENT
from rdagent_sota_bridge.qlib_files import base_sets, model_yaml
from rdagent_sota_bridge.qlib_files.model_yaml import QlibStart
from rdagent_sota_bridge.system.files import open_file

MERGE = "process_factor_data"
"""The function that `develop` asks for the factors (RD-Agent's `scenarios/qlib/developer/utils.py`)."""

ASTRAY = "does not lead to the develop of RD-Agent's runner"
CACHED = "has a result cache around it, which answers before any factors are handed over"

PROBED = ("probe_a", "probe_b")
"""The factors of the nine rows where no set is known."""

_DEVELOPER = "rdagent.scenarios.qlib.developer"


@dataclass(frozen=True)
class DryRun:
    """What a `develop` does with a factor set.

    Attributes:
        keeps_frame: True where it writes the merged frame as it got it, all rows, names and values. Where it
            does not, it has to get the whole set, and the file that it writes has to stay.
        start: What it would start Qlib with.
    """

    keeps_frame: bool
    start: QlibStart


def of_models(columns: tuple[str, ...] = PROBED) -> DryRun:
    """Return what the `develop` of RD-Agent's own model runner does with a set of these factors.

    Raises:
        SeamError: if it can't be given the factors; it says why.
    """
    module = import_module(f"{_DEVELOPER}.model_runner")
    asked = ask_model_runner(module.QlibModelRunner, columns)
    if isinstance(asked, DryRun):
        return asked
    raise SeamError(
        f"QlibModelRunner.develop has a shape that is not known: it {asked}",
        f"{module.__file__}, develop and what it calls",
        OTHER_RELEASE,
    )


@functools.cache  # once a process
def ask_model_runner(
    runner_class: Any, columns: tuple[str, ...] = PROBED, runner: Any = None
) -> DryRun | str:
    """Return what the `develop` of a model runner does, or why it can't be given the factors.

    `runner` is the run's own, where it is there: a `develop` may need what its constructor has set.
    """
    rdagents = import_module(f"{_DEVELOPER}.model_runner").QlibModelRunner
    found = _ask(runner_class, rdagents, "Tabular", columns, runner)
    other = _ask(runner_class, rdagents, "TimeSeries", columns, runner)
    if isinstance(found, str) or isinstance(other, str):
        return found if isinstance(found, str) else other
    return dataclasses.replace(found, keeps_frame=found.keeps_frame and other.keeps_frame)


@functools.cache
def ask_factor_runner(runner_class: Any, runner: Any = None) -> DryRun | str:
    """Return what the `develop` of a factor runner does in fin_quant, or why it can't have the factors."""
    rdagents = import_module(f"{_DEVELOPER}.factor_runner").QlibFactorRunner
    found = _ask(runner_class, rdagents, "", PROBED, runner, of_models=False)
    other = _ask(runner_class, rdagents, "Tabular", PROBED, runner, of_models=False)
    return other if isinstance(other, str) else found


@functools.lru_cache(maxsize=8)  # every loop asks it, and its callers copy it
def sample(columns: tuple[str, ...]) -> pd.DataFrame:
    """Return the nine rows that a model's `develop` gets in place of a set: it needs its names alone.

    They show what a fork's `develop` does with a set: a filter of dates or of an exchange takes rows away,
    and so does a `dropna`, of columns too, for most values are missing; a fill, a clip, a rank, a scaling or
    another type changes the three values of a column.
    """
    days = pd.to_datetime(["1700-01-01", "2020-01-02", "2200-01-01"])
    index = pd.MultiIndex.from_product(
        [days, ["BJ430047", "SH600000", "SZ000001"]], names=[DATETIME, INSTRUMENT]
    )
    values = np.full((len(index), len(columns)), np.nan)
    values[3:6] = np.outer([-1e9 / 3, 0.1, 1e9 / 3], np.arange(1, len(columns) + 1))
    return pd.DataFrame(values, index, pd.Index(columns, dtype=object))


def is_sample(file: Path, columns: tuple[str, ...]) -> bool:
    """Return True if what `develop` wrote is the sample that it got, in rows, names and values."""
    expected = sample(columns).set_axis(panel.nested_columns(columns), axis=1)
    try:
        with open_file(file) as content:
            # Not `read_table`, which loads Arrow's data sets: memory that the loops of a run would keep.
            written = pq.ParquetFile(content).read(use_threads=False).to_pandas()
            return bool(written.equals(expected))
    except (OSError, pa.ArrowException):
        return False


def merge_places(module: ModuleType) -> list[tuple[ModuleType, str]]:
    """Return where the merge is held: modules of RD-Agent, and `module`, with the name that it has there."""
    known = [sys.modules.get(f"{_DEVELOPER}.{name}") for name in ("utils", "model_runner", "factor_runner")]
    merges = [
        without_ours(vars(at)[MERGE]) for at in (module, *known) if at and callable(vars(at).get(MERGE))
    ]
    rdagents = [at for name, at in list(sys.modules.items()) if name.split(".")[0] == "rdagent" and at]
    return [
        (at, name)
        for at in dict.fromkeys([module, *rdagents])
        for name, value in list(vars(at).items())
        if isinstance(value, FunctionType) and without_ours(value) in merges
    ]


def has_result_cache(develop: Any) -> bool:
    """Return True for a `develop` with RD-Agent's result cache around it.

    `cache_with_pickle` (`core/utils.py`, 0.5.0 to 1.0.0) leaves no other trace than its closure, where
    `hash_func` makes the key.
    """
    waiting, seen = [develop], set()
    while waiting:
        function = waiting.pop()
        for name in ("func", "__func__"):  # of a partial, and of a bound method
            function = getattr(function, name, function)
        if not isinstance(function, FunctionType) or function in seen:
            continue
        seen.add(function)
        found = inspect.getclosurevars(function).nonlocals
        if callable(found.get("hash_func")):
            return True
        waiting += [value for value in found.values() if getattr(value, "__name__", "") == "develop"]
    return False


def is_ours(function: Any) -> bool:
    """Return True for a function of this package."""
    home = str(getattr(function, "__globals__", {}).get("__name__"))
    return home.partition(".")[0] == __name__.partition(".")[0]


def without_ours(function: Any) -> Any:
    """Return a function of RD-Agent's that lies below our replacements of it."""
    while is_ours(function) and hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


# --- the dry run ---


class _ReachedError(BaseException):
    """Ends a dry run where Qlib would be started; a fork that catches `Exception` does not catch it."""


def _ask(
    runner_class: type,
    rdagents: type,
    model_type: str,
    columns: tuple[str, ...],
    like: Any,
    *,
    of_models: bool = True,
) -> DryRun | str:
    """Run `develop` up to where Qlib would be started; return what it did, or why it can't have the factors.

    Every file that it may write goes into a temporary folder, and RD-Agent's logger is silent. Our own
    `develop`, merge and `execute` are replaced too, so no hand-off is looked at. `model_type` is that of the
    model; for factors, that of the best model so far, or empty for none. A new runner is asked, with the
    attributes of `like`, if that is not None.
    """
    from rdagent_sota_bridge.bridge import experiment  # late: it imports RD-Agent

    owner: Any
    for owner in runner_class.__mro__:
        if is_ours(vars(owner).get("develop")) or owner is rdagents:
            break
        if has_result_cache(vars(owner).get("develop")):
            return CACHED
    else:
        return ASTRAY
    runner: Any = object.__new__(runner_class)
    vars(runner).update({} if like is None else vars(like))
    below = without_ours(owner.develop)
    if is_ours(below):  # our own runner class, which wraps none
        below = without_ours(super(owner, runner).develop.__func__)
    seen: dict[str, Any] = {}
    loaded = sample(columns)

    def develop(self: Any, exp: Any) -> Any:
        seen["led"] = True
        exp.based_experiments = based
        return below(self, exp)

    def merge(experiments: Any) -> pd.DataFrame:
        listed = experiments if isinstance(experiments, list) else [experiments]
        if any(experiment.stands_for_a_set(one) for one in listed):
            seen["merged"] = True
            return loaded.copy()
        return pd.DataFrame({"probe_new": [2.0, 1.0, 3.0] * 3}, index=loaded.index)  # a loop's new factor

    def execute(self: Any, qlib_config_name: str = "", run_env: Any = None, *_: Any, **__: Any) -> Any:
        file = Path(self.workspace_path) / FACTOR_FILE
        keeps = is_sample(file, columns) if file.is_file() else None
        config = str(self.file_dict.get(qlib_config_name) or "")
        variables = {key: str(value) for key, value in (run_env or {}).items() if value is not None}
        seen.setdefault("training", (keeps, QlibStart(qlib_config_name, config, variables)))
        raise _ReachedError

    def start(*_: Any, **__: Any) -> None:
        seen.setdefault("training", None)
        raise _ReachedError

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
        try:
            exp = _model(model_type) if of_models else _factors()
            record = {"path": "probe", "digest": "sha256:probe", "columns": list(columns), "metrics": {}}
            based = [experiment.base_experiment(), experiment.synthetic_experiment(record, "probe")]
            if model_type and not of_models:
                based.append(_model(model_type))
            replace(owner, "develop", develop)
            # pandarallel's, for which RD-Agent's factor runner would start processes.
            replace(DataFrameGroupBy, "parallel_apply", DataFrameGroupBy.apply)
            replace(type(exp.experiment_workspace), "execute", execute)
            replace(import_module("rdagent.utils.env").Env, "__init__", start)
            for at, name in merge_places(sys.modules[rdagents.__module__]):
                replace(at, name, merge)
            runner.develop(exp)
        except _ReachedError:
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
    found = DryRun(*seen["training"])
    fitting = (model_yaml.CONFIG_FILE,) if of_models else model_yaml.FACTOR_CONFIG_FILES
    if found.start.config_name not in fitting:
        return f"takes {found.start.config_name} in place of {' or '.join(fitting)}, without the factors"
    if found.keeps_frame is None:
        return f"writes no {FACTOR_FILE}"
    if not found.start.config:
        return f"has no {found.start.config_name} in its workspace"
    return found


def _model(model_type: str) -> Any:
    coder = import_module("rdagent.components.coder.model_coder.model")
    experiments = import_module("rdagent.scenarios.qlib.experiment.model_experiment")
    parameters: dict[str, Any] = {"hyperparameters": {}, "training_hyperparameters": {}, "variables": {}}
    task = coder.ModelTask("probe", "", "", **parameters, formulation="", model_type=model_type)
    model = experiments.QlibModelExperiment([task])
    model.sub_workspace_list[0] = coder.ModelFBWorkspace(target_task=task)
    model.sub_workspace_list[0].file_dict["model.py"] = "model_cls = None"
    model.base_features = dict(base_sets.ALPHA20)
    model.result = pd.Series({"IC": 0.0})
    return model


def _factors() -> Any:
    coder = import_module("rdagent.components.coder.factor_coder.factor")
    experiments = import_module("rdagent.scenarios.qlib.experiment.factor_experiment")
    factors = experiments.QlibFactorExperiment([coder.FactorTask("probe_new", "", "")])
    factors.base_features = dict(base_sets.ALPHA20)
    return factors
