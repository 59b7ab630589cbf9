"""Runs in Qlib's environment: the segments of a walk forward, by Qlib's own `RollingGen`.

In the folder is `sota_request.json`: `qlib_init`, `segments`, and the arguments `step` and `trunc_days`.
"""

import json
from pathlib import Path

import pandas as pd
import qlib
from qlib.workflow.task.gen import RollingGen

asked = json.loads(Path("sota_request.json").read_text(encoding="utf-8"))
qlib.init(**asked["qlib_init"])
generator = RollingGen(step=asked["step"], trunc_days=asked["trunc_days"])
# A piece that begins behind the calendar ends the walk; one on its very end is a TypeError (pyqlib 0.9.7).
known = list(generator.ta.cals)
generator.ta.cals = known + list(pd.date_range(known[-1], periods=2 * asked["step"] + 1))[1:]
segments = {name: tuple(days) for name, days in asked["segments"].items()}
pieces = [
    task["dataset"]["kwargs"]["segments"]
    for task in generator.generate({"dataset": {"kwargs": {"segments": segments}}})
]
text = json.dumps([{name: [str(day.date()) for day in days] for name, days in one.items()} for one in pieces])
Path("sota_answer.json").write_text(text, encoding="utf-8")
