"""Which recorded model a command means: the best of a run, one of its loops, or one in a workspace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rdagent_sota_bridge.errors import ResultError, SessionError
from rdagent_sota_bridge.factor_set import locate, sessions
from rdagent_sota_bridge.factor_set.names import LATEST, SESSION_FOLDER
from rdagent_sota_bridge.qlib_files import training_record
from rdagent_sota_bridge.qlib_files.training_record import MODEL_FILE
from rdagent_sota_bridge.report import gather, history
from rdagent_sota_bridge.report.history import Loop, Run

_WANTED = "name a log folder, LOG:LOOP, or the workspace of a model"


@dataclass(frozen=True)
class Chosen:
    """A recorded model.

    Attributes:
        workspace: Its workspace, absolute; `training_record.read_training` can read it.
        log: The log folder of its run; None where a workspace was named.
        loop: The number of its loop; None as for `log`.
        notes: What the user should know of the choice.
    """

    workspace: Path
    log: Path | None = None
    loop: int | None = None
    notes: tuple[str, ...] = ()


def chosen(model: str | None) -> Chosen:
    """Return the model that a text names.

    Args:
        model: A log folder, or `latest` for the newest with models: the model of the highest IC in the test
            segment, as the page of the run has it, of those that were accepted. `LOG:LOOP`: that of a loop,
            whatever its verdict. A workspace. None is `latest`.

    Raises:
        ResultError: if there is no such model, or its training is gone.
        SessionError: if the log can't be read.
    """
    path, number = _named(LATEST if model is None else model)
    notes: tuple[str, ...] = ()
    if path is None:
        fix = f"start in the folder of a run with models, or {_WANTED}"
        path, _, notes = sessions.newest_log(lambda one: one.has_models, "No log of a run with models", fix)
    elif path.is_file() and SESSION_FOLDER not in path.parts:
        fact = "A file is neither a log nor the workspace of a model; a bundle is for predict alone"
        raise ResultError(fact, str(path), _WANTED)
    elif path.is_dir() and number is None and sessions.session_file(path) is None:
        if not (path / MODEL_FILE).is_file():
            fact = f"This is neither a log nor the workspace of a model: no {MODEL_FILE} is in it"
            raise ResultError(fact, str(path), _WANTED)
        training_record.read_training(path)
        return Chosen(path.resolve())
    run = history.read_run(path)
    if not any(one.kind == "model" for one in run.loops):
        fact = "The run has no model loop"
        raise ResultError(fact, str(run.log), "name the log folder of a run of `rdagent fin_model`")
    loop, more = _best(run) if number is None else (_loop(run, number), ())
    if loop.workspace is None:
        why = "Its workspace is gone" if loop.metrics else f"It has no trained model: {loop.failure}"
        raise ResultError(why, f"loop {loop.number} of {run.log}", "put it back, or name another loop")
    training_record.read_training(loop.workspace)
    return Chosen(loop.workspace.resolve(), run.log, loop.number, (*notes, *more))


def _named(text: str) -> tuple[Path | None, int | None]:
    """Return the path that a text names, None for the newest log, and the loop."""
    log, colon, loop = text.rpartition(":")
    number = int(loop) if colon and loop.isdecimal() and not Path(text).exists() else None
    named = text if number is None else log
    try:
        return (None if named == LATEST else locate.existing_log(named)), number
    except SessionError as error:
        raise ResultError(f"No log or workspace is there: {named}", error.place, _WANTED) from None


def _loop(run: Run, number: int) -> Loop:
    loop = next((one for one in run.loops if one.number == number), None)
    if loop is None or loop.kind == "factor":
        numbers = ", ".join(str(one.number) for one in run.loops if one.kind == "model")
        fact = f"The run has no model loop {number}; it has {numbers}"
        raise ResultError(fact, str(run.log), "name one of these")
    return loop


def _best(run: Run) -> tuple[Loop, tuple[str, ...]]:
    accepted = replace(run, loops=tuple(one for one in run.loops if one.accepted))
    place = gather.best_model([accepted])
    if place is None:
        fact = "The run has accepted no model that has a result"
        raise ResultError(fact, str(run.log), "name one of its loops all the same: LOG:LOOP")
    best, highest = gather.loop_at([accepted], place), gather.best_model([run])
    others = [] if highest is None else [gather.loop_at([run], highest)]
    why = [f"loop {one.number} has the highest IC, and was not accepted" for one in others if one is not best]
    lost = [one for one in accepted.loops if one.kind == "model" and not one.metrics]
    why += [f"loop {one.number} was accepted, and {one.failure}" for one in lost]
    return best, tuple(f"{one}: loop {best.number} is taken" for one in why)
