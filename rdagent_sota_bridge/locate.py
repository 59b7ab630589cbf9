"""From what the user named to the factor file: a workspace, or the log of the run that accepted the set."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rdagent_sota_bridge import sessions, urls
from rdagent_sota_bridge.errors import (
    FactorFileError,
    FactorFileNotFoundError,
    LocateError,
    NothingAcceptedError,
    SessionError,
    WorkspaceNotFoundError,
)
from rdagent_sota_bridge.sessions import Experiment, Session

FACTOR_FILE = "combined_factors_df.parquet"
"""The name that RD-Agent gives the factors of an experiment (`scenarios/qlib/developer/factor_runner.py`)."""

RESULT_FILE = "qlib_res.csv"
"""Where RD-Agent's `read_exp_res.py` leaves the metrics of a back-test, beside the factor file."""

LATEST = "latest"
"""The word for the newest log that accepted anything; a folder of that name is `./latest`."""

LOGS = Path("log")
"""Where RD-Agent puts its log folders, below the folder it is started in (`log/conf.py`, 0.8.0 and 1.0.0)."""

LATEST_LOG = "latest.log"
"""The text log that this package writes beside the log folders."""

_LOG_NAME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")  # log/conf.py, 0.8.0 and 1.0.0
_WORKSPACES = Path("git_ignore_folder") / "RD-Agent_workspace"
_TELLS = "`rdagent-sota list` tells which loop was accepted, and SOTA_LOG_PATH takes it from the run's log"


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
"""From a URL to the local copy of what it names (`fetching.py`)."""


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
    named = _each_once([_named_set(path, fetch) for path in workspace_paths])
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
    try:
        path = Path.cwd() / Path(text).expanduser()
        there, is_folder = path.exists(), path.is_dir()
        is_log = sessions.SESSION_FOLDER in path.parts or (path / sessions.SESSION_FOLDER).is_dir()
        is_log = is_log or path.name == LATEST_LOG
        is_set = not is_folder or (path / FACTOR_FILE).exists()
        what = "" if is_log or is_set else _what_it_is(path)
    except RuntimeError as error:  # ~name of a user that the system does not know
        raise _nothing_named(text, str(error)) from None
    except OSError as error:
        raise _nothing_named(text, str(error.strerror)) from None
    if not there:
        raise _nothing_named(text, f"nothing is at {path}")
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
        f"{sessions.SESSION_FOLDER}; `rdagent-sota list` shows both",
    )


def _near(text: str) -> str:
    """Return the fix for a text that may be a name written wrong; empty if it is none."""
    names = [LATEST, *(str(LOGS / log.name) for log in logs())]
    near = difflib.get_close_matches(text.lower(), names, n=2, cutoff=0.8)
    return f"did you mean {' or '.join(near)}?" if near else ""


def told_by_log(found: Located) -> Located:
    """Return a file whose workspace was named with the log that tells of it, if there is one.

    Looked at are the logs below the current folder, and of the project that holds the workspace; one that
    can't be read tells nothing.
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
        for told in session.experiments:
            if told.is_factor and told.workspace_id == folder.name:
                return Located(found.path, log, told.loop, folder.name, told.accepted, found.notes)
    return found


def workspace_root() -> Path:
    """Return the folder of all workspaces, as RD-Agent's settings have it, without importing them.

    `RD_AGENT_SETTINGS.workspace_path` (`core/conf.py`, 0.8.0 and 1.0.0): the variable WORKSPACE_PATH, in any
    case as pydantic reads it, or a folder below the current one.
    """
    named = next((value for name, value in os.environ.items() if name.upper() == "WORKSPACE_PATH"), None)
    return Path.cwd() / (_WORKSPACES if named is None else named)


def existing_log(named: str) -> Path:
    """Return the path that a text names, of a log folder or something in it; relative to the current folder.

    Raises:
        SessionError: if nothing is there.
    """
    try:
        path = Path.cwd() / Path(named).expanduser()
        if path.exists():
            return path
        where = f"looked for at {path}"
    except (OSError, RuntimeError, ValueError) as error:  # a closed folder; ~name of nobody; a null byte
        where = str(error)
    raise SessionError(
        f"Log path not found: {named}",
        where,
        f"name a log folder such as log/2026-01-31_09-00-00-000000, or `{LATEST}`; a relative path is "
        "relative to the folder that the command is started in",
    )


def logs(project: Path | None = None) -> list[Path]:
    """Return the log folders of a project that hold sessions, by name; None is the current folder."""
    folder = (project or Path.cwd()) / LOGS
    return sorted(found.parent for found in folder.glob(f"*/{sessions.SESSION_FOLDER}"))


def _each_once(found: list[Located]) -> tuple[Located, ...]:
    first: dict[Path, Located] = {}
    for one in found:
        first.setdefault(one.path, one)
    return tuple(first.values())


def _shown(found: tuple[Located, ...]) -> str:
    return " and ".join(str(one.path) for one in found)


# --- a workspace ---


def _named_set(workspace_path: str, fetch: Fetch) -> Located:
    return fetch(workspace_path) if urls.is_url(workspace_path) else Located(_named_file(workspace_path))


def _named_file(workspace_path: str) -> Path:
    try:
        return _file_of(workspace_path)
    except OSError as error:
        raise LocateError(
            f"SOTA workspace path can't be read: {error.strerror}",
            f"SOTA_WORKSPACE_PATH={workspace_path}",
            "name a folder, or a factor file, that you may read (ls -ld tells)",
        ) from None


def _file_of(workspace_path: str) -> Path:
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
    if sessions.SESSION_FOLDER in names:
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
                f"{FACTOR_FILE}, the newest {shown}. A rejected loop leaves one too: {_TELLS}"
            )
    return f"name the workspace of an accepted factor loop, the folder that holds {FACTOR_FILE}"


# --- a log ---


def _accepted_set(log_path: str) -> Located:
    """Return the set of the last accepted factor loop of a log, or of the newest log."""
    if log_path == LATEST:
        with _places_that_may_be_closed(log_path):
            return _latest()
    if urls.is_url(log_path):
        raise SessionError(
            "SOTA_LOG_PATH names a URL, and logs are read from the disk",
            f"SOTA_LOG_PATH={urls.without_secrets(log_path)}",
            "push the set where its log is (`rdagent-sota push LOG URL`), and name that URL in "
            "SOTA_WORKSPACE_PATH",
        )
    try:
        path = Path.cwd() / Path(log_path).expanduser()
        found = path.exists()
    except RuntimeError as error:
        raise _log_not_found(log_path, str(error)) from None
    except OSError as error:
        raise _log_not_found(log_path, str(error.strerror)) from None
    if not found:
        raise _log_not_found(log_path, f"looked for at {path}")
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
    path = path.resolve()
    with _places_that_may_be_closed(log_path):
        return _set_of(path, sessions.read_session(path))


@contextmanager
def _places_that_may_be_closed(log_path: str) -> Iterator[None]:
    """Explain where a place that the workspace may be in can't be entered."""
    try:
        yield
    except OSError as error:
        raise LocateError(
            f"The workspace of an accepted loop can't be looked for: {error.strerror}",
            f"{error.filename}, for SOTA_LOG_PATH={log_path}",
            "name the workspace itself in SOTA_WORKSPACE_PATH, or make the folder one that you may enter",
        ) from None


def _log_not_found(log_path: str, where: str) -> SessionError:
    return SessionError(
        f"SOTA log path not found: {log_path}",
        f"SOTA_LOG_PATH, {where}",
        _near(log_path)
        or "correct the path; a relative path is relative to the folder that the command is started in",
    )


def _latest() -> Located:
    """Return the set of the newest log that accepted one, by the times in the sessions: a copy has others."""
    found, unread, others = [], [], 0
    for log in logs():
        try:
            session = sessions.read_session(log)
        except SessionError as error:
            unread.append((log, error))
            continue
        if session.accepted_factors:
            found.append((_ended(session), log, session))
        else:
            others += 1
    if not found:
        facts = "".join(f"; {trouble.fact} ({trouble.place})" for _, trouble in unread)
        fix = "run `rdagent fin_factor` in this folder, or name another project's log folder in SOTA_LOG_PATH"
        raise NothingAcceptedError(
            "No log accepted a factor loop" + (", of those that can be read" if unread else ""),
            f"{Path.cwd() / LOGS}: {others} log(s) that accepted none, {len(unread)} unreadable{facts}",
            unread[0][1].fix if unread else fix,
        )
    ended, log, session = max(found, key=lambda entry: entry[:2])
    for other, trouble in unread:
        if _may_be_newer(other, log, ended):
            raise SessionError(
                f"A log that can't be read may be newer than the latest accepted one: {trouble.fact}",
                f"{trouble.place}; the latest that can be read is {log}",
                f"{trouble.fix}; or name the log to take in SOTA_LOG_PATH",
            )
    notes = (
        f"a log was left out of the search for the latest: {error.fact} ({error.place})"
        for _, error in unread
    )
    return _set_of(log.resolve(), session, tuple(notes))


def _may_be_newer(unread: Path, log: Path, ended: float) -> bool:
    """Tell whether a log may be newer than one that ended then: by RD-Agent's names, or by its files."""
    if _LOG_NAME.match(unread.name) and _LOG_NAME.match(log.name):
        return unread.name > log.name
    return any(file.stat().st_mtime > ended for file in unread.glob(f"{sessions.SESSION_FOLDER}/*/*"))


def _ended(session: Session) -> float:
    return max((one.ended.timestamp() for one in session.experiments if one.ended is not None), default=0.0)


def _set_of(path: Path, session: Session, notes: tuple[str, ...] = ()) -> Located:
    accepted = _last_accepted(session)
    log = sessions.log_folder(path)
    file = _file_of_experiment(accepted, log)
    notes += _sibling_notes(file, accepted, session, log)
    return Located(file, log, accepted.loop, accepted.workspace_id, True, notes)


def _last_accepted(session: Session) -> Experiment:
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
        "go on with the run, or name another log; a rejected set is used if SOTA_WORKSPACE_PATH names it",
    )


def _file_of_experiment(experiment: Experiment, log: Path | None) -> Path:
    """Find the factor file of an accepted loop; the recorded path is stale once the project has moved."""
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
    roots = [] if log is None else [log.parent.parent / _WORKSPACES]
    roots.append(workspace_root())
    by_id = [root / experiment.workspace_id for root in roots]
    return list(dict.fromkeys([*by_id, Path(experiment.recorded_path)]))


def _number(experiment: Experiment) -> str:
    return "of unknown number" if experiment.loop is None else str(experiment.loop)


def _sibling_notes(file: Path, accepted: Experiment, session: Session, log: Path | None) -> tuple[str, ...]:
    """Tell of accepted factors that the last accepted file lacks.

    A loop starts from what was accepted when it was proposed: one that ran beside it is not in its file.
    """
    siblings = [one for one in session.accepted_factors if one is not accepted]
    if not siblings:
        return ()
    from rdagent_sota_bridge import factors  # late: pandas and pyarrow; and it names RESULT_FILE from here

    try:
        columns = set(factors.read_footer(file).columns)
    except FactorFileError:
        return ()  # whatever reads the set next refuses it, with every reason
    notes = []
    for sibling in siblings:
        found = next(
            (place / FACTOR_FILE for place in workspaces_of(sibling, log) if (place / FACTOR_FILE).is_file()),
            None,
        )
        both = f"loop {_number(sibling)} was accepted too, and"
        try:
            names = sibling.factor_names if found is None else factors.read_footer(found).columns
        except FactorFileError as error:
            notes.append(f"{both} its set could not be compared: {error.failures[0]} ({found})")
            continue
        missing = ", ".join(name for name in names if name not in columns)
        lacks = f"{both} the set of loop {_number(accepted)} lacks its {missing}"
        if missing and found is None:
            notes.append(f"{lacks}; its own file is gone")
        elif missing and found is not None:
            joined = f"{found.resolve().parent}{os.pathsep}{file.parent}"
            notes.append(
                f"{lacks} (loops that run side by side do not see each other's). To join both: "
                f"SOTA_WORKSPACE_PATH={joined}"
            )
    return tuple(notes)
