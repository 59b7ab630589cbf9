"""From what the user named to the factor file: a workspace, or the log of the run that accepted the set."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rdagent_sota_bridge import urls
from rdagent_sota_bridge.errors import (
    FactorFileNotFoundError,
    LocateError,
    NothingAcceptedError,
    SessionError,
    WorkspaceNotFoundError,
)
from rdagent_sota_bridge.factor_set import accepted, sessions
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, LATEST, LATEST_LOG, LOGS, SESSION_FOLDER, logs
from rdagent_sota_bridge.factor_set.sessions import Session

_RELATIVE = "a relative path is relative to the folder that the command is started in"


@dataclass(frozen=True)
class Origin:
    """What the manifest of a set that was fetched says of the run that left it; its log is elsewhere.

    Attributes:
        run: The name of the run's log folder; None where nobody knows.
        loop: The loop's number.
        workspace_id: The name of its workspace.
        accepted: The verdict on it.
    """

    run: str | None = None
    loop: int | None = None
    workspace_id: str = ""
    accepted: bool | None = None


@dataclass(frozen=True)
class Located:
    """A factor file, and what led to it.

    Attributes:
        path: The factor file, absolute, links followed.
        log: The log folder that led to it; None where a workspace was named.
        loop: The number of the accepted loop, where a log tells it.
        workspace_id: Name of the workspace folder, where a log tells it.
        accepted: The verdict on its loop; None without a log that tells.
        notes: What the user should know about the choice.
        url: Where the file was fetched from, without secrets; empty for one that was not.
        fetched: When, in ISO form.
        origin: What its manifest says of the run that left it; None for one that was not fetched.
    """

    path: Path
    log: Path | None = None
    loop: int | None = None
    workspace_id: str = ""
    accepted: bool | None = None
    notes: tuple[str, ...] = ()
    url: str = ""
    fetched: str = ""
    origin: Origin | None = None


Fetch = Callable[[str], Located]
"""From a URL to the local copy of what it names (`fetch.into_store`)."""


def _no_fetch(url: str) -> Located:
    raise LocateError("A URL is not taken here", urls.without_secrets(url), "name a path")


def factor_sets(
    workspace_paths: tuple[str, ...], log_paths: tuple[str, ...], fetch: Fetch = _no_fetch
) -> tuple[Located, ...]:
    """Return the factor files that `SOTA_WORKSPACE_PATH` and `SOTA_LOG_PATH` name, in order, each once.

    Args:
        workspace_paths: Workspace folders or parquet files, relative to the current folder, or URLs; `~` is
            the home folder. Empty where the variable is not set.
        log_paths: Log folders, their `__session__`, session files, or `LATEST`; likewise, and no URLs.
        fetch: What fetches a URL.

    Raises:
        LocateError: if nothing is named, the variables contradict each other, or a path can't be looked at.
        WorkspaceNotFoundError: if nothing is at a path, or the workspace of an accepted loop is gone.
        FactorFileNotFoundError: if a workspace holds no factor file.
        SessionError: if a log leads to no accepted factor set.
    """
    if not workspace_paths and not log_paths:
        raise LocateError(
            "No factor set is named",
            "environment variables or .env entries SOTA_LOG_PATH and SOTA_WORKSPACE_PATH (not set)",
            "set SOTA_LOG_PATH to the log folder of a run of fin_factor, or SOTA_WORKSPACE_PATH to the "
            f"workspace folder of an accepted factor loop, the one that holds {FACTOR_FILE}; "
            "`rdagent-sota list` shows both",
        )
    named = _each_once([_workspace_set(path, fetch) for path in workspace_paths])
    logged = _each_once([_accepted_set(path) for path in log_paths])
    if named and logged and {found.path for found in named} != {found.path for found in logged}:
        raise LocateError(
            "SOTA_WORKSPACE_PATH and SOTA_LOG_PATH name different factor sets",
            f"{_shown(named)} by the first, {_shown(logged)} by the second",
            "unset one of them; to join sets, name them all in one of them, with "
            f"{os.pathsep!r} between the paths",
        )
    return logged or named


def named(text: str, fetch: Fetch = _no_fetch) -> Located:
    """Return the factor file of a workspace, file, URL, log folder or `LATEST`, whichever the text names.

    Raises:
        LocateError: as `factor_sets` does.
    """
    if text == LATEST:
        return _accepted_set(text)
    if urls.is_url(text):
        return fetch(text)
    path = _existing(text, lambda where: _nothing_named(text, where))
    try:
        is_folder = path.is_dir()
        is_log = SESSION_FOLDER in path.parts or (path / SESSION_FOLDER).is_dir() or path.name == LATEST_LOG
        is_set = not is_folder or (path / FACTOR_FILE).exists()
        what = "" if is_log or is_set else _what_it_is(path)
    except OSError as error:
        raise _nothing_named(text, str(error)) from None
    if is_log:
        return _accepted_set(text)
    if not is_set:
        raise _nothing_named(text, f"{path} {what}")
    return Located((path / FACTOR_FILE if is_folder else path).resolve())


def _nothing_named(text: str, where: str) -> LocateError:
    return LocateError(
        f"Neither a factor workspace nor a run's log: {text}",
        where,
        _near(text)
        or f"name a folder that holds {FACTOR_FILE}, or a log folder, which holds "
        f"{SESSION_FOLDER}; `rdagent-sota list` shows both",
    )


def _near(text: str) -> str:
    """Return the fix for a text that may be a name written wrong; empty if it is none."""
    names = [LATEST, *(str(LOGS / log.name) for log in logs())]
    near = difflib.get_close_matches(text.lower(), names, n=2, cutoff=0.8)
    return f"did you mean {' or '.join(near)}?" if near else ""


def with_its_log(found: Located) -> Located:
    """Return a file whose workspace was named together with the log of its run, if there is one.

    Looked at are the logs below the current folder, and of the project that holds the workspace; one that
    can't be read is left out.
    """
    folder = found.path.parent
    try:
        there = dict.fromkeys([*logs(), *logs(folder.parent.parent.parent)])
    except OSError:  # a closed folder
        return found
    for log in there:
        try:
            session = sessions.read_session(log)
        except SessionError:
            continue
        for one in session.experiments:
            if one.is_factor and one.workspace_id == folder.name:
                return Located(found.path, log, one.loop, folder.name, one.accepted, found.notes)
    return found


def existing_log(named: str) -> Path:
    """Return the path that a text names, of a log folder or something in it; relative to the current folder.

    Raises:
        SessionError: if nothing is there.
    """

    def not_found(where: str) -> SessionError:
        fix = f"name a log folder such as log/2026-01-31_09-00-00-000000, or `{LATEST}`; {_RELATIVE}"
        return SessionError(f"Log path not found: {named}", where, fix)

    return _existing(named, not_found)


def _existing(text: str, not_found: Callable[[str], LocateError]) -> Path:
    """Return the absolute path that a text names, or raise the error of nothing being there."""
    try:
        path = Path.cwd() / Path(text).expanduser()
        if path.exists():
            return path
        where = f"looked for at {path}"
    except (OSError, RuntimeError, ValueError) as error:  # a closed folder; ~name of nobody; a null byte
        where = str(error)
    raise not_found(where)


def _each_once(found: list[Located]) -> tuple[Located, ...]:
    first: dict[Path, Located] = {}
    for one in found:
        first.setdefault(one.path, one)
    return tuple(first.values())


def _shown(found: tuple[Located, ...]) -> str:
    return " and ".join(str(one.path) for one in found)


# --- a workspace ---


def _workspace_set(workspace_path: str, fetch: Fetch) -> Located:
    if urls.is_url(workspace_path):
        return fetch(workspace_path)

    def not_found(where: str) -> WorkspaceNotFoundError:
        fact = f"SOTA workspace path not found: {workspace_path}"
        return WorkspaceNotFoundError(fact, f"SOTA_WORKSPACE_PATH, {where}", f"correct the path; {_RELATIVE}")

    path = _existing(workspace_path, not_found)
    try:
        file = path / FACTOR_FILE if path.is_dir() else path
        if not file.exists():
            raise FactorFileNotFoundError(
                f"SOTA factors file not found: {Path(workspace_path).expanduser() / FACTOR_FILE}",
                f"SOTA_WORKSPACE_PATH={workspace_path} {_what_it_is(path)}",
                _better_folder(path),
            )
        return Located(file.resolve())
    except OSError as error:
        raise LocateError(
            f"SOTA workspace path can't be read: {error.strerror}",
            f"SOTA_WORKSPACE_PATH={workspace_path}",
            "name a folder, or a factor file, that you may read (ls -ld tells)",
        ) from None


def _what_it_is(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return "(an empty folder)"
    if SESSION_FOLDER in names:
        return "(a log folder: name it in SOTA_LOG_PATH instead)"
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
                f"{FACTOR_FILE}, the newest {shown}. A rejected loop leaves one too: `rdagent-sota list` "
                "shows which loop was accepted, and SOTA_LOG_PATH takes it from the run's log"
            )
    return f"name the workspace of an accepted factor loop, the folder that holds {FACTOR_FILE}"


# --- a log ---


def _accepted_set(log_path: str) -> Located:
    """Return the set of the last accepted factor loop of a log, or of the newest log."""
    try:
        if log_path != LATEST:
            path = _log_of(log_path)
            return _set_of(path, sessions.read_session(path))
        log, session, notes = sessions.newest_log(
            lambda session: bool(session.accepted_factors),
            "No log accepted a factor loop",
            "run `rdagent fin_factor` in this folder, or name the log folder of another project",
            NothingAcceptedError,
        )
        return _set_of(log.resolve(), session, notes)
    except OSError as error:
        raise LocateError(
            f"The workspace of an accepted loop can't be looked for: {error.strerror}",
            f"{error.filename}, for SOTA_LOG_PATH={log_path}",
            "name the workspace itself in SOTA_WORKSPACE_PATH, or make the folder one that you may enter",
        ) from None


def _log_of(log_path: str) -> Path:
    if urls.is_url(log_path):
        raise SessionError(
            "SOTA_LOG_PATH names a URL, and logs are read from the disk",
            f"SOTA_LOG_PATH={urls.without_secrets(log_path)}",
            "push the set where its log is (`rdagent-sota push LOG URL`), and name that URL in "
            "SOTA_WORKSPACE_PATH",
        )

    def not_found(where: str) -> SessionError:
        fix = _near(log_path) or f"correct the path; {_RELATIVE}"
        return SessionError(f"SOTA log path not found: {log_path}", f"SOTA_LOG_PATH, {where}", fix)

    path = _existing(log_path, not_found)
    if path.name == LATEST_LOG:
        raise SessionError(
            "SOTA_LOG_PATH names the text log, which holds no session",
            f"SOTA_LOG_PATH={log_path}",
            f"name `{LATEST}`, or the log folder of a run, which is beside it",
        )
    if path.is_dir() and (path / FACTOR_FILE).exists():
        raise SessionError(
            "SOTA_LOG_PATH names a workspace, not a log folder",
            f"SOTA_LOG_PATH={log_path}, which holds {FACTOR_FILE}",
            "name it in SOTA_WORKSPACE_PATH instead",
        )
    return path.resolve()


def _set_of(path: Path, session: Session, notes: tuple[str, ...] = ()) -> Located:
    experiment = accepted.last_accepted(session)
    log = sessions.log_folder(path)
    file = accepted.file_of(experiment, log)
    notes += accepted.missing_factors(file, experiment, session, log)
    return Located(file, log, experiment.loop, experiment.workspace_id, True, notes)
