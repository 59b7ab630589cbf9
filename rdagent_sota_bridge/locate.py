"""From what the user named to the factor file."""

from __future__ import annotations

from pathlib import Path

from rdagent_sota_bridge.errors import FactorFileNotFoundError, LocateError, WorkspaceNotFoundError

FACTOR_FILE = "combined_factors_df.parquet"
"""The name that RD-Agent gives the factors of an experiment (`scenarios/qlib/developer/factor_runner.py`)."""

RESULT_FILE = "qlib_res.csv"
"""Where RD-Agent's `read_exp_res.py` leaves the metrics of a back-test, beside the factor file."""


def factor_file(workspace_path: str | None) -> Path:
    """Return the absolute path of the factor file that `SOTA_WORKSPACE_PATH` names.

    Args:
        workspace_path: A workspace folder or the parquet file itself; relative to the current folder;
            `~` is the home folder. None where the variable is not set.

    Raises:
        LocateError: if no path is set, or it can't be looked at.
        WorkspaceNotFoundError: if nothing is there.
        FactorFileNotFoundError: if the folder holds no factor file.
    """
    if workspace_path is None:
        raise LocateError(
            "LOAD_SOTA_FROM_WORKSPACE is on, and no factor set is named",
            "environment variable or .env entry SOTA_WORKSPACE_PATH (not set)",
            f"set it to the workspace folder of an accepted factor loop, the one that holds {FACTOR_FILE}",
        )
    try:
        return _factor_file(workspace_path)
    except OSError as error:
        raise LocateError(
            f"SOTA workspace path can't be read: {error.strerror}",
            f"SOTA_WORKSPACE_PATH={workspace_path}",
            "name a folder, or a factor file, that you may read (ls -ld tells)",
        ) from None


def _factor_file(workspace_path: str) -> Path:
    try:
        named = Path(workspace_path).expanduser()
    except RuntimeError as error:  # ~name of a user that the system does not know
        raise _not_found(workspace_path, str(error)) from None
    path = Path.cwd() / named
    if not path.exists():
        raise _not_found(workspace_path, f"looked for at {path}")
    if not path.is_dir():
        return path.resolve()
    file = path / FACTOR_FILE
    if not file.exists():
        raise FactorFileNotFoundError(
            f"SOTA factors file not found: {named / FACTOR_FILE}",
            f"SOTA_WORKSPACE_PATH={workspace_path} {_what_it_is(path)}",
            _better_folder(path),
        )
    return file.resolve()


def _not_found(workspace_path: str, where: str) -> WorkspaceNotFoundError:
    return WorkspaceNotFoundError(
        f"SOTA workspace path not found: {workspace_path}",
        f"SOTA_WORKSPACE_PATH, {where}",
        "correct the path; a relative path is relative to the folder that the command is started in",
    )


def _what_it_is(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return "(an empty folder)"
    if "factor.py" in names:
        return "(a coder's folder: it holds factor.py, the code of one factor)"
    if "model.py" in names:
        return "(a model's folder: it holds model.py)"
    shown = ", ".join(names[:3])
    return f"(it holds {shown}{', …' if len(names) > 3 else ''})"


def _better_folder(folder: Path) -> str:
    """Name workspaces that do hold a factor file: below this folder, or beside it."""
    for root in (folder, folder.parent):
        found = sorted(root.glob(f"*/{FACTOR_FILE}"), key=lambda file: file.stat().st_mtime, reverse=True)
        if found:
            shown = " or ".join(str(file.parent) for file in found[:2])
            return (
                f"name the workspace of an accepted factor loop; {len(found)} folder(s) there hold a "
                f"{FACTOR_FILE}, the newest {shown}. A rejected loop leaves one too: the run's log or its UI "
                "tells which loop was accepted"
            )
    return f"name the workspace of an accepted factor loop, the folder that holds {FACTOR_FILE}"
