"""Short-lived children in a temporary folder: RD-Agent leaves a log folder wherever it is imported."""

from __future__ import annotations

import json
import os
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from rdagent_sota_bridge.check.line import Line, State
from rdagent_sota_bridge.system import child

CONDA_SECONDS = 60.0
"""How long conda, or a Python in one of its environments, may take."""

NOT_INSTALLED = ("RD-Agent is not installed", "install it: pip install rdagent")


def installed(name: str) -> str | None:
    """Return the version of a distribution in this environment, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def unseen(name: str, state: State, reason: str, fix: str) -> Line:
    """Return the line of what could not be looked at."""
    return Line(name, state, f"not looked at: {reason}", fix)


def conda(*arguments: str) -> str:
    """Return what conda says, then why it said no more."""
    with tempfile.TemporaryDirectory(prefix="sota-", ignore_cleanup_errors=True) as name:
        trouble = child.ask(["conda", *arguments], os.environ, Path(name, "child"), CONDA_SECONDS)
        return Path(name, "child", "output.txt").read_text(encoding="utf-8", errors="replace") + trouble


def path_in_conda(said: str) -> str:
    """Return the PATH in a conda environment by what `conda_env` said, as RD-Agent has it; empty for none.

    `LocalEnv._run` in `rdagent/utils/env.py` (0.8.0, 1.0.0) composes it.
    """
    inside = [line.removeprefix("PATH=") for line in said.splitlines() if line.startswith("PATH=")]
    return f"{inside[0]}:/bin/:/usr/bin/" if inside else ""


def conda_env(name: str) -> str:
    """Return what conda says when it is asked for the variables in an environment."""
    return conda("run", "-n", name, "--no-capture-output", "env")


def ask(command: list[str], variables: dict[str, str], seconds: float) -> dict[str, Any] | str:
    """Return what a command writes into `answer.json`, or why it does not."""
    # A short path: sockets' paths below it have to fit into 108 characters.
    with tempfile.TemporaryDirectory(prefix="sota-", ignore_cleanup_errors=True) as name:
        trouble = child.ask(command, variables, Path(name, "child"), seconds)
        answer = Path(name, "child", "answer.json")
        return json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else trouble
