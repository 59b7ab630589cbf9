"""What a stage of `rdagent-sota run` needs of RD-Agent: its variables as they were given, and a Python."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from dotenv.parser import parse_stream

from rdagent_sota_bridge.errors import OTHER_RELEASE, JobError, SeamError
from rdagent_sota_bridge.settings import stage_of_job

NO_CONDA = "no-conda-environment"
"""The CONDA_DEFAULT_ENV of a stage where none is active: conda lists no environment of that name."""


def check_variables() -> None:
    """Check that RD-Agent's variables are what this stage of a job was given; idle in no stage.

    A fork of RD-Agent may load `.env` over them. Called as RD-Agent's modules are imported, from the first
    that writes into the log folder to the command line, which is the last.

    Raises:
        JobError: if one is not; it names the line of `.env`.
    """
    for name, given in stage_of_job().get("variables", {}).items():
        # RD-Agent's settings take a name in any case.
        found = {spelt: value for spelt, value in os.environ.items() if spelt.upper() == name}
        lost = next((f"{spelt}={value}" for spelt, value in found.items() if value != given), None)
        if lost is not None:
            place, fix = _line_of(name)
            raise JobError(f"The stage was given {name}={given}, and RD-Agent has {lost}", place, fix)


def _line_of(name: str) -> tuple[str, str]:
    """Return where a variable that RD-Agent has comes from, and what to do about it."""
    file = Path.cwd() / ".env"
    if file.is_file():
        with file.open(encoding="utf-8") as lines:
            found = [at.original for at in parse_stream(lines) if (at.key or "").upper() == name]
        if found:
            fix = "take that line out: RD-Agent loads .env over what `rdagent-sota run` gives its stages"
            text = found[-1].string  # with the empty lines before it
            blank = text[: len(text) - len(text.lstrip())].count("\n")
            return f"{file}, line {found[-1].line + blank}", fix
    return "set in the course of RD-Agent's start", f"start `rdagent` without what sets {name}"


def patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/utils/env.py` (0.5.0 to 1.0.0): where `CondaConf` finds Python.

    `get_factor_env` (`components/coder/factor_coder/config.py`) asks conda for the PATH of CONDA_DEFAULT_ENV.
    Without an answer it is /bin and /usr/bin, and where they hold no `python` RD-Agent 1.0.0 ends in a
    traceback. For `NO_CONDA` it is the PATH of the process, in which factors' code runs.
    """
    conf = getattr(module, "CondaConf", None)
    if conf is None:
        raise SeamError("RD-Agent has no CondaConf", module.__name__, OTHER_RELEASE)
    init_before = conf.__init__

    @functools.wraps(init_before)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it replaces one
        init_before(self, *args, **kwargs)
        if self.conda_env_name == NO_CONDA:
            self.bin_path = os.environ["PATH"]

    return [(conf, "__init__", __init__)]
