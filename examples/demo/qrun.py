"""Runs Qlib's qrun without torch's processes that load data; once more where Qlib's logging raced.

`python -m qlib.cli.run` is what the `qrun` script of pyqlib 0.9.7 calls. RD-Agent's templates ask torch for
20 processes that load the data (`n_jobs`), and Qlib starts them three times an epoch: on two cores that took
a third of a small training's time (13 of 35 seconds). Here the training loads its data itself: the same
batches in the same order, for their order is drawn in the training's own process. Nor is torch's compiler
imported, a second of each training: an optimizer asks it no more than to leave its own methods alone.
"""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from types import ModuleType
from typing import Any

_TRAIN = "--train"


def _train() -> None:
    sys.path[0] = ""  # as with `python -m`: the model's code lies in the current folder
    from torch.utils.data import DataLoader

    original = DataLoader.__init__

    def init(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **{**options, "num_workers": 0})

    DataLoader.__init__ = init  # type: ignore[method-assign]
    # What `torch/_compile.py` and `torch/optim/optimizer.py` (2.13.0) take from there.
    compiler: Any = ModuleType("torch._dynamo")
    compiler.disable = lambda function, *_, **__: function
    compiler.graph_break = lambda: None
    sys.modules[compiler.__name__] = compiler
    del sys.argv[1]
    runpy.run_module("qlib.cli.run", run_name="__main__", alter_sys=True)


def _run() -> subprocess.CompletedProcess[str]:
    command = [sys.executable, __file__, _TRAIN, *sys.argv[1:]]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )


if sys.argv[1:2] == [_TRAIN]:
    _train()
else:
    done = _run()
    if done.returncode != 0 and re.search("Metric '.*' is malformed", done.stdout):
        sys.stdout.write("qrun died of a race of Qlib's asynchronous logging; it is run once more\n")
        done = _run()
    # Only the last attempt's output: with the traceback of the race on top the text is so long that RD-Agent
    # asks the LLM which parts of it to leave out (`rdagent/utils/__init__.py`, 0.8.0 and 1.0.0).
    sys.stdout.write(done.stdout)
    sys.exit(done.returncode)
