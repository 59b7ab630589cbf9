"""What `qrun` is in a loop of `loop.py`: Qlib's own, that writes what its phases took into phases.json.

No file of Qlib is changed: the methods that are the phases are wrapped before `qlib.cli.run` is run, which is
what the `qrun` script of pyqlib 0.9.7 calls. A phase's processors are those of the process and its children.
"""

from __future__ import annotations

import contextlib
import functools
import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import psutil

FILE = "phases.json"
PHASES: dict[str, list[float]] = {}


def spent() -> tuple[float, float]:
    """Return the time, and the seconds that processors have worked for this process and its children."""
    process, busy = psutil.Process(), 0.0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            busy += sum(one.cpu_times()[:4])
    return time.perf_counter(), busy


def timed(owner: type, name: str, phase: str) -> None:
    """Let a method of a class write down what it takes."""
    before = getattr(owner, name)

    @functools.wraps(before)
    def run(*args: Any, **kwargs: Any) -> Any:
        start = spent()
        result = before(*args, **kwargs)
        PHASES[phase] = [end - begin for end, begin in zip(spent(), start, strict=True)]
        return result

    setattr(owner, name, run)


if __name__ == "__main__":
    sys.path[0] = ""  # as with `python -m`: the model's code lies in the current folder
    from qlib.contrib.model.pytorch_general_nn import GeneralPTNN
    from qlib.data.dataset import DatasetH
    from qlib.workflow import record_temp

    timed(DatasetH, "__init__", "data set")
    timed(GeneralPTNN, "fit", "training")
    timed(record_temp.SignalRecord, "generate", "prediction")
    timed(record_temp.SigAnaRecord, "generate", "analysis")
    timed(record_temp.PortAnaRecord, "generate", "back-test")
    runpy.run_module("qlib.cli.run", run_name="__main__", alter_sys=True)
    Path(FILE).write_text(json.dumps(PHASES), encoding="utf-8")
