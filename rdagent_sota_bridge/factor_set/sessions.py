"""What the sessions of a log folder say: which experiments a run made, and which of them it accepted.

RD-Agent pickles its whole loop into `<log>/__session__/<loop>/<step>_<name>` after every step
(`utils/workflow/loop.py`, 0.8.0 and 1.0.0). Unpickling that the usual way runs code that the file names, and
imports RD-Agent, Qlib and torch for it. Here every class of theirs becomes an inert stand-in (`safe_pickle`).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from rdagent_sota_bridge.errors import SessionError, plural
from rdagent_sota_bridge.factor_set import safe_pickle
from rdagent_sota_bridge.factor_set.names import (
    FACTOR_LOOPS,
    LATEST,
    LOGS,
    SESSION_FOLDER,
    WORKSPACES,
    logs,
    workspace_root,
)
from rdagent_sota_bridge.system import cache

FACTOR_EXPERIMENT = "QlibFactorExperiment"
"""The class of an experiment on factors (`scenarios/qlib/experiment/factor_experiment.py`)."""


@dataclass(frozen=True)
class Experiment:
    """One experiment that a run finished, with its verdict.

    Attributes:
        loop: The number of its loop; None where the session does not say.
        kind: The class of the experiment, such as `FACTOR_EXPERIMENT`.
        accepted: The verdict.
        workspace_id: Name of the workspace folder; empty for an experiment without one.
        recorded_path: Where that folder was when the run wrote it.
        factor_names: What the experiment set out to mine; empty for a model.
        ended: When its loop ended so far; None where the session does not say.
    """

    loop: int | None
    kind: str
    accepted: bool
    workspace_id: str
    recorded_path: str
    factor_names: tuple[str, ...]
    ended: datetime.datetime | None

    @property
    def is_factor(self) -> bool:
        """True for an experiment on factors."""
        return self.kind == FACTOR_EXPERIMENT


@dataclass(frozen=True)
class Session:
    """What one session file says.

    Attributes:
        file: The session file.
        loop_class: The class of the run's loop, such as `FactorRDLoop`.
        experiments: All that have a verdict, in the order of the verdicts.
        unfinished: The loops that were begun and have no verdict yet.
        next_steps: By loop, the step that it was to take next.
        written: When the last step before it ended, as a timestamp; 0 where the session does not say.
    """

    file: Path
    loop_class: str
    experiments: tuple[Experiment, ...]
    unfinished: tuple[int, ...]
    next_steps: dict[int, int]
    written: float

    @property
    def accepted_factors(self) -> tuple[Experiment, ...]:
        """The accepted experiments on factors, in the order of the verdicts."""
        return tuple(found for found in self.experiments if found.is_factor and found.accepted)

    @property
    def has_models(self) -> bool:
        """True for a run of fin_model, and for one of fin_quant once a model of it has a verdict."""
        return self.loop_class == "ModelRDLoop" or any(not found.is_factor for found in self.experiments)

    @property
    def mines_factors(self) -> bool:
        """True for a run that mines factors, whatever came of it."""
        return self.loop_class in FACTOR_LOOPS or any(found.is_factor for found in self.experiments)


@dataclass(frozen=True)
class FactorCode:
    """The code of one factor (`factor.py`), as the coder left it; the other fields as in `Experiment`."""

    name: str
    loop: int | None
    accepted: bool
    code: str
    recorded_path: str


_LOGGED = "%Y-%m-%d_%H-%M-%S-%f"  # the names of what a run logs, in UTC (log/storage.py, 0.8.0 and 1.0.0)
_SESSION = TypeAdapter(Session)


# --- files ---


def log_folder(path: Path) -> Path | None:
    """Return the log folder that a path belongs to: itself, its __session__, or a file two below that."""
    if path.name == SESSION_FOLDER:
        return path.parent
    return path if path.is_dir() else next((p.parent for p in path.parents if p.name == SESSION_FOLDER), None)


def session_file(path: Path) -> Path | None:
    """Return the file that RD-Agent's `load` would read (its own rule, 0.8.0 and 1.0.0), or None.

    Of a folder that is the highest step of the highest loop.
    """
    if not path.is_dir():
        return path if path.is_file() else None
    files = _session_files(path if path.name == SESSION_FOLDER else path / SESSION_FOLDER)
    return files[-1] if files else None


def _session_files(folder: Path) -> list[Path]:
    """Return the session files, by loop and step; a file manager's, such as .DS_Store, are none."""
    found = [
        file
        for file in folder.glob("*/*_*")
        if file.parent.name.isdecimal() and re.match(r"\d+_", file.name) and file.is_file()
    ]
    return sorted(found, key=_loop_and_step)


def _loop_and_step(file: Path) -> tuple[int, int]:
    return int(file.parent.name), int(file.name.split("_")[0])


def workspaces_of(experiment: Experiment, log: Path | None) -> list[Path]:
    """Return where the workspace of an experiment may be, most likely first; the log is that of its run."""
    if not experiment.workspace_id:
        return []
    roots = [] if log is None else [log.parent.parent / WORKSPACES]
    by_id = [root / experiment.workspace_id for root in (*roots, workspace_root())]
    return list(dict.fromkeys([*by_id, Path(experiment.recorded_path)]))


# --- logs ---


def read_session(path: Path) -> Session:
    """Return what the newest session of a log folder says; of a session file, what that one says.

    Args:
        path: A log folder, its `__session__`, or one session file.

    Raises:
        UntrustedSessionError: if RD-Agent's loader refuses the signature.
        SessionError: if there is no session, or it can't be read.
    """
    file = _named_session(path.absolute())
    first = _read(file)
    if not path.is_dir():
        return first
    # With parallel loops a lower loop can have ended last: its file has a step that this one has not seen.
    last_of_loop = {other.parent: other for other in _session_files(file.parent.parent)}
    later = [
        last
        for last in last_of_loop.values()
        if last != file and _loop_and_step(last)[1] >= first.next_steps.get(_loop_and_step(last)[0], 0)
    ]
    return max([first, *map(_read, later)], key=lambda session: (session.written, len(session.experiments)))


def newest_log(
    fits: Callable[[Session], bool], missing: str, fix: str, error_class: type[SessionError] = SessionError
) -> tuple[Path, Session, tuple[str, ...]]:
    """Return the newest log below the current folder that fits, its session, and notes on those left out.

    This is what `LATEST` means to every command: the log whose last step ended last, by the times in the
    sessions. Those of files and the names of folders say nothing: a log is copied, renamed or resumed.

    Args:
        fits: Whether a log's newest session is of the kind that is looked for.
        missing: The fact where none fits.
        fix: What to do then.
        error_class: The class of that error.

    Raises:
        SessionError: if none fits, or one that can't be read may be newer than the newest.
    """
    found: list[tuple[float, str, Path, Session]] = []
    unread: list[tuple[Path, SessionError]] = []
    folders = logs()
    for log in folders:
        try:
            session = read_session(log)
        except SessionError as error:
            unread.append((log, error))
            continue
        if fits(session):
            found.append((session.written, log.name, log, session))
    if not found:
        there = plural(len(folders), "log")
        reasons = "".join(f"; {trouble.fact} ({trouble.place})" for _, trouble in unread)
        raise error_class(
            missing + (", of those that can be read" if unread else ""),
            f"{Path.cwd() / LOGS}: {there}, of which {len(unread)} can't be read{reasons}",
            unread[0][1].fix if unread else fix,
        )
    written, _, newest, session = max(found, key=lambda entry: entry[:2])
    for log, trouble in unread:
        if _may_be_newer(log, written):
            raise SessionError(
                f"A log that can't be read may be newer than the latest: {trouble.fact}",
                f"{trouble.place}; the latest that can be read is {newest}",
                f"{trouble.fix}; or name the log to take in place of `{LATEST}`",
            )
    notes = tuple(f"a log was left out of the search: {one.fact} ({one.place})" for _, one in unread)
    return newest, session, notes


def _may_be_newer(unread: Path, written: float) -> bool:
    """Return whether a log that can't be read may be newer, by the names of what its run logged.

    Without a session no step of it has ended; without names nothing says how old it is.
    """
    if session_file(unread) is None:
        return False
    end = datetime.datetime.fromtimestamp(written, datetime.timezone.utc).strftime(_LOGGED)
    logged = [file.stem for file in unread.rglob("*.pkl") if re.fullmatch(r"[\d_-]{26}", file.stem)]
    return not logged or max(logged) > end


def factor_codes(path: Path) -> tuple[FactorCode, ...]:
    """Return the code of every factor of the experiments that have a verdict, rejected ones too.

    A factor whose code the coder itself gave up on is left out: RD-Agent takes no values from it. Path and
    errors are as in `read_session`.
    """
    file = read_session(path).file
    loop = safe_pickle.load_logged(file)
    try:
        return tuple(
            FactorCode(
                name=str(task.factor_name),
                loop=loop_of(loop, index, experiment),
                accepted=bool(feedback.decision),
                code=code,
                recorded_path=str(workspace.workspace_path),
            )
            for index, (experiment, feedback) in enumerate(loop.trace.hist)
            if type(experiment).__name__ == FACTOR_EXPERIMENT
            for task, workspace, code in implementations(experiment)
            if code
        )
    except safe_pickle.DAMAGE as error:
        raise safe_pickle.unknown_form(file, error) from None


def codes_of_set(log: Path, loop: int | None) -> tuple[FactorCode, ...]:
    """Return the codes that can have made the set of a loop of a run; raises as `read_session`.

    Those of the accepted loops up to it, and its own, whatever its verdict; of all accepted ones for None.
    """
    return tuple(
        code
        for code in factor_codes(log)
        if code.loop == loop or (code.accepted and (loop is None or code.loop is None or code.loop < loop))
    )


def _named_session(path: Path) -> Path:
    file = session_file(path)
    if file is not None:
        return file
    below = sorted(found.parent for found in path.glob(f"*/{SESSION_FOLDER}")) if path.is_dir() else []
    fix = "name the log folder of a run, such as log/2026-01-31_09-00-00-000000"
    if below:
        many = plural(len(below), "folder")
        fix = f"name one run's log folder, such as {below[-1]} ({many} with sessions there)"
    fact = "The log folder holds no session of RD-Agent" if path.exists() else "The log is not there"
    raise SessionError(fact, str(path), fix)


def _read(file: Path) -> Session:
    try:
        key = [str(file), cache.identity(file.stat()), safe_pickle.trust()]
    except OSError as error:
        raise safe_pickle.unreadable(file, error) from None
    plain = cache.find_once("sessions-2", key, lambda: _SESSION.dump_python(_session(file), mode="json"))
    return _SESSION.validate_python(plain)


# --- RD-Agent's loop, as `load_logged` returns it ---


def _session(file: Path) -> Session:
    loop = safe_pickle.load_logged(file)
    try:
        experiments = tuple(
            _experiment(loop, index, experiment, feedback)
            for index, (experiment, feedback) in enumerate(loop.trace.hist)
        )
        finished = {found.loop for found in experiments}
        ends = [end.timestamp() for number in loop.loop_trace for end in _ends(loop, number)]
        return Session(
            file=file,
            loop_class=type(loop).__name__,
            experiments=experiments,
            unfinished=tuple(sorted(int(number) for number in loop.loop_trace if number not in finished)),
            next_steps={int(number): int(step) for number, step in loop.step_idx.items()},
            written=max(ends, default=0.0),
        )
    except safe_pickle.DAMAGE as error:
        raise safe_pickle.unknown_form(file, error) from None


def _experiment(loop: Any, index: int, experiment: Any, feedback: Any) -> Experiment:
    number = loop_of(loop, index, experiment)
    workspace_id, recorded_path = workspace_of(experiment)
    kind = type(experiment).__name__
    names = [getattr(task, "factor_name", "") for task in experiment.sub_tasks]
    return Experiment(
        loop=number,
        kind=kind,
        accepted=bool(feedback.decision),
        workspace_id=workspace_id,
        recorded_path=recorded_path,
        factor_names=tuple(str(name) for name in names if name) if kind == FACTOR_EXPERIMENT else (),
        ended=max(_ends(loop, number), default=None),
    )


def workspace_of(experiment: Any) -> tuple[str, str]:
    """Return the name of an experiment's workspace folder, and where it was; empty for one without."""
    path = getattr(getattr(experiment, "experiment_workspace", None), "workspace_path", None)
    return ("", "") if path is None else (str(path.name), str(path))


def loop_of(loop: Any, index: int, experiment: Any) -> int | None:
    """Return the number of the loop that made the experiment of an index in the run's history.

    1.0.0 writes it down; in 0.8.0 the outputs of the loop's steps hold the object.
    """
    number = loop.trace.idx2loop_id.get(index)
    if number is not None:
        return int(number)
    for number, outputs in loop.loop_prev_out.items():
        proposed = outputs.get("direct_exp_gen")
        made = [outputs.get("running"), outputs.get("coding")]
        made.append(proposed.get("exp_gen") if isinstance(proposed, dict) else None)
        if any(found is experiment for found in made):
            return int(number)
    return None


def _ends(loop: Any, number: int | None) -> list[datetime.datetime]:
    """Return when the steps of a loop ended, in order."""
    ends = [step.end for step in loop.loop_trace.get(number) or ()]
    return [end for end in ends if isinstance(end, datetime.datetime)]


def implementations(experiment: Any) -> list[tuple[Any, Any, str]]:
    """Return each factor's task, its coder's workspace (or None), and its code, empty where it gave up."""
    tasks = list(experiment.sub_tasks)
    spaces = [*experiment.sub_workspace_list, *[None] * len(tasks)]
    # `process_factor_data` takes a factor's values where the coder's feedback on it is truthy.
    feedback = getattr(getattr(experiment, "prop_dev_feedback", None), "feedback_list", None)
    passed = [True] * len(tasks)
    if feedback is not None:
        passed = [bool(getattr(one, "final_decision", False)) for one in feedback] + [False] * len(tasks)
    codes = [str(getattr(space, "file_dict", {}).get("factor.py") or "") for space in spaces]
    made = zip(tasks, spaces, codes, passed, strict=False)
    return [(task, space, code if good else "") for task, space, code, good in made]
