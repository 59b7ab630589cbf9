"""Real objects of RD-Agent for the tests at the seams: a runner, an experiment, a market."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from examples.demo.market import Market, gap_factor, write_market
from rdagent_sota_bridge.bridge.model_runner import merge_patches
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE


def put_market(home: Path) -> Market:
    """Write the demo's market where RD-Agent's YAML looks for it below `home`."""
    return write_market(home / ".qlib" / "qlib_data" / "cn_data")


def factor_frame(market: Market, **columns: float) -> pd.DataFrame:
    """Return a flat frame with the gap factor and further columns of noise of that scale."""
    frame = gap_factor(market)
    random = np.random.default_rng(1)
    for name, scale in columns.items():
        frame[name] = scale * random.standard_normal(len(frame))
    return frame


def write_set(folder: Path, frame: pd.DataFrame, *, nested: bool = True) -> Path:
    """Write a frame as RD-Agent writes a factor set, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = frame.copy()
    if nested:
        frame.columns = pd.MultiIndex.from_product([["feature"], frame.columns])
    frame.to_parquet(folder / FACTOR_FILE, engine="pyarrow")
    return folder


def switch_on(monkeypatch: pytest.MonkeyPatch, workspace: Path | str, **variables: str) -> None:
    """Set the variables of a run with the factors."""
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "true")
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", str(workspace))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def build_runner() -> Any:
    """Build RD-Agent's model runner, as a loop does."""
    from rdagent.scenarios.qlib.developer.model_runner import QlibModelRunner

    return QlibModelRunner(None)


def model_experiment(name: str = "SmallMLP", base_features: dict[str, str] | None = None) -> Any:
    """Return a model experiment whose coder has left no code."""
    from rdagent.components.coder.model_coder.model import ModelFBWorkspace, ModelTask
    from rdagent.scenarios.qlib.experiment.model_experiment import QlibModelExperiment

    task = ModelTask(
        name=name,
        description="d",
        architecture="a",
        hyperparameters={},
        training_hyperparameters={},
        formulation="f",
        variables={},
        model_type="Tabular",
    )
    experiment = QlibModelExperiment([task])
    experiment.based_experiments = []
    experiment.sub_workspace_list[0] = ModelFBWorkspace(target_task=task)
    if hasattr(experiment, "base_features"):
        from rdagent.utils.qlib import ALPHA20

        experiment.base_features = ALPHA20 if base_features is None else base_features
    return experiment


class QlibReachedError(Exception):
    """In place of Qlib's start."""


def develop_up_to_qlib(runner: Any, experiment: Any) -> Any:
    """Run `develop` up to the point where Qlib would be started, and return the experiment."""
    from rdagent.scenarios.qlib.experiment import workspace

    def reach(*args: Any, **kwargs: Any) -> None:
        raise QlibReachedError

    experiment.sub_workspace_list[0].inject_files(**{"model.py": "model_cls = None"})
    with pytest.MonkeyPatch.context() as patch, pytest.raises(QlibReachedError):
        patch.setattr(workspace, "QlibCondaConf", reach)
        patch.setattr(workspace, "QTDockerEnv", reach)
        runner.develop(experiment)
    return experiment


def cache_key(experiment: Any) -> str:
    """Return RD-Agent's own cache key of an experiment."""
    from rdagent.components.runner import CachedRunner

    return str(CachedRunner.get_cache_key(None, experiment))


def merge_over(process_factor_data: Any) -> Any:
    """Return our merge as it lies over what stands in for RD-Agent's own, which runs factor code."""
    module = ModuleType("stand_in")
    module.process_factor_data = process_factor_data  # type: ignore[attr-defined]
    ((_, _, replacement),) = merge_patches(module)
    return replacement


@contextmanager
def logged() -> Iterator[list[str]]:
    """Collect what RD-Agent's logger says, through loguru."""
    import rdagent.log  # noqa: F401 - it removes all sinks when it is first imported
    from loguru import logger

    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), format="{level}: {message}")
    try:
        yield lines
    finally:
        logger.remove(sink)


def copy_set(source: Path, target: Path) -> Path:
    """Copy a factor workspace and return the copy."""
    shutil.copytree(source, target)
    return target


@dataclass(frozen=True)
class Place:
    """A market in HOME and a good factor set."""

    market: Market
    workspace: Path
    patch: pytest.MonkeyPatch

    def switch_on(self, **variables: str) -> None:
        """Set the variables of a run with the good set."""
        switch_on(self.patch, self.workspace, **variables)

    def developed(self, runner: Any = None) -> Path:
        """Develop a model up to where Qlib would be started, and return the factor file in its workspace."""
        return in_workspace(develop_up_to_qlib(runner or build_runner(), model_experiment()))


def in_workspace(experiment: Any) -> Path:
    """Return the factor file in a model's workspace."""
    return Path(experiment.experiment_workspace.workspace_path) / FACTOR_FILE
