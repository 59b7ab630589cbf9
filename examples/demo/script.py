"""What the demo's LLM proposes: factors, models and the verdicts on them, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

FACTOR_CODE = """\
import pandas as pd


def calculate_{name}():
    # Index: (datetime, instrument), sorted; one row for each instrument and trading day.
    prices = pd.read_hdf("daily_pv.h5", key="data")
    earlier = prices.groupby(level="instrument")["$close"].shift({days})
    values = prices["${field}"] / earlier - 1
    values.rename("{name}").to_frame().to_hdf("result.h5", key="data")


if __name__ == "__main__":
    calculate_{name}()
"""

MLP_CODE = '''\
import torch
from torch import nn


class SmallMLP(nn.Module):
    """(batch, features) to (batch, 1)."""

    def __init__(self, num_features, num_timesteps=None):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(num_features, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


model_cls = SmallMLP
'''

GRU_CODE = '''\
import torch
from torch import nn


class SmallGRU(nn.Module):
    """(batch, timesteps, features) to (batch, 1)."""

    def __init__(self, num_features, num_timesteps=None):
        super().__init__()
        self.recurrent = nn.GRU(num_features, 16, batch_first=True)
        self.output = nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, _ = self.recurrent(x)
        return self.output(states[:, -1, :])


model_cls = SmallGRU
'''


@dataclass(frozen=True)
class Proposal:
    """One factor or model that the script proposes, alone in its loop; name and hypothesis are unique.

    `task` is as RD-Agent's prompt `…_experiment_output_format` asks for it, `code` a whole `factor.py` that
    writes the column `name`, or a whole `model.py`, and `accepted` the verdict after the back-test.
    """

    name: str
    hypothesis: str
    reason: str
    task: dict[str, Any]
    code: str
    accepted: bool = True


def momentum(window: int, *, accepted: bool = False) -> Proposal:
    """Return the factor of the return over `window` trading days: worth nothing in the demo's market."""
    name = f"momentum_{window}d"
    return Proposal(
        name=name,
        hypothesis=f"Stocks that rose over the last {window} trading days go on rising ({name}).",
        reason="Momentum is the simplest factor to start from.",
        task={
            "description": f"[Momentum Factor] Return over the last {window} trading days.",
            "formulation": rf"\frac{{close_t}}{{close_{{t-{window}}}}} - 1",
            "variables": {"close_t": "closing price of day t"},
        },
        code=FACTOR_CODE.format(name=name, field="close", days=window),
        accepted=accepted,
    )


OVERNIGHT_GAP = Proposal(
    name="overnight_gap",
    hypothesis="News that arrives overnight moves the open first and the closes that follow after it.",
    reason="No factor so far looks at the open.",
    task={
        "description": "[Price Factor] Open of the day against the close of the day before.",
        "formulation": r"\frac{open_t}{close_{t-1}} - 1",
        "variables": {"open_t": "opening price of day t", "close_t": "closing price of day t"},
    },
    code=FACTOR_CODE.format(name="overnight_gap", field="open", days=1),
)

_VARIABLES = {"x": "features of one instrument", "y": "predicted return"}
# Few epochs on large steps: the demo's market has one effect, and a small network finds it at once.
_TRAINING = {"n_epochs": "2", "lr": "1e-2", "early_stop": "2", "batch_size": "256", "weight_decay": "1e-4"}

SMALL_MLP = Proposal(
    name="SmallMLP",
    hypothesis="A small multi-layer perceptron reads the features of one day well enough.",
    reason="A simple architecture first.",
    task={
        "description": "Two linear layers with a ReLU between them.",
        "formulation": r"y = W_2 \max(W_1 x + b_1, 0) + b_2",
        "architecture": "Linear(num_features, 32), ReLU, Linear(32, 1)",
        "variables": _VARIABLES,
        "hyperparameters": {"hidden_size": "32"},
        "training_hyperparameters": _TRAINING,
        "model_type": "Tabular",
    },
    code=MLP_CODE,
)

SMALL_GRU = Proposal(
    name="SmallGRU",
    hypothesis="A recurrent network over the last days sees what one day does not show.",
    reason="Market data are time series.",
    task={
        "description": "One GRU layer; its last state is mapped to the prediction.",
        "formulation": r"h_t = GRU(x_t, h_{t-1}),\; y = W h_T + b",
        "architecture": "GRU(num_features, 16), Linear(16, 1)",
        "variables": _VARIABLES,
        "hyperparameters": {"hidden_size": "16"},
        "training_hyperparameters": {**_TRAINING, "weight_decay": "1e-5"},
        "model_type": "TimeSeries",
    },
    code=GRU_CODE,
)


@dataclass(frozen=True)
class Script:
    """What the LLM proposes, loop by loop: after the last factor, momentum to be rejected; after the last
    model, the same again under other names and with more epochs. `actions` are `fin_quant`'s, in turn.
    """

    factors: tuple[Proposal, ...] = (momentum(10), OVERNIGHT_GAP)
    models: tuple[Proposal, ...] = (SMALL_MLP, SMALL_GRU)
    actions: tuple[str, ...] = ("factor", "model")

    def factor(self, loop: int) -> Proposal:
        """Return the factor of a loop, counted from 0."""
        return self.factors[loop] if loop < len(self.factors) else momentum(20 + 5 * loop)

    def model(self, loop: int) -> Proposal:
        """Return the model of a loop, counted from 0."""
        turn, position = divmod(loop, len(self.models))
        model = self.models[position]
        if turn == 0:
            return model
        training = model.task["training_hyperparameters"]
        longer = {**training, "n_epochs": str(int(training["n_epochs"]) + turn)}
        return replace(
            model,
            name=f"{model.name}{turn + 1}",
            hypothesis=f"{model.hypothesis} More epochs help it (take {turn + 1}).",
            task={**model.task, "training_hyperparameters": longer},
        )
