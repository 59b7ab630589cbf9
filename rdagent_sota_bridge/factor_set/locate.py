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
    plural,
)
from rdagent_sota_bridge.factor_set import missing, sessions
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, LATEST, LATEST_LOG, LOGS, SESSION_FOLDER, logs
from rdagent_sota_bridge.factor_set.sessions import Experiment, Session

_RELATIVE = "a relative path is relative to the folder that the command is started in"


@dataclass(frozen=True)
class Origin:
    """What the manifest of a set that was fetched says of the run that left it; its log is elsewhere."""

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
        loop: The number of the accepted loop, where a log has it.
        workspace_id: Name of the workspace folder, where a log has it.
        accepted: The verdict on its loop; None without a log.
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
    named: dict[Path, Located] = {}
    logged: dict[Path, Located] = {}
    for path in workspace_paths:
        found = fetch(path) if urls.is_url(path) else _workspace_set(path)
        named.setdefault(found.path, found)
    for path in log_paths:
        found = _accepted_set(path)
        logged.setdefault(found.path, found)
    if named and logged and set(named) != set(logged):
        shown = [" and ".join(map(str, paths)) for paths in (named, logged)]
        raise LocateError(
            "SOTA_WORKSPACE_PATH and SOTA_LOG_PATH name different factor sets",
            f"{shown[0]} by the first, {shown[1]} by the second",
            "unset one of them; to join sets, name them all in one of them, with "
            f"{os.pathsep!r} between the paths",
        )
    return tuple((logged or named).values())


def named(text: str, fetch: Fetch = _no_fetch) -> Located:
    """Return the factor file of a workspace, file, URL, log folder or `LATEST`, whichever the text names.

    Raises:
        LocateError: as `factor_sets` does.
    """
    if text == LATEST:
        return _accepted_set(text)
    if urls.is_url(text):
        return fetch(text)
    fact = f"Neither a factor workspace nor a run's log: {text}"
    fix = _near(text) or (
        f"name a folder that holds {FACTOR_FILE}, or a log folder, which holds {SESSION_FOLDER}; "
        "`rdagent-sota list` shows both"
    )
    path = _existing(text, fact, fix, LocateError)
    try:
        if SESSION_FOLDER in path.parts or (path / SESSION_FOLDER).is_dir() or path.name == LATEST_LOG:
            return _accepted_set(text)
        file = _file_at(path)
        where = "" if file.exists() else f"{path} {_what_it_is(path)}"
    except OSError as error:
        where = str(error)
    if where:
        raise LocateError(fact, where, fix)
    return Located(_followed(file))


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
    fix = f"name a log folder such as log/2026-01-31_09-00-00-000000, or `{LATEST}`; {_RELATIVE}"
    return _existing(named, f"Log path not found: {named}", fix, SessionError)


def _existing(text: str, fact: str, fix: str, error_class: type[LocateError], variable: str = "") -> Path:
    """Return the absolute path that a text names, or raise the error of nothing being there."""
    try:
        path = Path.cwd() / Path(text).expanduser()
        if path.exists():
            return path
        where = f"looked for at {path}"
    except (OSError, RuntimeError, ValueError) as error:  # a closed folder; ~name of nobody; a null byte
        where = str(error)
    raise error_class(fact, variable + where, urls.misread(text) or fix)


def _near(text: str) -> str:
    """Return the fix for a text that may be a name written wrong; empty if it is none."""
    names = [LATEST, *(str(LOGS / log.name) for log in logs())]
    near = difflib.get_close_matches(text.lower(), names, n=2, cutoff=0.8)
    return f"did you mean {' or '.join(near)}?" if near else ""


# --- a workspace ---


def _file_at(path: Path) -> Path:
    """Return the factor file of a path that was named; one in parts is a folder of the file's name."""
    return path / FACTOR_FILE if path.is_dir() and path.name != FACTOR_FILE else path


def _followed(file: Path) -> Path:
    """Return a factor file's path with links followed; a folder keeps the name by which it is known."""
    return file.parent.resolve() / file.name if file.is_dir() else file.resolve()


def _workspace_set(text: str) -> Located:
    fact, fix = f"SOTA workspace path not found: {text}", f"correct the path; {_RELATIVE}"
    path = _existing(text, fact, fix, WorkspaceNotFoundError, "SOTA_WORKSPACE_PATH, ")
    try:
        file = _file_at(path)
        if file.exists():
            return Located(_followed(file))
        raise FactorFileNotFoundError(
            f"SOTA factors file not found: {Path(text).expanduser() / FACTOR_FILE}",
            f"SOTA_WORKSPACE_PATH={text} {_what_it_is(path)}",
            _better_folder(path),
        )
    except OSError as error:
        raise LocateError(
            f"SOTA workspace path can't be read: {error.strerror}",
            f"SOTA_WORKSPACE_PATH={text}",
            "name a folder, or a factor file, that you may read (ls -ld shows the rights)",
        ) from None


def _what_it_is(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    kinds = {
        SESSION_FOLDER: "(a log folder: name it in SOTA_LOG_PATH instead)",
        "factor.py": "(a coder's folder: it holds factor.py, the code of one factor)",
        "model.py": "(a model's folder: it holds model.py)",
    }
    shown = f"(it holds {', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
    kind = next((text for name, text in kinds.items() if name in names), shown)
    return kind if names else "(an empty folder)"


def _better_folder(folder: Path) -> str:
    """Name workspaces that do hold a factor file: below this folder, or beside it."""
    for root in (folder, folder.parent):
        found = sorted(root.glob(f"*/{FACTOR_FILE}"), key=lambda file: file.stat().st_mtime, reverse=True)
        if found:
            shown = " or ".join(str(file.parent) for file in found[:2])
            return (
                f"name the workspace of an accepted factor loop ({plural(len(found), 'folder')} there with a "
                f"{FACTOR_FILE}), the newest {shown}. A rejected loop leaves one too: `rdagent-sota list` "
                "shows which loop was accepted, and SOTA_LOG_PATH takes it from the run's log"
            )
    return f"name the workspace of an accepted factor loop, the folder that holds {FACTOR_FILE}"


# --- a log ---


def _accepted_set(text: str) -> Located:
    """Return the set of the last accepted factor loop of a log, or of the newest log."""
    notes: tuple[str, ...] = ()
    try:
        if text == LATEST:
            path, session, notes = sessions.newest_log(
                lambda session: bool(session.accepted_factors),
                "No log accepted a factor loop",
                "run `rdagent fin_factor` in this folder, or name the log folder of another project",
                NothingAcceptedError,
            )
        else:
            path = _log_of(text)
            session = sessions.read_session(path)
        log = sessions.log_folder(path.resolve())
        experiment = _last_accepted(session)
        file = _file_of(experiment, log)
        notes += missing.notes(file, experiment, session, log)
        return Located(file, log, experiment.loop, experiment.workspace_id, True, notes)
    except OSError as error:
        raise LocateError(
            f"The workspace of an accepted loop can't be looked for: {error.strerror}",
            f"{error.filename}, for SOTA_LOG_PATH={text}",
            "name the workspace itself in SOTA_WORKSPACE_PATH, or make the folder one that you may enter",
        ) from None


def _log_of(text: str) -> Path:
    place = f"SOTA_LOG_PATH={text}"
    if urls.is_url(text):
        raise SessionError(
            "SOTA_LOG_PATH names a URL, and logs are read from the disk",
            f"SOTA_LOG_PATH={urls.without_secrets(text)}",
            "push the set where its log is (`rdagent-sota push LOG URL`), and name that URL in "
            "SOTA_WORKSPACE_PATH",
        )
    fix = _near(text) or f"correct the path; {_RELATIVE}"
    path = _existing(text, f"SOTA log path not found: {text}", fix, SessionError, "SOTA_LOG_PATH, ")
    if path.name == LATEST_LOG:
        fix = f"name `{LATEST}`, or the log folder of a run"
        raise SessionError("SOTA_LOG_PATH names the text log, which holds no session", place, fix)
    if path.is_dir() and (path / FACTOR_FILE).exists():
        fact, fix = (
            "SOTA_LOG_PATH names a workspace, not a log folder",
            "name it in SOTA_WORKSPACE_PATH instead",
        )
        raise SessionError(fact, f"{place}, which holds {FACTOR_FILE}", fix)
    return path


def _last_accepted(session: Session) -> Experiment:
    """Return the last accepted experiment on factors, or raise the error of a run without one."""
    place = str(session.file)
    if not session.mines_factors:
        what = "fin_model" if session.loop_class == "ModelRDLoop" else "another command"
        raise SessionError(
            f"The log is one of {what} ({session.loop_class}), which mines no factors",
            place,
            "name a log folder of fin_factor or fin_quant; `rdagent-sota list` shows which runs left sets",
        )
    if session.accepted_factors:
        return session.accepted_factors[-1]
    fact = "The run has not finished a loop: no factor set has a verdict yet"
    fix = "let it finish a loop, or name another log"
    if session.experiments:
        count = sum(one.is_factor for one in session.experiments)
        fact = f"The run accepted no factor loop (finished factor loops: {count})"
        fix = "resume the run, or name another log; a rejected set is used if SOTA_WORKSPACE_PATH names it"
    raise NothingAcceptedError(fact, place, fix)


def _file_of(experiment: Experiment, log: Path | None) -> Path:
    """Return the factor file of an accepted loop; the recorded path is stale once the project has moved."""
    places = sessions.workspaces_of(experiment, log)
    for place in places:
        if (place / FACTOR_FILE).exists():
            return _followed(place / FACTOR_FILE)
    which = f"workspace of the accepted loop {missing.number(experiment)}" + (
        f" of {log}" if log is not None else ""
    )
    there = [place for place in places if place.is_dir()]
    if there:
        raise FactorFileNotFoundError(
            f"SOTA factors file not found: {there[0] / FACTOR_FILE}",
            f"{which}. RD-Agent leaves none where it answers a loop from its result cache",
            "name the workspace of another accepted loop in SOTA_WORKSPACE_PATH (`rdagent-sota list` shows "
            "them), or mine it again with RD-Agent's CACHE_WITH_PICKLE=false",
        )
    raise WorkspaceNotFoundError(
        f"SOTA workspace path not found: {experiment.workspace_id or 'no workspace is recorded'}",
        f"{which}, looked for at {', '.join(map(str, places))}",
        "start in the project folder of that run or set WORKSPACE_PATH to the folder of its workspaces; if "
        "the workspace was removed, name another log",
    )
