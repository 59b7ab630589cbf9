"""The provenance record beside each model run, and the lines that let Qlib's environment contribute to it."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rdagent_sota_bridge.errors import HandOffError
from rdagent_sota_bridge.files import write_whole

MANIFEST_FILE = "sota_manifest.json"
LOADED_FILE = "sota_loaded.json"
MANIFEST_VERSION = 1

_MARK = "# rdagent-sota-bridge: what Qlib loaded"

# Runs in Qlib's environment, which may be Python 3.8 or a container, at the end of RD-Agent's own
# `read_exp_res.py`: there `latest_recorder` is the run that was just back-tested. RD-Agent has written its
# results by then, so a failure here costs it nothing.
_PROBE = f'''

{_MARK}
def _sota_loaded(recorder):
    import importlib, json, os, platform

    import numpy as np

    dataset = recorder.load_object("dataset")
    chain = list(dataset.handler.infer_processors)
    norms = [i for i, p in enumerate(chain) if hasattr(p, "mean_train") and hasattr(p, "cols")]
    if norms:
        norm = chain[norms[0]]
        columns = [str(column[-1]) for column in norm.cols]
        empty = [name for name, mean in zip(columns, np.ravel(norm.mean_train)) if np.isnan(mean)]
        # What chooses columns after the norm has seen them.
        for p in chain[norms[0] + 1 :] + list(getattr(dataset.handler, "learn_processors", [])):
            named = set(map(str, getattr(p, "col_list", ())))
            if type(p).__name__ == "FilterCol" and p.fields_group in ("feature", None):
                columns = [name for name in columns if name in named]
            elif type(p).__name__ == "DropCol":
                columns = [name for name in columns if name not in named]
        empty = [name for name in empty if name in columns]
        width = [v for k, v in recorder.list_params().items() if k.endswith("pt_model_kwargs.num_features")]
    else:  # LightGBM, in a factor loop: its own count of features is all that is kept
        columns, empty = None, []
        width = [recorder.load_object("params.pkl").model.num_feature()]
    versions = {{"python": platform.python_version()}}
    for name in ("qlib", "pandas", "pyarrow", "numpy", "torch"):
        try:
            versions[name] = str(importlib.import_module(name).__version__)
        except ImportError:
            pass
    loaded = {{
        "recorder": recorder.info["id"],
        "columns": columns,
        "columns_without_training_values": empty,
        "num_features": int(width[0]) if width else None,
        "versions": versions,
    }}
    with open("{LOADED_FILE}.tmp", "w", encoding="utf-8") as file:
        json.dump(loaded, file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace("{LOADED_FILE}.tmp", "{LOADED_FILE}")


_sota_loaded(latest_recorder)
'''


def with_probe(script: str, note: str) -> str:
    """Return RD-Agent's `read_exp_res.py` with the lines at its end that write `LOADED_FILE`; once.

    Args:
        script: RD-Agent's script, or one that has the lines already.
        note: A line of comment for its end. It makes the script differ where the set differs: RD-Agent's key
            for a cached qrun (`utils/env.py`, `ENABLE_CACHE`) has the text of Python files, in 0.8.0 of those
            and not of the YAML.
    """
    return f"{script.partition(_MARK)[0].rstrip()}\n{_PROBE}# {note}\n"


@dataclass(frozen=True)
class Loaded:
    """What Qlib loaded and trained on, from the artifacts of its own run.

    Attributes:
        columns: The features' names as the network got them, in order; None for LightGBM, which keeps none.
        columns_without_training_values: Those without a single value in the training segment.
        num_features: The input width that Qlib recorded for the model, or None if it recorded none; the
            number of features that LightGBM was trained on.
        versions: Versions in Qlib's environment.
    """

    columns: tuple[str, ...] | None
    columns_without_training_values: tuple[str, ...]
    num_features: int | None
    versions: dict[str, str]

    def as_record(self) -> dict[str, Any]:
        """Return it as the manifest shows it."""
        return {
            "columns": None if self.columns is None else list(self.columns),
            "columns_without_training_values": list(self.columns_without_training_values),
            "num_features": self.num_features,
        }


def read_loaded(workspace: Path) -> Loaded | None:
    """Return what the probe wrote into a model workspace, or None if it wrote nothing."""
    file = workspace / LOADED_FILE
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    return Loaded(
        None if content["columns"] is None else tuple(content["columns"]),
        tuple(content["columns_without_training_values"]),
        content["num_features"],
        content["versions"],
    )


def check_loaded(loaded: Loaded, base: tuple[str, ...], mined: tuple[str, ...], workspace: Path) -> None:
    """Check that Qlib loaded exactly the base and mined columns, and that the network is that wide.

    One mined column without values in the training segment may be so in the file; if all are, they got lost.

    Raises:
        HandOffError: if not; then the result in the workspace is not what the run would claim.
    """
    expected = sorted({*base, *mined})
    problems = []
    if loaded.columns is not None and sorted(loaded.columns) != expected:
        missing = sorted(set(expected) - set(loaded.columns))
        extra = sorted(set(loaded.columns) - set(expected))
        problems.append(
            f"Qlib loaded {len(loaded.columns)} columns; missing: {missing}, not asked for: {extra}"
        )
    columns = expected if loaded.columns is None else loaded.columns
    if loaded.num_features not in (None, len(columns)):
        problems.append(f"the network is {loaded.num_features} wide for {len(columns)} columns")
    if set(mined) <= set(loaded.columns_without_training_values):
        problems.append(f"no value of the {len(mined)} mined columns reached the training segment")
    if problems:
        raise HandOffError(
            "The model was not trained on the factors: " + "; ".join(problems),
            str(workspace),
            "keep this folder and report it; the run stops, for its result is not what it would claim",
        )


def versions(
    names: tuple[str, ...] = ("rdagent-sota-bridge", "rdagent", "pandas", "pyarrow"),
) -> dict[str, str]:
    """Return the versions of Python and of those distributions that are installed here."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_manifest(workspace: Path, record: dict[str, Any]) -> Path:
    """Write the manifest of a model run into its workspace, whole or not at all, and return its path.

    Raises:
        TypeError, ValueError: if the record holds what JSON can't, NaN included; nothing is written then.
    """
    target = workspace / MANIFEST_FILE
    text = json.dumps(
        {"manifest_version": MANIFEST_VERSION, **record}, ensure_ascii=False, indent=2, allow_nan=False
    )
    write_whole(target, text + "\n")
    return target
