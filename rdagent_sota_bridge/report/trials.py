"""How much was tried on a test segment: the more, the higher is the best by luck alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rdagent_sota_bridge.factor_set import sessions
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, logs
from rdagent_sota_bridge.qlib_files import training_record
from rdagent_sota_bridge.qlib_files.model_yaml import Segment
from rdagent_sota_bridge.report import history

SHARPE = "1day.excess_return_with_cost.information_ratio"
"""Qlib's name of the Sharpe ratio of the excess return, of a year of `YEAR` days."""

YEAR = 238
"""Days of a year, as Qlib counts them (`contrib/evaluate.py`, pyqlib 0.9.7)."""


@dataclass(frozen=True)
class Trials:
    """What a project's runs tried on a test segment, whatever the verdict.

    Attributes:
        models: How many models.
        factors: How many factors.
        variance: Of the daily Sharpe ratios of their back-tests; NaN where fewer than two are known.
    """

    models: int
    factors: int
    variance: float


def count(named: Iterable[Path], segment: Segment, notes: list[str]) -> Trials:
    """Return what was tried on a segment by runs and all others of their projects.

    A trial whose workspace is gone counts: its segment is not known to be another. One that left no training
    does not: it was never scored there.

    Args:
        named: Log folders of runs.
        segment: The test segment.
        notes: Takes what can't be read.
    """
    beside = (log for folder in named for log in (folder, *logs(folder.parent.parent)))
    models = factors = 0
    ratios = []
    for log in dict.fromkeys(beside):
        with history.noting(notes, f"What {log.name} tried"):
            for one in sessions.read_session(log).experiments:
                place = next((it for it in sessions.workspaces_of(one, log) if it.is_dir()), None)
                if place is not None:
                    record = training_record.read(place)
                    if record is None or (record.task and not share_a_day(record.task.test, segment)):
                        continue
                    ratios.append(training_record.metrics_beside(place / FACTOR_FILE).get(SHARPE, math.nan))
                models, factors = models + (not one.is_factor), factors + len(one.factor_names)
    known = np.array(ratios)[np.isfinite(ratios)] / YEAR**0.5
    return Trials(models, factors, float(known.var(ddof=1)) if len(known) > 1 else math.nan)


def share_a_day(one: Segment, other: Segment) -> bool:
    """Return whether two segments overlap; an open end (NaT) reaches everywhere."""
    return not (one[1] < other[0] or other[1] < one[0])
