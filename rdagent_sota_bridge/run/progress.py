"""Where a stage is: from the names of the session files that RD-Agent leaves after each step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from rdagent_sota_bridge.errors import SessionError
from rdagent_sota_bridge.factor_set import sessions
from rdagent_sota_bridge.factor_set.names import SESSION_FOLDER
from rdagent_sota_bridge.run.job import FACTORS, MODELS, Job

STEPS = ("direct_exp_gen", "coding", "running", "feedback", "record")
"""The steps of a loop (`components/workflow/rd_loop.py`, 1.0.0); 0.8.0 has all but the last."""

BACK_TEST = "running"
"""The step after which a loop has metrics."""


class Done(NamedTuple):
    """A step that is done: `__session__/<loop>/<number of the step>_<step>`, both counted from 0."""

    when: float  # the file was written, in seconds
    loop: int
    number: int
    step: str
    file: Path


class Position(NamedTuple):
    """Where a stage is.

    Of several loops at once, `loop` is the last that took a step, from 0. `step` is the one that is being
    done, or empty after one of an unknown name; `finished` and `back_tests` count loops.
    """

    loop: int
    step: str
    finished: int
    back_tests: int


class Resume(NamedTuple):
    """The session file that a stage is resumed from, or None; how many loops it has finished; and a note.

    The note says why it is not the newest one, and is empty where it is.
    """

    file: Path | None
    finished: int = 0
    note: str = ""


def steps_done(log: Path) -> list[Done]:
    """Return the steps that a log folder holds, in the order that they were done."""
    found = []
    for file in (log / SESSION_FOLDER).glob("*/*_*"):
        match = re.fullmatch(r"(\d+)_(.+)", file.name)
        if match is not None and file.parent.name.isdecimal():
            try:
                when = file.stat().st_mtime
            except FileNotFoundError:  # RD-Agent removes some when it resumes from an earlier one
                continue
            found.append(Done(when, int(file.parent.name), int(match[1]), match[2], file))
    return sorted(found)


def finished_loops(log: Path) -> int:
    """Return how many loops of a log folder have taken their last step."""
    return len(_finished(steps_done(log)))


def _finished(done: list[Done]) -> set[int]:
    recorded = {one.loop for one in done if one.step == STEPS[-1]}
    # Where nothing was recorded the run is one of 0.8.0, or of a moment between the two steps.
    return recorded or {one.loop for one in done if one.step == STEPS[-2]}


def logs(job: Job) -> list[Path]:
    """Return the logs of a job that hold a step: of its set, where it was named, and of its stages."""
    given = [] if job.factor_set is None else map(Path, job.factor_set.logs)
    own = (job.log(name) for name in (FACTORS, MODELS))
    return [log for log in dict.fromkeys([*given, *own]) if log is not None and steps_done(log)]


def position(done: list[Done]) -> Position:
    """Return where a stage is that has done these steps."""
    finished = _finished(done)
    back_tests = len({one.loop for one in done if one.step == BACK_TEST})
    others = [one for one in done if one.loop not in finished]
    if not others:
        return Position(max(finished, default=-1) + 1, STEPS[0], len(finished), back_tests)
    last = others[-1]
    step = STEPS[STEPS.index(last.step) + 1] if last.step in STEPS else ""
    return Position(last.loop, step, len(finished), back_tests)


def where_to_resume(log: Path) -> Resume:
    """Return the newest session of a log folder that can be read whole.

    RD-Agent writes its sessions in place (`LoopBase.dump`, `utils/workflow/loop.py`, 0.8.0 and 1.0.0), so a
    kill can leave the newest one cut off, and its own `load` of the folder stops at that. The newest is the
    last written, not that of the highest loop: each holds the state of all loops, which can run side by side.
    Which that is, the times in them say: files that were copied have others, and RD-Agent removes sessions
    that are later than the one it resumes from.

    Raises:
        SessionError: if there are several, and none can be read: then something else is wrong, such as the
            key that they are signed with.
    """
    done = sorted(steps_done(log), key=lambda one: (one.loop, -one.number))
    trouble: SessionError | None = None
    newest_of_loop: dict[int, tuple[tuple[float, int], Path, int]] = {}
    for one in done:
        if one.loop not in newest_of_loop:
            try:
                session = sessions.read_session(one.file)
            except SessionError as error:
                trouble = trouble or error
            else:
                age = session.written, sum(session.next_steps.values())
                newest_of_loop[one.loop] = age, one.file, len(session.experiments)
    if trouble is not None and not newest_of_loop and len(done) > 1:
        raise trouble
    _, file, finished = max(newest_of_loop.values(), default=(None, None, 0))
    instead = "the stage begins anew" if file is None else f"{file.parent.name}/{file.name} is taken"
    note = "" if trouble is None else f"the newest session was cut off ({trouble.place}): {instead}"
    return Resume(file, finished, note)
