"""Runs in Qlib's environment: makes plain files of a recorded model, and predicts with these alone.

In the folder are `params.pkl`, `dataset` and `pred.pkl` as Qlib recorded them, the plain files that need no
Qlib: `task.yaml`, `model.py` and `predict.py`, and `sota_request.json` with the `columns`.
"""

import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch


def _fitted(processor: Any) -> Any:
    """Return what a processor has of numbers and columns; all else it gets from its arguments."""
    found = {}
    for name, value in vars(processor).items():
        if isinstance(value, (np.ndarray, np.generic, pd.Index)):
            array = np.array(value.tolist()) if isinstance(value, pd.Index) else np.asarray(value)
            found[name] = {"dtype": array.dtype.str, "values": array.tolist()}
    return found


# Qlib's own way; the model's code is run in any case.
model, handler = pd.read_pickle("params.pkl"), pd.read_pickle("dataset").handler  # noqa: S301
torch.save({name: value.cpu() for name, value in model.dnn_model.state_dict().items()}, "weights.pt")
fitted = json.loads(Path("sota_request.json").read_text(encoding="utf-8"))
kinds = ("shared_processors", "infer_processors")
fitted["processors"] = {kind: [_fitted(one) for one in getattr(handler, kind)] for kind in kinds}
Path("fitted.json").write_text(json.dumps(fitted, indent=1), encoding="utf-8")
pd.read_pickle("pred.pkl")[["score"]].to_parquet("recorded.parquet")  # noqa: S301
# In a process that has never seen the recorded network: what its weights do not hold is not there.
subprocess.run([sys.executable, "predict.py", "combined_factors_df.parquet", "scores.parquet"], check=True)
versions = {name: metadata.version(name) for name in ("pyqlib", "torch", "pandas", "numpy")}
versions["python"] = platform.python_version()
Path("sota_answer.json").write_text(json.dumps(versions), encoding="utf-8")
