"""Runs in Qlib's environment: the predictions of a recorded model, on data as they are now.

The data set is built from its recorded configuration, and the processors that were fitted in the training are
taken from the recorded data set, and applied (`qlib/data/dataset/handler.py`, pyqlib 0.9.7). In the folder
are `sota_predict.json` (`qlib_init` and `dataset`), `dataset`, `params.pkl`, and what these need.
"""

import json
import pickle
from pathlib import Path

import pandas as pd
import qlib
from qlib.data.dataset.handler import DataHandlerLP
from qlib.utils import init_instance_by_config

config = json.loads(Path("sota_predict.json").read_text(encoding="utf-8"))
qlib.init(**config["qlib_init"])
with Path("dataset").open("rb") as file:
    recorded = pickle.load(file)  # noqa: S301 - Qlib's own way; the model's code is run in any case
with Path("params.pkl").open("rb") as file:
    model = pickle.load(file)  # noqa: S301

arguments = config["dataset"]["kwargs"]
arguments["handler"]["kwargs"]["init_data"] = False  # else it would be loaded twice, and processors fitted
handler = init_instance_by_config(arguments["handler"])
for name in ("shared_processors", "infer_processors", "learn_processors"):
    setattr(handler, name, getattr(recorded.handler, name))
handler.setup_data(init_type=DataHandlerLP.IT_LS)
arguments["handler"] = handler
model.n_jobs = 0  # RD-Agent asks for 20 processes, each of which fetches one row at a time
scores = model.predict(init_instance_by_config(config["dataset"]))
labels = handler.fetch(slice(*arguments["segments"]["test"]), col_set="label", data_key=DataHandlerLP.DK_R)
found = pd.DataFrame({"score": scores, "label": labels.iloc[:, 0].reindex(scores.index)})
found.to_parquet("sota_predictions.parquet")
