"""The time that a job may take, and what of it a stage gets."""

from __future__ import annotations

import math
import re

from rdagent_sota_bridge.errors import JobError
from rdagent_sota_bridge.run.job import FACTORS, Job

_FORM = re.compile(r"\s*(\d*\.?\d+)\s*([smhd])\s*")  # `log/timer.py`, 0.8.0 and 1.0.0, with the unit required
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 3650 * 86400.0  # RD-Agent adds it to a date

FACTOR_WEIGHT, MODEL_WEIGHT = 3, 2
"""How long a factor loop takes against a model loop: 30 to 60 minutes against 20 to 40, on real data."""


def seconds_of(text: str) -> float:
    """Return the seconds that a duration of RD-Agent's form says, such as `12h`, `30m`, `90s` or `1.5d`.

    RD-Agent ignores a text of another form in silence, and takes a number without a unit for seconds.

    Raises:
        JobError: for any other text.
    """
    found = _FORM.fullmatch(text)
    seconds = math.nan if found is None else float(found[1]) * _UNITS[found[2]]
    if not 1 <= seconds <= _LONGEST:
        raise JobError(
            f"--all-duration is no duration: {text!r}",
            "option --all-duration",
            "write it as 12h, 30m, 90s or 1.5d",
        )
    return seconds


def left(job: Job) -> float | None:
    """Return the seconds that a job has left; None for one without a limit. Pauses don't count."""
    if not job.options.all_duration:
        return None
    return seconds_of(job.options.all_duration) - sum(stage.seconds for stage in job.stages)


def share(job: Job, name: str) -> float | None:
    """Return the seconds that a stage gets of those left, so that those after it keep theirs; None: no limit.

    By the loops of the stages that have not ended, a factor loop counting more. What a stage leaves unused
    passes on.

    A stage that goes on from a session gets what that session has left instead: RD-Agent keeps the timer in
    it and ignores the option then (`LoopBase.load` and `run`, `utils/workflow/loop.py`, 0.8.0 and 1.0.0). The
    step that is done again after a kill is not counted twice there, so such a stage may take longer than its
    share, by about a step; the job's own count is of all the time that it ran, and the stages after it get
    less.
    """
    remaining = left(job)
    if remaining is None:
        return None
    weights = {
        stage.name: stage.loops * (FACTOR_WEIGHT if stage.name == FACTORS else MODEL_WEIGHT)
        for stage in job.stages
        if stage.state != "ended" or stage.name == name
    }
    return remaining * weights[name] / sum(weights.values())


def shown(seconds: float) -> str:
    """Return a time as people read it: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 60:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
