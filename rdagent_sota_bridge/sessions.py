"""What the sessions of a log folder say: which experiments a run made, and which of them it accepted.

RD-Agent pickles its whole loop into `<log>/__session__/<loop>/<step>_<name>` after every step
(`utils/workflow/loop.py`, 0.8.0 and 1.0.0). Unpickling that the usual way runs code that the file names, and
imports RD-Agent, Qlib and torch for it. Here every class of theirs becomes an inert stand-in (`pickled`).
"""

from __future__ import annotations

import datetime
import hashlib
import io
import os
import re
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from rdagent_sota_bridge import memory, pickled
from rdagent_sota_bridge.errors import SessionError, UntrustedSessionError
from rdagent_sota_bridge.names import FACTOR_LOOPS, SESSION_FOLDER

FACTOR_EXPERIMENT = "QlibFactorExperiment"
"""The class of an experiment on factors (`scenarios/qlib/experiment/factor_experiment.py`)."""

_SIGNED = b"RDAGENT_SIGNED_PICKLE_V"  # rdagent/core/serialization.py, 1.0.0
_PICKLE = b"\x80"  # every pickle of protocol 2 and above begins so
_REMEMBERED = "sessions-1"
_NAME_KEY = (
    "set ARTIFACT_SIGNING_KEY, or ARTIFACT_SIGNING_KEY_PATH (~/.rdagent/artifact_signing.key if not set), to "
    "the key of that run"
)


@dataclass(frozen=True)
class Experiment:
    """One experiment that a run finished, with its verdict.

    Attributes:
        loop: The number of its loop; None where the session does not tell.
        kind: The class of the experiment, such as `FACTOR_EXPERIMENT`.
        accepted: The verdict.
        workspace_id: Name of the workspace folder; empty for an experiment without one.
        recorded_path: Where that folder was when the run wrote it.
        factor_names: What the experiment set out to mine; empty for a model.
        ended: When its loop ended so far; None where the session does not tell.
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
    """

    file: Path
    loop_class: str
    experiments: tuple[Experiment, ...]
    unfinished: tuple[int, ...]

    @property
    def accepted_factors(self) -> tuple[Experiment, ...]:
        """The accepted experiments on factors, in the order of the verdicts."""
        return tuple(found for found in self.experiments if found.is_factor and found.accepted)

    @property
    def mines_factors(self) -> bool:
        """True for a run that mines factors, whatever came of it."""
        return self.loop_class in FACTOR_LOOPS or any(found.is_factor for found in self.experiments)


@dataclass(frozen=True)
class FactorCode:
    """The code of one factor, as the coder left it.

    Attributes:
        name: The factor's name.
        loop: The number of its loop; None where the session does not tell.
        accepted: The verdict on its experiment.
        code: The text of `factor.py`.
        recorded_path: Where the folder with that file was when the run wrote it.
    """

    name: str
    loop: int | None
    accepted: bool
    code: str
    recorded_path: str


@dataclass(frozen=True)
class _Read:
    """A session, and the step that each loop was to take next when it was written."""

    session: Session
    next_steps: dict[int, int]


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
    return max(files, key=_loop_and_step) if files else None


def _session_files(folder: Path) -> list[Path]:
    # What a file manager leaves, such as .DS_Store, matches the pattern too.
    return [
        file
        for file in folder.glob("*/*_*")
        if file.parent.name.isdecimal() and re.match(r"\d+_", file.name) and file.is_file()
    ]


def _loop_and_step(file: Path) -> tuple[int, int]:
    return int(file.parent.name), int(file.name.split("_")[0])


# --- what is read ---


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
        return first.session
    # With parallel loops a lower loop can have ended last: its file has a step that this one has not seen.
    sessions = [first.session]
    last_of_loop = {
        other.parent: other for other in sorted(_session_files(file.parent.parent), key=_loop_and_step)
    }
    for last in last_of_loop.values():
        loop, step = _loop_and_step(last)
        if last != file and step >= first.next_steps.get(loop, 0):
            sessions.append(_read(last).session)
    return max(sessions, key=lambda session: len(session.experiments))


def factor_codes(path: Path) -> tuple[FactorCode, ...]:
    """Return the code of every factor of the experiments that have a verdict, rejected ones too.

    A factor whose code the coder itself gave up on is left out: RD-Agent takes no values from it.

    Args:
        path: A log folder, its `__session__`, or one session file.

    Raises:
        UntrustedSessionError: if RD-Agent's loader refuses the signature.
        SessionError: if there is no session, or it can't be read.
    """
    file = read_session(path).file
    loop = load(file)
    try:
        return tuple(_codes(loop))
    except pickled.DAMAGE as error:
        raise unknown_form(file, error) from None


def _named_session(path: Path) -> Path:
    file = session_file(path)
    if file is not None:
        return file
    below = sorted(found.parent for found in path.glob(f"*/{SESSION_FOLDER}")) if path.is_dir() else []
    if below:
        fix = f"name one run's log folder; {len(below)} folder(s) there hold sessions, such as {below[-1]}"
    else:
        fix = "name the log folder of a run, such as log/2026-01-31_09-00-00-000000"
    fact = "The log folder holds no session of RD-Agent" if path.exists() else "The log is not there"
    raise SessionError(fact, str(path), fix)


def _read(file: Path) -> _Read:
    try:
        identity = memory.identity(file.stat())
    except OSError as error:
        raise _unreadable(file, error) from None
    key = [str(file), identity, _trust()]
    known = memory.recall(_REMEMBERED, key) if identity is not None else None
    if known is not None:
        return _from_plain(file, known)
    loop = load(file)
    try:
        read = _summary(file, loop)
    except pickled.DAMAGE as error:
        raise unknown_form(file, error) from None
    if identity is not None:
        memory.remember(_REMEMBERED, key, _to_plain(read))
    return read


def _trust() -> list[Any]:
    """Return all that RD-Agent's verdict on a signature depends on, without importing it.

    Its release, and the settings of `core/conf.py` and `core/serialization.py` (1.0.0): the key or its file,
    and whether unsigned sessions are allowed. Names of settings count in any case, as pydantic has it.
    """
    settings = {name.upper(): value for name, value in os.environ.items()}
    key_file = _key_file(settings)
    try:
        status = key_file.stat()
        # Without the time of a change of the file's own record: RD-Agent sets its mode whenever it reads it.
        identity = [status.st_size, status.st_mtime_ns, status.st_ino]
    except OSError:  # no key yet, or one that may not be read: RD-Agent's loader tells
        identity = []
    return [
        _release(),
        hashlib.sha256(settings.get("ARTIFACT_SIGNING_KEY", "").encode()).hexdigest(),
        str(key_file),
        identity,
        settings.get("ALLOW_UNSAFE_LEGACY_PICKLE", ""),
    ]


def _release() -> str:
    try:
        return metadata.version("rdagent")
    except metadata.PackageNotFoundError:
        return ""


def _key_file(settings: dict[str, str]) -> Path:
    named = settings.get("ARTIFACT_SIGNING_KEY_PATH")
    return Path(named).expanduser() if named else Path.home() / ".rdagent" / "artifact_signing.key"


def _to_plain(read: _Read) -> dict[str, Any]:
    experiments = [
        {**asdict(found), "ended": found.ended.isoformat() if found.ended else None}
        for found in read.session.experiments
    ]
    return {
        "loop_class": read.session.loop_class,
        "experiments": experiments,
        "unfinished": list(read.session.unfinished),
        "next_steps": sorted(read.next_steps.items()),
    }


def _from_plain(file: Path, plain: dict[str, Any]) -> _Read:
    experiments = tuple(
        Experiment(
            **{
                **found,
                "factor_names": tuple(found["factor_names"]),
                "ended": datetime.datetime.fromisoformat(found["ended"]) if found["ended"] else None,
            }
        )
        for found in plain["experiments"]
    )
    session = Session(file, plain["loop_class"], experiments, tuple(plain["unfinished"]))
    return _Read(session, dict(plain["next_steps"]))


def _summary(file: Path, loop: Any) -> _Read:
    history = list(loop.trace.hist)
    experiments = tuple(
        _experiment(loop, index, experiment, feedback) for index, (experiment, feedback) in enumerate(history)
    )
    told = {found.loop for found in experiments}
    unfinished = tuple(sorted(int(number) for number in loop.loop_trace if number not in told))
    session = Session(file, type(loop).__name__, experiments, unfinished)
    return _Read(session, {int(number): int(step) for number, step in loop.step_idx.items()})


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
        ended=_ended(loop, number),
    )


def workspace_of(experiment: Any) -> tuple[str, str]:
    """Return the name of an experiment's workspace folder, and where it was; empty for one without."""
    path = getattr(getattr(experiment, "experiment_workspace", None), "workspace_path", None)
    return ("", "") if path is None else (str(path.name), str(path))


def loop_of(loop: Any, index: int, experiment: Any) -> int | None:
    """Return the number of an experiment's loop: 1.0.0 writes it down; in 0.8.0 its steps hold the object.

    Args:
        loop: The run's loop, from `load`.
        index: The position of the experiment in the run's history.
        experiment: The experiment.
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


def _ended(loop: Any, number: int | None) -> datetime.datetime | None:
    steps = loop.loop_trace.get(number)
    end = steps[-1].end if steps else None
    return end if isinstance(end, datetime.datetime) else None


def _codes(loop: Any) -> list[FactorCode]:
    found = []
    for index, (experiment, feedback) in enumerate(loop.trace.hist):
        if type(experiment).__name__ != FACTOR_EXPERIMENT:
            continue
        found += [
            FactorCode(
                name=str(task.factor_name),
                loop=loop_of(loop, index, experiment),
                accepted=bool(feedback.decision),
                code=code,
                recorded_path=str(workspace.workspace_path),
            )
            for task, workspace, code in implementations(experiment)
            if code
        ]
    return found


def implementations(experiment: Any) -> list[tuple[Any, Any, str]]:
    """Return each factor's task, its coder's workspace (or None), and its code.

    The code is empty where the coder gave up on it.
    """
    # `process_factor_data` takes a factor's values where the coder's feedback on it is truthy.
    told = getattr(getattr(experiment, "prop_dev_feedback", None), "feedback_list", None)
    tasks = list(experiment.sub_tasks)
    verdicts = [told is None] * len(tasks)
    if told is not None:
        verdicts[: len(told)] = [_passed(one) for one in told][: len(tasks)]
    spaces = [*experiment.sub_workspace_list, *[None] * len(tasks)]
    codes = [str(getattr(space, "file_dict", {}).get("factor.py") or "") for space in spaces]
    made = zip(tasks, spaces, codes, verdicts, strict=False)
    return [(task, space, code if passed else "") for task, space, code, passed in made]


def _passed(feedback: Any) -> bool:
    return bool(getattr(feedback, "final_decision", False))


# --- files of RD-Agent's ---


class _Serializer:
    """The form of `pickle` that `rdagent.core.serialization.load` takes (1.0.0)."""

    def dumps(self, obj: object, protocol: int | None = None) -> bytes:
        """Refuse: sessions are read here, never written."""
        raise NotImplementedError

    def loads(self, data: bytes) -> Any:
        """Unpickle with stand-ins."""
        return pickled.load(io.BytesIO(data))


def load(file: Path) -> Any:
    """Return what a file in a log holds, with stand-ins, through RD-Agent's own loader where it has one.

    Args:
        file: A session (then it is the run's loop), or another pickle that RD-Agent wrote into its log.

    Raises:
        UntrustedSessionError: if RD-Agent's loader refuses the signature.
        SessionError: if it can't be read.
    """
    serialization = _serialization()
    try:
        with file.open("rb") as content:
            head = content.read(len(_SIGNED))
            if not head.startswith(_PICKLE) and not _SIGNED.startswith(head):
                # Before the look at the signature: of such a file it would advise to trust what is unsigned.
                fix = "name the log folder of a run, such as log/2026-01-31_09-00-00-000000"
                raise SessionError("The file is no session of RD-Agent, nor any pickle", str(file), fix)
            content.seek(0)
            return _load_content(file, content, head == _SIGNED, serialization)
    except OSError as error:
        raise _unreadable(file, error) from None
    except pickled.DAMAGE as error:
        raise SessionError(
            f"The session can't be read: {type(error).__name__}: {_text(error)}",
            str(file),
            "if the file is cut off, name an earlier session file of that log, or the workspace itself in "
            "SOTA_WORKSPACE_PATH",
        ) from None


def _load_content(file: Path, content: BinaryIO, signed: bool, serialization: ModuleType | None) -> Any:
    if serialization is None:
        if signed:
            raise UntrustedSessionError(
                "The session is signed, and the installed RD-Agent can't verify signatures",
                str(file),
                "use the RD-Agent of that run (1.0.0 or later), or name the workspace itself in "
                "SOTA_WORKSPACE_PATH",
            )
        return pickled.load(content)
    settings = serialization.RD_AGENT_SETTINGS
    key_file = Path(settings.artifact_signing_key_path).expanduser()
    if signed and not settings.artifact_signing_key and _is_missing(key_file):
        # RD-Agent's loader would make one first, which can't be the right one.
        raise UntrustedSessionError(
            "The session is signed, and there is no signing key to verify it with",
            f"{file}, with the key looked for at {key_file}",
            f"{_NAME_KEY}; or name the workspace itself in SOTA_WORKSPACE_PATH",
        )
    try:
        return serialization.load(content, serializer=_Serializer())
    except serialization.UntrustedArtifactError as error:
        raise _untrusted(file, signed, error) from None


def _is_missing(file: Path) -> bool:
    try:
        file.stat()
    except FileNotFoundError:
        return True
    except OSError:  # in a closed folder: RD-Agent's loader tells
        return False
    return False


def _serialization() -> ModuleType | None:
    """Return RD-Agent's loader of signed pickles, or None for an RD-Agent that signs nothing (0.8.0)."""
    try:
        return import_module("rdagent.core.serialization")
    except ModuleNotFoundError as error:
        if error.name == "rdagent.core.serialization":
            return None
        if error.name == "rdagent":
            raise SessionError(
                "RD-Agent is not installed here, and a log's sessions are read with its loader",
                "the Python environment of this command",
                "install rdagent, or name the workspace itself in SOTA_WORKSPACE_PATH",
            ) from None
        raise


def _untrusted(file: Path, signed: bool, error: Exception) -> UntrustedSessionError:
    if signed:
        return UntrustedSessionError(
            f"RD-Agent refuses the session: {error}. It was signed with another key, or changed since",
            str(file),
            f"{_NAME_KEY}; or name the workspace itself in SOTA_WORKSPACE_PATH",
        )
    return UntrustedSessionError(
        "RD-Agent refuses the session: it is not signed, as those of RD-Agent 0.8.0 are not",
        str(file),
        "name the workspace itself in SOTA_WORKSPACE_PATH; or, if you trust where the file comes from, set "
        "RD-Agent's own ALLOW_UNSAFE_LEGACY_PICKLE=true",
    )


def _unreadable(file: Path, error: OSError) -> SessionError:
    return SessionError(
        f"The session can't be read: {error.strerror or error}",
        str(file),
        "make it, and RD-Agent's signing key, files that you may read (ls -l tells)",
    )


def unknown_form(file: Path, error: Exception) -> SessionError:
    """Return the error of a file that could be unpickled, and is no session."""
    return SessionError(
        f"The file is no session of RD-Agent's, or of a form that is not known: {_text(error)}",
        str(file),
        f"name the log folder of a run, the one that holds {SESSION_FOLDER}",
    )


def _text(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
