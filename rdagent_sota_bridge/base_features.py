"""The values of a base set's features: Qlib's own engine computes them, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge import child
from rdagent_sota_bridge.qlib_side import base_features as script

INSTALL = "pip install 'rdagent-sota-bridge[report]'"
"""What brings Qlib into this environment."""

CELLS = 4_000_000
"""So many (feature, day, instrument) are computed at a time: Qlib's own frame of them takes 100 MB."""

_KERNELS = 2
_SECONDS = 600.0
_OUTPUT = "output.txt"


@dataclass(frozen=True, eq=False)
class BaseFeatures:
    """What Qlib computed.

    Attributes:
        values: By feature, float32, (days, instruments); NaN where there is no finite value.
        note: What was not computed, and why; empty where all was.
    """

    values: dict[str, Any]
    note: str = ""


def values(
    base: Mapping[str, str], folder: Path, days: pd.DatetimeIndex, instruments: Sequence[str]
) -> BaseFeatures:
    """Compute features.

    Qlib's settings are global, and it leaves folders where it works: it runs in a child process, in a
    temporary folder. Two processes of it work at a time.

    Args:
        base: The expressions by name.
        folder: Qlib's data folder.
        days: Days of its calendar, ascending.
        instruments: The instruments.
    """
    if not base or not len(days) or not instruments:
        return BaseFeatures({})
    if find_spec("qlib") is None:
        return BaseFeatures(
            {}, f"The base features are not among them: Qlib's own engine computes them ({INSTALL})."
        )
    with tempfile.TemporaryDirectory(prefix="sota-base-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        request = {
            "provider_uri": str(folder.absolute()),
            "kernels": min(_KERNELS, os.cpu_count() or 1),
            "days": [str(day) for day in days],
            "instruments": list(instruments),
            "features": list(base.items()),
            "cells": CELLS,
        }
        (place / script.REQUEST).write_text(json.dumps(request), encoding="utf-8")
        failure = _run(place)
        if failure is not None:
            return BaseFeatures({}, f"The base features are not among them: Qlib says {failure}")
        refused = json.loads((place / script.ANSWER).read_text(encoding="utf-8"))["refused"]
        found = np.load(place / script.VALUES)
    found[~np.isfinite(found)] = np.nan
    names = [feature for feature in base if feature not in refused]
    note = f"Not computed, for they are no expressions of Qlib's: {', '.join(refused)}." if refused else ""
    return BaseFeatures(dict(zip(names, found, strict=True)), note)


def _run(folder: Path) -> str | None:
    """Let a child compute what the folder's request asks for; return why it did not, or None."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, str(Path(script.__file__).absolute())]
    with (
        (folder / _OUTPUT).open("wb") as output,
        child.started(command, environment, folder, output=output) as process,
    ):
        try:
            status = process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            return f"nothing within {_SECONDS:.0f} seconds"
    if status == 0:
        return None
    lines = (folder / _OUTPUT).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else f"nothing, and ended with status {status}"
