"""Run in a Python with Qlib, beside `sota_batches.py`: its batches against those of Qlib's own loader.

`python trials.py` leaves what each kind of trial found, by case, in a folder of its name: `answer.json`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from qlib.contrib.model import pytorch_general_nn
from qlib.contrib.model.pytorch_general_nn import GeneralPTNN
from qlib.data.dataset import TSDataSampler, TSDatasetH
from qlib.model.utils import ConcatDataset

WORKERS = (2, 6)  # fewer than there are batches, and more
FILLS = ("none", "ffill", "ffill+bfill")
QLIBS_OWN = pytorch_general_nn.DataLoader


def table(days: int, names: int, kind: str, seed: int = 0, gaps: float = 0.3) -> pd.DataFrame:
    """Return features and a label by day and instrument, in random order of columns' values, with gaps."""
    random = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product(
        [pd.date_range("2020-01-01", periods=days), [f"SH{number}" for number in range(names)]],
        names=["datetime", "instrument"],
    )
    values = random.normal(size=(len(index), 4)).astype(kind)
    frame = pd.DataFrame(values, index, pd.MultiIndex.from_product([["x"], ["a", "b", "c", "label"]]))
    frame.iloc[random.random(len(index)) < 0.05, 1] = np.nan
    return frame[random.random(len(index)) >= gaps]


# --- trainings ---


class Net(torch.nn.Module):
    """A small network with dropout, for rows or for windows."""

    def __init__(self, windows: bool) -> None:
        super().__init__()
        self.windows = windows
        self.first = torch.nn.GRU(3, 4, batch_first=True) if windows else torch.nn.Linear(3, 4)
        self.dropout, self.last = torch.nn.Dropout(0.3), torch.nn.Linear(4, 1)

    def forward(self, x: Any) -> Any:
        """Return the scores, (batch, 1)."""
        x = torch.nan_to_num(x)
        held = self.first(x)[0][:, -1] if self.windows else self.first(x)
        return self.last(self.dropout(held))


class Rows:
    """Stands in for a DatasetH whose segments are ready."""

    def prepare(self, segment: str, **_: Any) -> pd.DataFrame:
        """Return the rows of a segment."""
        return table(12 if segment == "train" else 6, 8, "float32", seed=len(segment))


class Windows(TSDatasetH):
    """A TSDatasetH whose segments are ready."""

    def __init__(self) -> None:
        """Leave out the handler."""

    def prepare(self, segment: str, **_: Any) -> TSDataSampler:
        """Return the windows of a segment."""
        frame = table(12 if segment == "train" else 6, 8, "float32", seed=len(segment))
        return TSDataSampler(frame, frame.index[0][0], frame.index[-1][0], step_len=5)


def trained(windows: bool, workers: int) -> list[Any]:
    """Train, and return losses by epoch and a digest of the predictions and the weights."""
    torch.manual_seed(7)

    with mock.patch.object(pytorch_general_nn, "init_instance_by_config", lambda _: Net(windows)):
        model = GeneralPTNN(n_epochs=2, batch_size=16, n_jobs=workers, GPU=-1)
    data, losses = Windows() if windows else Rows(), {}
    model.fit(data, losses, save_path=str(Path("best.pt").absolute()))
    predictions = model.predict(data)
    weights = b"".join(value.numpy().tobytes() for value in model.dnn_model.state_dict().values())
    digest = hashlib.sha256(predictions.to_numpy().tobytes() + weights).hexdigest()
    return [losses["train"], losses["valid"], digest, len(predictions), str(predictions.index[-1])]


def trainings() -> dict[str, Any]:
    """Train rows and windows, from memory and with workers."""
    found: dict[str, Any] = {}
    for windows in (False, True):
        for workers in WORKERS:
            found[f"{windows} {workers}"] = trained(windows, workers)
    importlib.import_module("sota_batches")
    for windows in (False, True):
        with mock.patch(
            "torch.utils.data.dataloader._MultiProcessingDataLoaderIter", side_effect=SystemError
        ):
            found[f"{windows} memory"] = trained(windows, 20)
    return {**found, "said": json.loads(Path("sota_batches.json").read_text())}


# --- windows ---


def windows() -> dict[str, Any]:
    """Compare every window with the sampler's own."""
    module = importlib.import_module("sota_batches")
    found = {}
    for kind in ("float32", "float64"):
        for fill in FILLS:
            for steps in (1, 5, 20):
                for gaps in (0.0, 0.3, 0.9):
                    frame = table(15, 5, kind, seed=steps, gaps=gaps)
                    sampler = TSDataSampler(frame, "2020-01-04", "2020-01-13", steps, fill)
                    taken = module._Windows(sampler).take(list(range(len(sampler)))).numpy()
                    own = np.stack([sampler[place] for place in range(len(sampler))])
                    same = taken.dtype == own.dtype and taken.tobytes() == own.tobytes()
                    found[f"{kind} {fill} {steps} {gaps}"] = [same, len(sampler)]
    return found


# --- Qlib's own way ---


def own_ways() -> dict[str, Any]:
    """Ask for batches of what is not known, and return what was said, by case."""
    module = importlib.import_module("sota_batches")
    rows = table(6, 4, "float32").to_numpy()
    frame = table(6, 4, "float32")

    def sampler() -> TSDataSampler:
        return TSDataSampler(frame.copy(), frame.index[0][0], frame.index[-1][0], 3)

    class Subclass(TSDataSampler):
        """Another class, that may give other values."""

    def other_class() -> Any:
        found = sampler()
        found.__class__ = Subclass
        return found

    def without(name: str) -> Any:
        found = sampler()
        delattr(found, name)
        return found

    def filled_by(text: str) -> Any:
        found = sampler()
        found.fillna_type = text
        return found

    nothing = mock.patch.object(module, "_COMPARED", module._COMPARED)
    cases: dict[str, tuple[Any, dict[str, Any], Any]] = {
        "torch before 2.0": (rows, {}, mock.patch.object(torch, "__version__", "1.13.1+cpu")),
        "another argument": (rows, {"pin_memory": False}, nothing),
        "no batches": (rows, {"batch_size": None}, nothing),
        "a frame": (frame, {}, nothing),
        "integers": (np.arange(8), {}, nothing),
        "three dimensions": (np.zeros((4, 2, 2)), {}, nothing),
        "another sampler": (other_class(), {}, nothing),
        "an attribute is missing": (without("nan_idx"), {}, nothing),
        "another fill": (filled_by("mean"), {}, nothing),
        "a list of arrays": (ConcatDataset([1.0, 2.0], np.ones(2)), {}, nothing),
        "other values": (sampler(), {}, mock.patch.object(TSDataSampler, "__getitem__", lambda *_: rows[:3])),
        "no memory": (rows, {}, mock.patch.object(torch, "from_numpy", side_effect=MemoryError("no room"))),
    }
    found = {}
    for name, (data, how, patch) in cases.items():
        Path("sota_batches.json").unlink()
        with patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loader = pytorch_general_nn.DataLoader(data, **{"batch_size": 2, "num_workers": 3, **how})
        said = json.loads(Path("sota_batches.json").read_text())
        found[name] = [said, loader.dataset is data and loader.num_workers == 3]
    pytorch_general_nn.DataLoader = QLIBS_OWN
    del pytorch_general_nn.DataLoader
    importlib.reload(module)
    found["no such name"] = [
        json.loads(Path("sota_batches.json").read_text()),
        not hasattr(pytorch_general_nn, "DataLoader"),
    ]
    return found


if __name__ == "__main__":
    for kind, find in {"trainings": trainings, "windows": windows, "own ways": own_ways}.items():
        Path(kind).mkdir()
        if os.fork() == 0:  # the trials change Qlib's module, and its import takes seconds
            os.chdir(kind)
            Path("answer.json").write_text(json.dumps(find()))
            os._exit(0)
        assert os.wait()[1] == 0
