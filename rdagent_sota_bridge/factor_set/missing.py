"""Factors of accepted loops that the last accepted file lacks: of loops that ran side by side."""

from __future__ import annotations

import os
from pathlib import Path

from rdagent_sota_bridge.errors import FactorFileError
from rdagent_sota_bridge.factor_set import parts, sessions
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.factor_set.sessions import Experiment, Session
from rdagent_sota_bridge.system import cache


def number(experiment: Experiment) -> str:
    """Return the number of its loop, as a text says it."""
    return "of unknown number" if experiment.loop is None else str(experiment.loop)


def notes(file: Path, accepted: Experiment, session: Session, log: Path | None) -> tuple[str, ...]:
    """Return a note for each accepted loop whose factors the last accepted file lacks.

    A loop starts from what was accepted when it was proposed: one that ran beside it is not in its file.
    """
    siblings = [one for one in session.accepted_factors if one is not accepted]
    if not siblings:
        return ()
    try:
        columns = _columns(file)
    except FactorFileError:
        return ()  # whatever reads the set next refuses it, with every reason
    said = []
    for sibling in siblings:
        files = [place / FACTOR_FILE for place in sessions.workspaces_of(sibling, log)]
        found = next((one for one in files if one.exists()), None)
        both = f"loop {number(sibling)} was accepted too, and"
        try:
            names = sibling.factor_names if found is None else _columns(found)
        except FactorFileError as error:
            said.append(f"{both} its set could not be compared: {error.failures[0]} ({found})")
            continue
        if missing := ", ".join(name for name in names if name not in columns):
            end = (
                "; its own file is gone"
                if found is None
                else (
                    " (loops that run side by side do not see each other's). To join both: "
                    f"SOTA_WORKSPACE_PATH={found.resolve().parent}{os.pathsep}{file.parent}"
                )
            )
            said.append(f"{both} the set of loop {number(accepted)} lacks its {missing}{end}")
    return tuple(said)


def _columns(path: Path) -> tuple[str, ...]:
    """Return the factors of a set; remembered, so that its files are opened once.

    Raises:
        FactorFileError: if it can't be read.
    """

    def find() -> tuple[str, ...]:
        from rdagent_sota_bridge.factor_set import parquet  # late: pandas and pyarrow

        return parquet.read_footer(path).columns

    key = [str(path), *(cache.identity(part.stat()) for part in parts.parts_of(path))]
    return tuple(cache.find_once("columns-1", key, find))
