"""Where a stage is: from the names of the session files that RD-Agent leaves after each step."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rdagent_sota_bridge.errors import SessionError
from rdagent_sota_bridge.factor_set import sessions
from rdagent_sota_bridge.factor_set.names import SESSION_FOLDER

STEPS = ("direct_exp_gen", "coding", "running", "feedback", "record")
"""The steps of a loop (`components/workflow/rd_loop.py`, 1.0.0); 0.8.0 has all but the last."""

LAST_STEP = STEPS[-1]
BACK_TEST = "running"
"""The step after which a loop has metrics."""


@dataclass(frozen=True)
class Done:
    """A step that is done.

    Attributes:
        file: Its session file, `__session__/<loop>/<number of the step>_<step>`.
        loop: The number of the loop, from 0.
        number: The number of the step, from 0.
        step: The name of the step.
        when: When the file was written, in seconds.
    """

    file: Path
    loop: int
    number: int
    step: str
    when: float


@dataclass(frozen=True)
class Position:
    """Where a stage is.

    Attributes:
        loop: The number of the loop that it works on, from 0; of several at once, the last to take a step.
        step: The step that is being done; empty where the last one done has a name that is not known.
        finished: How many loops are finished.
        back_tests: How many loops have been back-tested.
    """

    loop: int
    step: str
    finished: int
    back_tests: int


def steps_done(log: Path) -> list[Done]:
    """Return the steps that a log folder tells of, in the order that they were done."""
    found = []
    for file in (log / SESSION_FOLDER).glob("*/*_*"):
        match = re.fullmatch(r"(\d+)_(.+)", file.name)
        if match is None or not file.parent.name.isdecimal():
            continue
        try:
            when = file.stat().st_mtime
        except FileNotFoundError:  # RD-Agent removes some when it goes on from an earlier one
            continue
        found.append(Done(file, int(file.parent.name), int(match[1]), match[2], when))
    return sorted(found, key=lambda done: (done.when, done.loop, done.number))


def finished_loops(log: Path) -> int:
    """Return how many loops of a log folder have taken their last step."""
    return len(_finished(steps_done(log)))


def _finished(done: list[Done]) -> set[int]:
    recorded = {one.loop for one in done if one.step == LAST_STEP}
    # Where nothing was recorded the run is one of 0.8.0, or of a moment between the two steps.
    return recorded or {one.loop for one in done if one.step == STEPS[-2]}


def position(done: list[Done]) -> Position:
    """Return where a stage is that has done these steps."""
    finished = _finished(done)
    back_tests = len({one.loop for one in done if one.step == BACK_TEST})
    if not done:
        return Position(0, STEPS[0], 0, 0)
    last = done[-1]
    if last.loop in finished:
        others = [one for one in done if one.loop not in finished]
        if not others:
            return Position(max(finished) + 1, STEPS[0], len(finished), back_tests)
        last = others[-1]
    step = STEPS[STEPS.index(last.step) + 1] if last.step in STEPS else ""
    return Position(last.loop, step, len(finished), back_tests)


@dataclass(frozen=True)
class Resume:
    """What a stage goes on from.

    Attributes:
        file: The session file; None where there is none that can be read.
        finished: How many loops that session has finished.
        note: Why it is not the newest one; empty where it is.
    """

    file: Path | None
    finished: int = 0
    note: str = ""


def where_to_resume(log: Path) -> Resume:
    """Return the newest session of a log folder that can be read whole.

    RD-Agent writes its sessions in place (`LoopBase.dump`, `utils/workflow/loop.py`, 0.8.0 and 1.0.0), so a
    kill can leave the newest one cut off, and its own `load` of the folder stops at that. The newest is the
    last written, not that of the highest loop: each holds the state of all loops, which can run side by side.
    Which that is, the times in them tell: files that were copied have others, and RD-Agent removes sessions
    that are later than the one it goes on from.

    Raises:
        SessionError: if there are several, and none can be read: then something else is wrong, such as the
            key that they are signed with.
    """
    done = sorted(steps_done(log), key=lambda one: (one.loop, -one.number))
    trouble: SessionError | None = None
    newest_of_loop: dict[int, tuple[tuple[float, int], Path, int]] = {}
    for one in done:
        if one.loop in newest_of_loop:
            continue
        try:
            session = sessions.read_session(one.file)
        except SessionError as error:
            trouble = trouble or error
            continue
        age = session.written, sum(session.next_steps.values())
        newest_of_loop[one.loop] = age, one.file, len(session.experiments)
    if newest_of_loop:
        _, file, finished = max(newest_of_loop.values(), key=lambda found: found[0])
        return Resume(file, finished, _note(trouble, f"{_short(file)} is taken"))
    if trouble is not None and len(done) > 1:
        raise trouble
    return Resume(None, note=_note(trouble, "the stage begins anew"))


def _short(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"


def _note(trouble: SessionError | None, instead: str) -> str:
    return "" if trouble is None else f"the newest session was cut off ({trouble.place}): {instead}"
