"""The factor file that the last accepted loop of a run left, and what it lacks of other accepted loops."""

from __future__ import annotations

import os
from pathlib import Path

from rdagent_sota_bridge.errors import (
    FactorFileError,
    FactorFileNotFoundError,
    NothingAcceptedError,
    SessionError,
    WorkspaceNotFoundError,
)
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, WORKSPACES, workspace_root
from rdagent_sota_bridge.factor_set.sessions import Experiment, Session


def last_accepted(session: Session) -> Experiment:
    """Return the last accepted experiment on factors.

    Raises:
        NothingAcceptedError: if the run accepted none so far.
        SessionError: if it is a run that mines no factors.
    """
    place = str(session.file)
    if not session.mines_factors:
        what = "fin_model" if session.loop_class == "ModelRDLoop" else "another command"
        raise SessionError(
            f"The log is one of {what} ({session.loop_class}), which mines no factors",
            place,
            "name a log folder of fin_factor or fin_quant; `rdagent-sota list` shows which runs left sets",
        )
    if not session.experiments:
        raise NothingAcceptedError(
            "The run has not finished a loop: no factor set has a verdict yet",
            place,
            "let it finish a loop, or name another log",
        )
    if session.accepted_factors:
        return session.accepted_factors[-1]
    count = sum(one.is_factor for one in session.experiments)
    raise NothingAcceptedError(
        f"The run accepted no factor loop (finished factor loops: {count})",
        place,
        "resume the run, or name another log; a rejected set is used if SOTA_WORKSPACE_PATH names it",
    )


def file_of(experiment: Experiment, log: Path | None) -> Path:
    """Return the factor file of an accepted loop; the recorded path is stale once the project has moved.

    Raises:
        WorkspaceNotFoundError: if the workspace is gone.
        FactorFileNotFoundError: if it holds no factor file.
    """
    places = workspaces_of(experiment, log)
    for place in places:
        if (place / FACTOR_FILE).is_file():
            return (place / FACTOR_FILE).resolve()
    which = f"of the accepted loop {_number(experiment)}" + (f" of {log}" if log is not None else "")
    there = [place for place in places if place.is_dir()]
    if there:
        raise FactorFileNotFoundError(
            f"SOTA factors file not found: {there[0] / FACTOR_FILE}",
            f"workspace {which}. RD-Agent leaves none where it answers a loop from its result cache",
            "name the workspace of another accepted loop in SOTA_WORKSPACE_PATH (`rdagent-sota list` shows "
            "them), or mine it again with RD-Agent's CACHE_WITH_PICKLE=false",
        )
    raise WorkspaceNotFoundError(
        f"SOTA workspace path not found: {experiment.workspace_id or 'no workspace is recorded'}",
        f"workspace {which}, looked for at {', '.join(map(str, places))}",
        "start in the project folder of that run or set WORKSPACE_PATH to the folder of its workspaces; if "
        "the workspace was removed, name another log",
    )


def workspaces_of(experiment: Experiment, log: Path | None) -> list[Path]:
    """Return where the workspace of an experiment may be, most likely first; the log is that of its run."""
    if not experiment.workspace_id:
        return []
    roots = [] if log is None else [log.parent.parent / WORKSPACES]
    roots.append(workspace_root())
    by_id = [root / experiment.workspace_id for root in roots]
    return list(dict.fromkeys([*by_id, Path(experiment.recorded_path)]))


def _number(experiment: Experiment) -> str:
    return "of unknown number" if experiment.loop is None else str(experiment.loop)


def missing_factors(file: Path, accepted: Experiment, session: Session, log: Path | None) -> tuple[str, ...]:
    """Return a note for each accepted loop whose factors the last accepted file lacks.

    A loop starts from what was accepted when it was proposed: one that ran beside it is not in its file.
    """
    siblings = [one for one in session.accepted_factors if one is not accepted]
    if not siblings:
        return ()
    from rdagent_sota_bridge.factor_set import parquet  # late: pandas and pyarrow

    try:
        columns = set(parquet.read_footer(file).columns)
    except FactorFileError:
        return ()  # whatever reads the set next refuses it, with every reason
    notes = []
    for sibling in siblings:
        files = [place / FACTOR_FILE for place in workspaces_of(sibling, log)]
        found = next((one for one in files if one.is_file()), None)
        both = f"loop {_number(sibling)} was accepted too, and"
        try:
            names = sibling.factor_names if found is None else parquet.read_footer(found).columns
        except FactorFileError as error:
            notes.append(f"{both} its set could not be compared: {error.failures[0]} ({found})")
            continue
        missing = ", ".join(name for name in names if name not in columns)
        if not missing:
            continue
        note = f"{both} the set of loop {_number(accepted)} lacks its {missing}"
        if found is None:
            note += "; its own file is gone"
        else:
            note += (
                " (loops that run side by side do not see each other's). To join both: "
                f"SOTA_WORKSPACE_PATH={found.resolve().parent}{os.pathsep}{file.parent}"
            )
        notes.append(note)
    return tuple(notes)
