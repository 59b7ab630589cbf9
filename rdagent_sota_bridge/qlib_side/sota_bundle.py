"""Predicts with the plain files beside it, pyqlib and torch: nothing of RD-Agent, and no pickle of a model.

python predict.py FACTORS.parquet SCORES.parquet [FIRST LAST]

The days are like 2026-01-31, both inclusive; without them they are those of the model's test. FACTORS has the
mined columns below `feature`, by datetime and instrument.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import qlib
import torch
from qlib.data.dataset.handler import DataHandlerLP
from qlib.utils import init_instance_by_config
from ruamel.yaml import YAML


def prepare(handler: Any) -> None:
    """Load the data, and apply what the processors were fitted to in the training."""
    fitted = json.loads(Path("fitted.json").read_text(encoding="utf-8"))
    for kind, processors in fitted["processors"].items():
        for processor, values in zip(getattr(handler, kind), processors):  # noqa: B905 - Python 3.8
            for name, value in values.items():
                array = np.array(value["values"], value["dtype"])
                setattr(processor, name, pd.MultiIndex.from_arrays(array.T) if name == "cols" else array)
    handler.setup_data(init_type=DataHandlerLP.IT_LS)
    if handler.get_cols("feature") != fitted["columns"]:
        sys.exit(f"The features are {handler.get_cols('feature')}, not as in fitted.json")


def network(described: Any) -> Any:
    """Return the model with its weights."""
    model = init_instance_by_config(described)
    model.dnn_model.load_state_dict(torch.load("weights.pt", weights_only=True))
    model.fitted, model.n_jobs = True, 0
    return model


def main(factors: str, scores: str, *days: str) -> None:
    """Predict, and write the scores."""
    config = YAML(typ="safe", pure=True).load(Path("task.yaml").read_text(encoding="utf-8"))
    qlib.init(**config["qlib_init"])
    data, wanted = config["dataset"]["kwargs"], config["dataset"]["kwargs"]["handler"]["kwargs"]
    for loader in wanted["data_loader"]["kwargs"]["dataloader_l"]:
        if loader["kwargs"]["config"] == "combined_factors_df.parquet":
            loader["kwargs"]["config"] = factors
    if days:
        data["segments"]["test"], wanted["end_time"] = days, days[1]
    wanted["init_data"] = False
    data["handler"] = init_instance_by_config(data["handler"])
    prepare(data["handler"])
    found = network(config["model"]).predict(init_instance_by_config(config["dataset"]))
    found.to_frame("score").to_parquet(scores)


if __name__ == "__main__":
    main(*sys.argv[1:])
