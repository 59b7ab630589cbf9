"""A report as JSON can hold it."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge.report import ablation, gather
from rdagent_sota_bridge.report.gather import Report
from rdagent_sota_bridge.report.statistics import estimate


def as_plain(report: Report) -> dict[str, Any]:
    """Return a report as JSON can hold it: NaN as None, days and paths as text, arrays as lists."""
    whole = dataclasses.asdict(dataclasses.replace(report, daily={}, pairs=()))
    del whole["daily"], whole["pairs"]  # what follows from these series is below
    for run, record in zip(report.runs, whole["runs"], strict=True):
        record |= {"role": gather.role(run), "judged": dataclasses.asdict(gather.judged(run))}
    whole["returns"] = [{"run": run, "loop": loop, **one} for (run, loop), one in whole["returns"].items()]
    whole["errors"] = [
        {"run": run, "loop": loop, "ic": dataclasses.asdict(estimate(daily.ic.to_frame()))}
        for (run, loop), daily in report.daily.items()
    ]
    said = ablation.difference(report.pairs)
    whole["difference"] = None if said is None else {**dataclasses.asdict(said), "answer": said.ic.answer}
    places = dict.fromkeys(pair.place for pair in report.pairs)
    seeds = [(place, ablation.over_seeds(report.pairs, place)) for place in places]
    whole["seeds"] = [
        {"run": run, "loop": loop, "ic": dataclasses.asdict(one)} for (run, loop), one in seeds if one
    ]
    whole["origins"] = [
        {"digest": digest, "column": column, **one} for (digest, column), one in whole["origins"].items()
    ]
    whole["tested_alike"] = gather.tested_alike(report.runs)
    whole["judged_alike"] = gather.judged_alike(report.runs)
    text = json.dumps(whole, default=_plain, ensure_ascii=False)
    text = text.encode("utf-8", "replace").decode()  # half of a surrogate pair is no character
    plain_report: dict[str, Any] = json.loads(text, parse_constant=lambda _: None)
    return plain_report


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return None if pd.isna(value) else value.isoformat()
    if isinstance(value, pd.DatetimeIndex):
        return list(value.strftime("%Y-%m-%d"))
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a report holds a {type(value).__name__}")
