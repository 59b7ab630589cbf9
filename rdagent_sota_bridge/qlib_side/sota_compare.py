"""Runs where RD-Agent starts Qlib: trains models on the base set with and without the mined columns.

Reads, in the current folder, `sota_request.json`, the YAML of RD-Agent's models (`model.yaml`) and that of
its LightGBM (`lightgbm.yaml`), both rendered as qrun does, and `model.py` where there is one. Writes into
`sota_answer.json` the daily IC and rank IC in the test segment, by model and columns, or why a net is
refused.
"""

from __future__ import annotations

import copy
import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import qlib
from qlib.cli.run import render_template
from qlib.contrib.eva.alpha import calc_ic
from qlib.data.dataset import DatasetH
from qlib.data.dataset.handler import DataHandlerLP
from qlib.utils import init_instance_by_config
from ruamel.yaml import YAML

ALPHA = 1.0  # of the ridge regression, scikit-learn's default

_BOTH = ["feature", "label"]


def compared(asked: Any) -> Any:
    """Return IC and rank IC, by model, columns and metric, or why the net is refused."""
    config, lightgbm = (read_config(name) for name in ("model.yaml", "lightgbm.yaml"))
    dataset, segments = config["task"]["dataset"], config["task"]["dataset"]["kwargs"]["segments"]
    models: Any = {"Ridge": ridge, "LightGBM": functools.partial(boosted, config=lightgbm["task"]["model"])}
    if Path("model.py").exists():
        models["model"] = functools.partial(_net, config=config["task"])
        for columns in asked["columns"].values():
            if why := _misfit(config["task"], len(columns)):
                return {"refused": why}
    qlib.init(**config["qlib_init"])
    handler = dataset["kwargs"].pop("handler")
    for loader in handler["kwargs"]["data_loader"]["kwargs"]["dataloader_l"][1:]:
        loader["kwargs"]["config"] = asked["set"]
    _say("Qlib loads the base set and the mined columns")
    whole = init_instance_by_config(handler)
    label = DatasetH(whole, segments).prepare("test", col_set="label", data_key=DataHandlerLP.DK_R).iloc[:, 0]
    answer: Any = {name: {} for name in models}
    for which, columns in asked["columns"].items():
        data = DatasetH(of_columns(whole, columns), segments)
        for name, train in models.items():
            _say(f"{name} on {len(columns)} columns ({which})")
            answer[name][which] = _daily(train(data), label)
    return answer


def read_config(name: str) -> Any:
    """Return a YAML as qrun reads it."""
    return YAML(typ="safe", pure=True).load(render_template(name))


def of_columns(handler: Any, columns: Any) -> Any:
    """Return a handler with some features of another; its processors work by column, so values stay.

    To 2e-6: Qlib scales features in float32 where there are no others, and in float64 beside mined columns.
    """
    part = copy.copy(handler)
    for name in ("_learn", "_infer"):  # `qlib/data/dataset/handler.py`, pyqlib 0.9.7
        whole = getattr(handler, name)
        labels = [column for column in whole.columns if column[0] != "feature"]
        setattr(part, name, whole[[("feature", column) for column in columns] + labels])
    return part


def ridge(data: Any) -> Any:
    """Return what a ridge regression predicts in the test segment."""
    from sklearn.linear_model import Ridge

    train = data.prepare("train", col_set=_BOTH, data_key=DataHandlerLP.DK_L)
    model = Ridge(alpha=ALPHA).fit(train["feature"].to_numpy(np.float64), train["label"].to_numpy()[:, 0])
    test = data.prepare("test", col_set="feature", data_key=DataHandlerLP.DK_I)
    return pd.Series(model.predict(test.to_numpy(np.float64)), test.index)


def boosted(data: Any, config: Any) -> Any:
    """Return what LightGBM predicts, trained as by `LGBModel` (`qlib/contrib/model/gbdt.py`, pyqlib 0.9.7).

    Qlib's own `fit` writes every round to mlflow.
    """
    import lightgbm

    asked = init_instance_by_config(config)
    threads = len(os.sched_getaffinity(0))  # RD-Agent asks for 20; more than there are cost time alone
    parameters = {**asked.params, "num_threads": min(asked.params.get("num_threads", threads), threads)}
    train, valid = (
        lightgbm.Dataset(found["feature"].values, label=found["label"].values[:, 0])
        for found in data.prepare(["train", "valid"], col_set=_BOTH, data_key=DataHandlerLP.DK_L)
    )
    stop = lightgbm.early_stopping(asked.early_stopping_rounds, verbose=False)
    model = lightgbm.train(parameters, train, asked.num_boost_round, valid_sets=[valid], callbacks=[stop])
    test = data.prepare("test", col_set="feature", data_key=DataHandlerLP.DK_I)
    return pd.Series(model.predict(test.values), test.index)


def _net(data: Any, config: Any) -> Any:
    import torch

    np.random.seed(0)
    torch.manual_seed(0)
    config["model"]["kwargs"]["pt_model_kwargs"]["num_features"] = len(data.handler.get_cols("feature"))
    model = init_instance_by_config(config["model"])
    dataset = {**config["dataset"], "kwargs": {**config["dataset"]["kwargs"], "handler": data.handler}}
    own = init_instance_by_config(dataset)
    model.fit(own, save_path=str(Path("net.pt").resolve()))
    return model.predict(own)


def _misfit(config: Any, width: int) -> str:
    """Return why Qlib can't train the net: its loss takes no output but N x 1, and says nothing of others."""
    import torch

    named, steps = config["model"]["kwargs"], config["dataset"]["kwargs"].get("step_len")
    kwargs = {**named["pt_model_kwargs"], "num_features": width}
    shape = (7, steps, width) if steps else (7, width)
    try:
        net = init_instance_by_config({"class": named["pt_model_uri"], "kwargs": kwargs}).eval()
        with torch.no_grad():
            found = tuple(net(torch.randn(*shape)).shape)
    except Exception as error:  # whatever foreign code raises is the answer here
        return f"it can't be used: {type(error).__name__}: {error}"
    if found == (7, 1):
        return ""
    return f"its output for an input of {shape} has the shape {found}, not (7, 1): Qlib's loss would be wrong"


def _daily(prediction: Any, label: Any) -> Any:
    """Return IC and rank IC by day, as Qlib's `SigAnaRecord`; 0 where a model tells no two stocks apart."""
    found = pd.DataFrame(dict(zip(("IC", "rank IC"), calc_ic(prediction, label))))  # noqa: B905 - Python 3.8
    found[(prediction.groupby(level="datetime").nunique() == 1).reindex(found.index)] = 0.0
    found = found[(label.groupby(level="datetime").nunique() > 1).reindex(found.index)].dropna()
    return {"days": [str(day) for day in found.index], **{name: list(found[name]) for name in found}}


def _say(text: str) -> None:
    print(f"compare: {text}", flush=True)  # noqa: T201 - its output is read


if __name__ == "__main__":
    said = compared(json.loads(Path("sota_request.json").read_text(encoding="utf-8")))
    Path("sota_answer.json").write_text(json.dumps(said), encoding="utf-8")
