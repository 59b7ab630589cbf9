"""A project in which RD-Agent trained three models on a planted factor, for end-to-end tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from examples.demo.market import Market
from examples.demo.sandbox import Sandbox
from examples.demo.script import SMALL_MLP
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import training_record
from tests import runs

USED = 0.6
"""The least IC of a model that was trained on the planted factor; measured 0.78 to 0.80."""

UNUSED = 0.1
"""The greatest IC of a model that was not; measured -0.02 to 0.03."""

KEEPER = replace(
    SMALL_MLP,
    name="Keeper",
    hypothesis="What the last batch of the training looked like helps.",
    code='''\
import torch
from torch import nn


class Keeper(nn.Module):
    """(batch, features) to (batch, 1); it keeps a mean that is no buffer."""

    def __init__(self, num_features, num_timesteps=None):
        super().__init__()
        self.layers = nn.Linear(num_features, 1)
        self.kept = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.kept = float(x.mean())
        return self.layers(x) + self.kept


model_cls = Keeper
''',
)


@dataclass(frozen=True)
class Project:
    """The project; its set has a column of the name of a base feature."""

    box: Sandbox
    market: Market
    log: Path
    models: dict[str, Path]

    @property
    def root(self) -> Path:
        """The folder of all its workspaces."""
        return self.box.project / runs.WORKSPACES


def predictions(workspace: Path) -> pd.Series:
    """Return what a model predicted at the end of its training."""
    file = training_record.read_training(workspace).run / "artifacts" / "pred.pkl"
    found: pd.Series = pd.read_pickle(file)["score"]
    return found


def recorder(workspace: Path) -> str:
    """Return mlflow's id of the newest finished training in a workspace."""
    return training_record.read_training(workspace).run.name


def metrics(workspace: Path) -> dict[str, float]:
    """Return Qlib's metrics of a model."""
    return training_record.metrics_beside(workspace / FACTOR_FILE)


def same_bits(one: pd.Series, other: pd.Series) -> bool:
    """Return True for the same rows and the same bits."""
    return one.index.equals(other.index) and one.to_numpy().tobytes() == other.to_numpy().tobytes()


def known_days(scores: pd.DataFrame) -> pd.Series:
    """Return the IC by day, which is that of a planted factor; the last two days have no label yet."""
    ic = scores.groupby(level="datetime").apply(lambda day: day["score"].corr(day["label"]))
    assert ic.mean() > USED
    assert list(ic.isna()) == [False] * (len(ic) - 2) + [True, True]
    return ic
