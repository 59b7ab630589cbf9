# rdagent-sota-bridge: what Qlib loaded
"""Runs at the end of RD-Agent's own `read_exp_res.py`: writes what Qlib loaded and trained on.

There `latest_recorder` is the run that was just back-tested. RD-Agent has written its results by then, so a
failure here costs it nothing.
"""

import contextlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any


def _sota_loaded(recorder: Any) -> None:
    import numpy as np  # here: of RD-Agent's script it changes no name

    dataset = recorder.load_object("dataset")
    chain = list(dataset.handler.infer_processors)
    norms = [i for i, p in enumerate(chain) if hasattr(p, "mean_train") and hasattr(p, "cols")]
    columns, empty, flat = None, [], None
    if norms:
        norm = chain[norms[0]]
        columns = [str(column[-1]) for column in norm.cols]
        empty = [name for name, mean in zip(columns, np.ravel(norm.mean_train)) if np.isnan(mean)]  # noqa: B905
        if any(kind.__name__ == "RobustZScoreNorm" for kind in type(norm).__mro__):
            # Its `fit` adds 1e-12 to the median absolute deviation (`qlib/data/dataset/processor.py`, 0.9.7).
            spreads = np.ravel(norm.std_train) / 1.4826 - 1e-12
            flat = [name for name, spread in zip(columns, spreads) if spread < 1e-11]  # noqa: B905
        # What chooses columns after the norm has seen them.
        for p in chain[norms[0] + 1 :] + list(getattr(dataset.handler, "learn_processors", [])):
            named = set(map(str, getattr(p, "col_list", ())))
            if type(p).__name__ == "FilterCol" and p.fields_group in ("feature", None):
                columns = [name for name in columns if name in named]
            elif type(p).__name__ == "DropCol":
                columns = [name for name in columns if name not in named]
        empty = [name for name in empty if name in columns]
        flat = flat and [name for name in flat if name in columns]
        width = [v for k, v in recorder.list_params().items() if k.endswith("pt_model_kwargs.num_features")]
    else:  # LightGBM, in a factor loop: its own count of features is all that is kept
        width = [recorder.load_object("params.pkl").model.num_feature()]
    versions = {"python": platform.python_version()}
    for name in ("pyqlib", "pandas", "pyarrow", "numpy", "torch"):  # not imported: torch takes a second
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name.replace("pyqlib", "qlib")] = metadata.version(name)
    loaded = {
        "recorder": recorder.info["id"],
        "columns": columns,
        "columns_without_training_values": empty,
        "columns_without_spread": flat,
        "num_features": int(width[0]) if width else None,
        "versions": versions,
    }
    temporary = Path("sota_loaded.json.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(loaded, file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace("sota_loaded.json")


_sota_loaded(latest_recorder)  # type: ignore[name-defined]  # noqa: F821
