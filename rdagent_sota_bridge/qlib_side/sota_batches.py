"""Qlib's GeneralPTNN with its batches taken from memory: the `module_path` of the model in a hand-off's YAML.

Qlib starts `n_jobs` processes for every pass over the data, and each fetches one row at a time. Here torch's
own loader and sampler stay, so seeds, order and dropout are as they were, and only the dataset is another: it
gives all rows of a batch at once (`__getitems__`, torch 2.0). The class is Qlib's own, so `params.pkl` names
nothing of this file (`qlib/contrib/model/pytorch_general_nn.py` and `qlib/data/dataset/__init__.py`, pyqlib
0.9.7).

Writes into `sota_batches.json` whether it did so, or why not.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from qlib.contrib.model import pytorch_general_nn as qlib_model
from qlib.contrib.model.pytorch_general_nn import GeneralPTNN  # noqa: F401 - what the YAML asks for

_DataLoader: Any = getattr(qlib_model, "DataLoader", None)
_KNOWN = {"batch_size", "shuffle", "num_workers", "drop_last"}
_COMPARED = 16


class _Rows:
    """An array, taken by many places at once."""

    def __init__(self, array: Any) -> None:
        self.values = torch.from_numpy(np.ascontiguousarray(array))

    def take(self, places: Any) -> Any:
        return self.values[torch.as_tensor(places)]


class _Windows:
    """A TSDataSampler, taken by many places at once: what `sampler[place]` gives for each, stacked."""

    def __init__(self, sampler: Any) -> None:
        self.values = torch.from_numpy(np.ascontiguousarray(sampler.data_arr))
        self.rows = sampler.idx_arr  # (days, instruments): the row of data_arr, NaN where there is none
        self.days, self.codes = (sampler.idx_map[:, axis].astype(np.int64) for axis in (0, 1))
        self.steps, self.none, self.fill = (
            np.arange(1 - sampler.step_len, 1),
            sampler.nan_idx,
            sampler.fillna_type,
        )
        if self.fill not in ("none", "ffill", "ffill+bfill"):
            raise ValueError(f"gaps are filled by {self.fill!r}")

    def take(self, places: Any) -> Any:
        days = self.days[places][:, None] + self.steps
        rows = self.rows[np.maximum(days, 0), self.codes[places][:, None]]
        rows[days < 0] = np.nan
        if self.fill != "none":
            rows = _filled(rows)
        if self.fill == "ffill+bfill":
            rows = _filled(rows[:, ::-1])[:, ::-1]
        return self.values[torch.from_numpy(np.nan_to_num(rows, nan=self.none).astype(np.int64))]


def _filled(rows: Any) -> Any:
    last = np.maximum.accumulate(np.where(np.isnan(rows), 0, np.arange(rows.shape[1])), axis=1)
    return np.take_along_axis(rows, last, axis=1)


class _InMemory(torch.utils.data.Dataset[Any]):
    """The data of a Qlib dataset, by batch; without weights a batch is a tensor alone."""

    def __init__(self, sources: Any, size: int, alone: bool) -> None:
        self.sources, self.size, self.alone = sources, size, alone

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, places: Any) -> Any:
        taken = [source.take(places) for source in self.sources]
        return taken[0] if self.alone else taken


def _in_memory(dataset: Any, how: Any) -> Any:
    """Return the dataset in memory; ValueError where something is not known."""
    from qlib.data.dataset import TSDataSampler  # here: a Qlib without them trains in its own way
    from qlib.model.utils import ConcatDataset

    if int(torch.__version__.split(".")[0]) < 2:
        raise ValueError(f"torch {torch.__version__} asks for one row at a time")
    if set(how) - _KNOWN or not how.get("batch_size"):
        raise ValueError("the loader is asked for {}".format(sorted(set(how) - _KNOWN) or "no batches"))
    alone = type(dataset) is not ConcatDataset
    parts = (dataset,) if alone else dataset.datasets
    sources = []
    for part in parts:
        is_windows = type(part) is TSDataSampler
        array = part.data_arr if is_windows else part
        if type(array) is not np.ndarray or array.dtype.kind != "f" or array.ndim > 2:
            raise ValueError(f"the data is a {type(part).__name__}")
        sources.append(_Windows(part) if is_windows else _Rows(part))
    # Another Qlib may mean another thing by the same names: then it costs speed, and no batch is wrong.
    few = sorted({round(i * (len(dataset) - 1) / (_COMPARED - 1)) for i in range(_COMPARED)})
    for part, source in zip(parts, sources):  # noqa: B905 - Python 3.8 has no strict
        taken, own = source.take(few).numpy(), np.stack([part[i] for i in few])
        if taken.dtype != own.dtype or taken.tobytes() != own.tobytes():
            raise ValueError(f"{type(part).__name__} gives other values one by one")
    return _InMemory(sources, len(dataset), alone)


def _loader(dataset: Any, **how: Any) -> Any:
    """Return `DataLoader(dataset, **how)`; where the data is known, one that gives the same batches."""
    try:
        held = _in_memory(dataset, how)
    except Exception as error:  # whatever it is, RD-Agent's own way trains, and the manifest says why
        _say({"loader": str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"})
        return _DataLoader(dataset, **how)
    return _DataLoader(held, **{**how, "num_workers": 0}, collate_fn=_as_taken)


def _as_taken(batch: Any) -> Any:
    return batch


def _say(answer: Any) -> None:
    Path("sota_batches.json").write_text(json.dumps(answer), encoding="utf-8")


if _DataLoader is None:
    _say({"loader": "Qlib's GeneralPTNN has no DataLoader"})
else:
    qlib_model.DataLoader = _loader
    _say({"batches": "memory"})
