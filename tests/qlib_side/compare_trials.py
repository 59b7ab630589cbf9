"""A script beside `sota_compare.py`: its data and LightGBM against those of data sets that Qlib makes itself.

`asked.json` has the columns of each training; `base.yaml` and `mined.yaml` are the YAML of either one alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import qlib
import sota_compare  # type: ignore[import-not-found]
from qlib.contrib.model import gbdt
from qlib.data.dataset import DatasetH
from qlib.utils import init_instance_by_config


class _NoRecorder:
    def log_metrics(self, **_: Any) -> None:
        pass


gbdt.R = _NoRecorder()  # Qlib's LGBModel writes every round to mlflow
asked = json.loads(Path("asked.json").read_text(encoding="utf-8"))
whole_config = sota_compare.read_config("model.yaml")
lightgbm = sota_compare.read_config("lightgbm.yaml")["task"]["model"]
qlib.init(**whole_config["qlib_init"])
dataset = whole_config["task"]["dataset"]["kwargs"]
whole = init_instance_by_config(dataset["handler"])
found: dict[str, Any] = {"parameters": lightgbm["kwargs"]}
for which, columns in asked["columns"].items():
    part = DatasetH(sota_compare.of_columns(whole, columns), dataset["segments"])
    alone = init_instance_by_config(sota_compare.read_config(f"{which}.yaml")["task"]["dataset"])
    apart = []
    for segment, key in (("train", "learn"), ("valid", "learn"), ("test", "infer")):
        ours, its = (
            one.prepare(segment, col_set=["feature", "label"], data_key=key) for one in (part, alone)
        )
        apart.append(np.abs(ours.values - its.values).max() if ours.index.equals(its.index) else np.inf)
    model = init_instance_by_config(lightgbm)
    model.fit(alone)
    ours, its = sota_compare.boosted(part, lightgbm), model.predict(alone)
    found[which] = {
        "columns": alone.handler.get_cols(),
        "apart": float(max(apart)),
        "predictions": ours.index.equals(its.index) and np.array_equal(ours.values, its.values),
        "varies": float(its.std()),
    }
Path("found.json").write_text(json.dumps(found), encoding="utf-8")
