"""What came of a stage: by the manifests of its models, and by what the session's runner carries."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from rdagent_sota_bridge.bridge.plan import RUNNER_ATTRIBUTE
from rdagent_sota_bridge.errors import JobError
from rdagent_sota_bridge.factor_set import safe_pickle, sessions
from rdagent_sota_bridge.report import history
from rdagent_sota_bridge.run.job import MODELS, TITLES, Job


def check(job: Job, name: str, log: Path) -> None:
    """Check that each model of a stage was trained on the job's set, or on none in the factor stage.

    And that none saw a day of the job's holdout.

    Args:
        job: The job.
        name: The stage; it has ended.
        log: Its log folder.

    Raises:
        JobError: if not.
        SessionError: if the stage left no session, or none that can be read.
    """
    digest = job.factor_set.digest if name == MODELS and job.factor_set is not None else ""
    loops = [loop for loop in history.read_run(log).loops if loop.metrics]
    if strange := _strange_days(job, name, loops):
        raise JobError(
            f"The {TITLES[name]} was to see days up to its test end alone, and Qlib recorded otherwise: "
            f"{', '.join(strange)}",
            str(log),
            "begin a new job with --new, once nothing gives RD-Agent other dates (a line of .env that a fork "
            "loads, a fork's own code)",
        )
    found = [(loop, _digest(loop.manifest)) for loop in loops]
    misfits = [(loop, has) for loop, has in found if has != digest]
    if not all(has for _, has in misfits) and without_factors(log):
        misfits = [(loop, has) for loop, has in misfits if has]
    if misfits:
        raise JobError(
            f"The {TITLES[name]} was to train on {f'the set {digest}' if digest else 'no factor set'}, and "
            f"its models' manifests say otherwise: {', '.join(_misfit(*misfit) for misfit in misfits)}",
            str(log),
            "begin a new job with --new, once nothing gives RD-Agent other factors (a wrapper around "
            "`rdagent`, a fork's own code)",
        )


def _strange_days(job: Job, name: str, loops: Iterable[history.Loop]) -> list[str]:
    """Return the loops of a stage whose recorded segments are not as the job has set them, and what they saw.

    RD-Agent's cache of results leaves no record: it is the job's own, and was filled by loops that have one.
    """
    if job.holdout is None:
        return []
    wanted, found = pd.Timestamp(job.holdout.test_ends[name]), []
    for loop in loops:
        task = None if loop.record is None else loop.record.task
        if task is None and loop.cached:
            continue
        ends = {} if task is None else {part: end for part, (_, end) in task.segments.items()}
        if not (ends and ends.get("test") == wanted == max(ends.values())):
            saw = ", ".join(f"{part} to {str(end)[:10]}" for part, end in ends.items())
            found.append(f"loop {loop.number} {saw or 'on days that nobody knows'}")
    return found


def _misfit(loop: history.Loop, has: str) -> str:
    known = has or "none" if loop.workspace else "what nobody knows, for its workspace is gone"
    return f"loop {loop.number} on {known}"


def without_factors(log: Path) -> str:
    """Return why the run of a log goes on without the factors, by SOTA_ON_ERROR=baseline; empty if not.

    Raises:
        SessionError: if the log has no session that can be read.
    """
    loop: Any = safe_pickle.load_logged(sessions.read_session(log).file)
    plan = getattr(getattr(loop, "runner", None), RUNNER_ATTRIBUTE, None) or {}
    return str(plan.get("reason", ""))


def _digest(manifest: dict[str, Any] | None) -> str:
    """Return what a manifest names; empty for no manifest, and for one that names no set `unknown`."""
    if manifest is None:
        return ""
    held = manifest.get("factor_set")
    return str(held.get("digest", "unknown")) if isinstance(held, dict) else "unknown"
