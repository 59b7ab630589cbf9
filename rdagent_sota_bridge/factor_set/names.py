"""RD-Agent's names of files, folders, loops and levels, and where they are. Each is here once."""

from __future__ import annotations

import os
from pathlib import Path

FACTOR_FILE = "combined_factors_df.parquet"
"""The factors of an experiment, in its workspace (`scenarios/qlib/developer/factor_runner.py`)."""

DATETIME = "datetime"
INSTRUMENT = "instrument"
FEATURE = "feature"
"""The column group under which RD-Agent nests factors (`scenarios/qlib/developer/factor_runner.py`)."""

RESULT_FILE = "qlib_res.csv"
"""The metrics of a back-test, beside the factor file (RD-Agent's `read_exp_res.py`)."""

LATEST = "latest"
"""The word for the newest log; a folder of that name is `./latest`."""

LOGS = Path("log")
"""Where RD-Agent puts its log folders, below the folder it is started in (`log/conf.py`, 0.8.0 and 1.0.0)."""

LATEST_LOG = "latest.log"
"""The text log that this package writes beside the log folders."""

SESSION_FOLDER = "__session__"
"""The folder of a log's sessions (`utils/workflow/loop.py`)."""

COMMANDS = {
    "FactorRDLoop": "fin_factor",
    "ModelRDLoop": "fin_model",
    "QuantRDLoop": "fin_quant",
    "FactorReportLoop": "fin_factor_report",
}
"""The commands by the class of their loop (`app/qlib_rd_loop`, 0.8.0 and 1.0.0)."""

FACTOR_LOOPS = ("FactorRDLoop", "FactorReportLoop", "QuantRDLoop")
"""The loops that mine factors."""

MODEL_LOOPS = ("ModelRDLoop", "QuantRDLoop")
"""The loops that train models."""

WORKSPACES = Path("git_ignore_folder") / "RD-Agent_workspace"
"""The folder of all workspaces, below the folder RD-Agent is started in."""


def workspace_root() -> Path:
    """Return the folder of all workspaces, as RD-Agent's settings have it, without importing them.

    `RD_AGENT_SETTINGS.workspace_path` (`core/conf.py`, 0.8.0 and 1.0.0): the variable WORKSPACE_PATH, in any
    case as pydantic reads it, or a folder below the current one.
    """
    named = next((value for name, value in os.environ.items() if name.upper() == "WORKSPACE_PATH"), None)
    return Path.cwd() / (WORKSPACES if named is None else named)


def logs(project: Path | None = None) -> list[Path]:
    """Return the log folders of a project that hold sessions, by name; None is the current folder."""
    folder = (project or Path.cwd()) / LOGS
    return sorted(found.parent for found in folder.glob(f"*/{SESSION_FOLDER}"))
