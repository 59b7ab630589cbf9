"""A stage as a command: RD-Agent's own, with the options and the environment that make it this stage."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rdagent_sota_bridge.errors import JobError
from rdagent_sota_bridge.run.job import BASELINE, FACTORS, MODELS, Stage

COMMANDS = {FACTORS: "fin_factor", MODELS: "fin_model", BASELINE: "fin_model"}


def find_rdagent() -> str:
    """Return the path of `rdagent`: that of this environment, else the one on PATH.

    Raises:
        JobError: if there is none.
    """
    beside = shutil.which("rdagent", path=str(Path(sys.executable).parent))
    found = beside or shutil.which("rdagent")
    if found is None:
        raise JobError(
            "There is no rdagent to run",
            f"looked for in {Path(sys.executable).parent} and on PATH",
            "install both into one environment: pip install rdagent rdagent-sota-bridge",
        )
    return found


def command(
    rdagent: str, stage: Stage, session: Path | None, seconds: float | None, passed_on: Sequence[str]
) -> list[str]:
    """Return the command line of a stage.

    Args:
        rdagent: The path of `rdagent`.
        stage: The stage; its loops are all that it is to finish, those of an earlier start too.
        session: The session file to go on from; None for a stage that begins.
        seconds: The time for it; None for no limit.
        passed_on: Further options, as the user wrote them.
    """
    options = ["--loop-n", str(stage.loops)]
    if session is not None:
        options += ["--path", str(session)]
    if seconds is not None:
        options += ["--all-duration", f"{seconds:.0f}s"]
    return [rdagent, COMMANDS[stage.name], *options, *passed_on]


def environment(
    environ: Mapping[str, str], stage: Stage, log: Path, set_paths: Sequence[str]
) -> dict[str, str]:
    """Return the environment of a stage.

    Args:
        environ: That of the user; what a stage does not need to be another, it leaves alone.
        stage: The stage.
        log: Its log folder, absolute; a stage that goes on gets the same again, for RD-Agent writes there
            from its import on (`log/conf.py`, 0.8.0 and 1.0.0).
        set_paths: The workspaces of the factor set.
    """
    variables = {"LOG_TRACE_PATH": str(log), "PYTHONUNBUFFERED": "1", "LOAD_SOTA_FROM_WORKSPACE": "false"}
    if stage.name == MODELS:
        variables["LOAD_SOTA_FROM_WORKSPACE"] = "true"
        variables["SOTA_WORKSPACE_PATH"] = os.pathsep.join(set_paths)
        # Empty, not absent: RD-Agent loads `.env` over what is absent, and the settings ignore what is empty.
        variables["SOTA_LOG_PATH"] = ""
    # RD-Agent's settings take a name in any case, and one that were left out would come back from `.env`.
    same = {name: variables.get(name.upper(), value) for name, value in environ.items()}
    return same | variables
