"""What a run did, loop by loop: from its log folder, and the workspaces that the log names."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from rdagent_sota_bridge.bridge import verdict
from rdagent_sota_bridge.bridge.verdict import Asked
from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.factor_set import safe_pickle, sessions
from rdagent_sota_bridge.factor_set.names import COMMANDS, FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.qlib_files import training_record
from rdagent_sota_bridge.qlib_files.manifest import MANIFEST_FILE
from rdagent_sota_bridge.qlib_files.training_record import QlibRecord
from rdagent_sota_bridge.system.files import read_json

_MODEL_EXPERIMENT = "QlibModelExperiment"  # `scenarios/qlib/experiment/model_experiment.py`, 0.8.0 and 1.0.0
_EXCEPTION = "_EXCEPTION"  # LoopBase.EXCEPTION_KEY of `utils/workflow/loop.py`, 0.8.0 and 1.0.0
_SETTINGS = ("RD_AGENT_SETTINGS", "RDLOOP_SETTINGS")  # the tags of `components/workflow/rd_loop.py`
_SECRET = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)


@dataclass(frozen=True)
class Factor:
    """One factor that a loop set out to mine; `code` (of `factor.py`) is empty where the coder gave it up."""

    name: str
    description: str
    formulation: str
    code: str


@dataclass(frozen=True)
class Loop:
    """One loop of a run. All texts come from an LLM or its code: they are data, never markup.

    Attributes:
        number: The number of the loop; None where the session does not say.
        kind: `factor`, `model`, or `unknown` where it has no experiment yet.
        name: The model's name; of a factor loop the factors' names with commas between.
        model_type: `Tabular`, `TimeSeries` or another type that the LLM named; empty for factors.
        accepted: The verdict; None for a loop without one.
        failure: Why the loop has no result; empty where it has one.
        hypothesis: What the LLM set out to show.
        observations: What the LLM saw in the result; may be empty, as the reason for the verdict.
        started: When its first step began (UTC); None where the session does not say.
        ended: When its last step ended (UTC).
        seconds: The time of its steps together, without the pauses between them; None if not known.
        metrics: Qlib's metrics by Qlib's names (`IC`, `1day.excess_return_with_cost.annualized_return` …);
            empty where there is no result.
        features: The input width of the trained network; None where nothing recorded it.
        cached: True where RD-Agent answered from its result cache; None for a loop without a result.
        workspace: The workspace folder, where it is today; None where it is gone or was never made.
        manifest: The content of `sota_manifest.json`; None where there is none.
        record: What Qlib recorded; None where nothing is recorded there.
        code: Of a model loop the text of `model.py`; may be empty.
        asked: Of a model loop how its verdict was asked for; None where the log does not say.
    """

    number: int | None
    kind: str
    name: str
    model_type: str = ""
    accepted: bool | None = None
    failure: str = ""
    hypothesis: str = ""
    observations: str = ""
    reason: str = ""
    started: datetime.datetime | None = None
    ended: datetime.datetime | None = None
    seconds: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    features: int | None = None
    cached: bool | None = None
    workspace: Path | None = None
    manifest: dict[str, Any] | None = None
    record: QlibRecord | None = None
    factors: tuple[Factor, ...] = ()
    code: str = ""
    asked: Asked | None = None


@dataclass(frozen=True)
class Run:
    """One run of RD-Agent.

    Attributes:
        log: The log folder, absolute.
        command: `fin_factor`, `fin_model`, `fin_quant` or `fin_factor_report`; else the loop's class.
        loops: In the order of their numbers; loops without a verdict are among them.
        asked: RD-Agent's settings of that run, as text; empty where the log does not have them.
        notes: What could not be read, and why.
    """

    log: Path
    command: str
    loops: tuple[Loop, ...]
    asked: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_run(log: Path) -> Run:
    """Return what a run did, by the newest session of its log and the workspaces that it names.

    What of a loop can't be read is left empty, and `notes` say so.

    Args:
        log: A log folder, its `__session__`, or one session file.

    Raises:
        UntrustedSessionError: if RD-Agent's loader refuses the signature.
        SessionError: if there is no session, or it can't be read.
    """
    session = sessions.read_session(log)
    folder = sessions.log_folder(log.absolute())
    loop = safe_pickle.load_logged(session.file)
    notes: list[str] = []
    try:
        found = [
            _finished(loop, experiment, feedback, summary, folder, notes)
            for (experiment, feedback), summary in zip(loop.trace.hist, session.experiments, strict=True)
        ]
        found += [_unfinished(loop, number, folder, notes) for number in session.unfinished]
    except safe_pickle.DAMAGE as error:
        raise safe_pickle.unknown_form(session.file, error) from None
    return Run(
        log=folder or session.file,
        command=COMMANDS.get(session.loop_class, session.loop_class),
        loops=tuple(sorted(found, key=lambda one: (one.number is None, one.number or 0))),
        asked={} if folder is None else _settings(folder, notes),
        notes=tuple(notes),
    )


@contextmanager
def noting(notes: list[str], what: object) -> Iterator[None]:
    """Turn what can't be read into a note, so that the rest of the run is shown."""
    try:
        yield
    except BridgeError as error:
        notes.append(f"{what}: {error.fact} ({error.place})")
    except (OSError, *safe_pickle.DAMAGE) as error:
        notes.append(f"{what} can't be read ({type(error).__name__}: {error})"[:300])


def _newest(folder: Path, pattern: str) -> Path | None:
    """Return the last file that RD-Agent logged there: it names them by their time."""
    return max(folder.glob(pattern), key=lambda file: file.name, default=None)


def _text(of: Any, name: str) -> str:
    value = getattr(of, name, None)
    return value if isinstance(value, str) else ""


# --- loops ---


def _finished(
    loop: Any,
    experiment: Any,
    feedback: Any,
    summary: sessions.Experiment,
    log: Path | None,
    notes: list[str],
) -> Loop:
    """Return a loop that has a verdict."""
    number = summary.loop
    fields = _fields(loop, experiment, summary, log, notes)
    reason, observations = _text(feedback, "reason"), _text(feedback, "observations")
    metrics, failure = _metrics(experiment, fields["workspace"], number, notes), ""
    skipped = loop.loop_prev_out.get(number, {}).get(_EXCEPTION)
    if skipped is not None:
        # The exception's text: 1.0.0 puts it into the reason, 0.8.0 and fin_quant into the observations.
        metrics, failure = {}, reason or observations or f"RD-Agent skipped it: {type(skipped).__name__}"
    elif not metrics:
        where = "is in its workspace, none in the session"
        failure = f"its result is gone: no {RESULT_FILE} with a number {where}"
    asked = None
    # RD-Agent asks twice, and reads the second answer (`scenarios/qlib/developer/feedback.py`, 0.5 to 1.0);
    # `build_messages_and_create_chat_completion` logs each request (`oai/backend/base.py`).
    if log is not None and fields["kind"] == "model":
        request = _newest(log / f"Loop_{number}" / "feedback", "**/debug_llm/**/*.pkl")
        if request is not None:
            with noting(notes, f"how the verdict was asked for in {request}"):
                content = safe_pickle.load_logged(request)
                asked = verdict.asked(str(content["system"]), str(content["resp"]))
    return Loop(
        **fields,
        accepted=summary.accepted,
        failure=failure,
        observations=observations,
        reason=reason,
        metrics=metrics,
        cached=_is_cached(fields) if metrics else None,
        asked=asked,
    )


def _unfinished(loop: Any, number: int, log: Path | None, notes: list[str]) -> Loop:
    """Return a loop that was begun and has no verdict, with what its finished steps left."""
    outputs = loop.loop_prev_out.get(number, {})
    proposed = outputs.get("direct_exp_gen")
    proposed = proposed if isinstance(proposed, dict) else {}
    experiment = outputs.get("running") or outputs.get("coding") or proposed.get("exp_gen")
    ended = [str(name) for name in outputs if not str(name).startswith("_")]
    last = f"the last step that ended is {ended[-1]}" if ended else "no step of it ended"
    summary = sessions.Experiment(number, "", False, *sessions.workspace_of(experiment), (), None)
    fields = _fields(loop, experiment, summary, log, notes)
    fields["hypothesis"] = fields["hypothesis"] or _text(proposed.get("propose"), "hypothesis")
    return Loop(**fields, failure=f"not finished: {last}")


def _fields(
    loop: Any, experiment: Any, summary: sessions.Experiment, log: Path | None, notes: list[str]
) -> dict[str, Any]:
    """Return the fields of a loop that are known without a result."""
    steps = [one for one in loop.loop_trace.get(summary.loop, []) if isinstance(one.end, datetime.datetime)]
    fields: dict[str, Any] = {
        "number": summary.loop,
        "kind": "unknown",
        "name": "",
        "hypothesis": _text(getattr(experiment, "hypothesis", None), "hypothesis"),
        "started": min((one.start for one in steps), default=None),
        "ended": max((one.end for one in steps), default=None),
        "seconds": sum((one.end - one.start).total_seconds() for one in steps) if steps else None,
    }
    kind, tasks = type(experiment).__name__, list(getattr(experiment, "sub_tasks", []))
    if kind == sessions.FACTOR_EXPERIMENT:
        mined = tuple(
            Factor(
                name=_text(task, "factor_name"),
                description=_text(task, "factor_description") or _text(task, "description"),
                formulation=_text(task, "factor_formulation"),
                code=code,
            )
            for task, _, code in sessions.implementations(experiment)
        )
        fields |= {"kind": "factor", "factors": mined, "name": ", ".join(one.name for one in mined)}
    elif kind == _MODEL_EXPERIMENT and tasks:
        # The code is that of the coder's workspace, as `develop` takes it (0.8.0 and 1.0.0).
        spaces = [*experiment.sub_workspace_list, experiment.experiment_workspace]
        codes = (getattr(space, "file_dict", {}).get("model.py") for space in spaces)
        fields |= {
            "kind": "model",
            "name": _text(tasks[0], "name"),
            "model_type": _text(tasks[0], "model_type"),
            "code": str(next(filter(None, codes), "")),
        }
    # The recorded path is stale once the project has moved.
    workspace = next((place for place in sessions.workspaces_of(summary, log) if place.is_dir()), None)
    return fields | _left(workspace, notes)


# --- a workspace ---


def _left(workspace: Path | None, notes: list[str]) -> dict[str, Any]:
    """Return the fields of a loop that are read from its workspace."""
    manifest = record = None
    if workspace is not None:
        file = workspace / MANIFEST_FILE
        if file.is_file():
            with noting(notes, file):
                content = read_json(file)
                if not isinstance(content, dict):
                    raise TypeError(f"it holds a {type(content).__name__}")
                manifest = content
        with noting(notes, f"the training in {workspace}"):
            record = training_record.read(workspace)
            notes += [f"{doubt} ({workspace})" for doubt in (record.doubts if record else ())]
    loaded = (manifest or {}).get("qlib_loaded")
    width = loaded.get("num_features") if isinstance(loaded, dict) else None
    if not isinstance(width, int):
        width = record.num_features if record else None
    return {"workspace": workspace, "manifest": manifest, "record": record, "features": width}


def _metrics(
    experiment: Any, workspace: Path | None, number: int | None, notes: list[str]
) -> dict[str, float]:
    """Return Qlib's metrics, from the workspace or else from the session; empty where none is a number."""
    found: dict[str, float] = {}
    if workspace is not None:
        with noting(notes, f"the result in {workspace}"):
            found = training_record.metrics_beside(workspace / FACTOR_FILE)
    # The session holds that of a loop which RD-Agent's cache answered, in `running_info` (0.8.0 and 1.0.0).
    result = getattr(getattr(experiment, "running_info", None), "result", None)
    if result is not None and not any(map(math.isfinite, found.values())):
        with noting(notes, f"the result of loop {'?' if number is None else number} in the session"):
            found = safe_pickle.metrics(result)
    return found if any(map(math.isfinite, found.values())) else {}


def _is_cached(fields: dict[str, Any]) -> bool | None:
    from_cache = (fields["manifest"] or {}).get("from_cache")  # release 0.1.0 wrote it
    if isinstance(from_cache, bool):
        return from_cache
    # RD-Agent's cache copies a result and no file (`CachedRunner.assign_cached_result`).
    workspace = fields["workspace"]
    if workspace is None:
        return None
    return fields["record"] is None and not (workspace / RESULT_FILE).is_file()


def _settings(log: Path, notes: list[str]) -> dict[str, str]:
    """Return the settings that RD-Agent logged at the run's start, as texts, without what may be secret."""
    found: dict[str, str] = {}
    for tag in _SETTINGS:
        last = _newest(log / tag, "**/*.pkl")
        if last is None:
            continue
        with noting(notes, f"what was asked in {last}"):
            content = safe_pickle.load_logged(last)
            if not isinstance(content, dict):
                content = getattr(content, "__dict__", {}).get("__dict__", {})
            found |= {
                str(name): str(value)
                for name, value in content.items()
                if isinstance(value, (str, int, float, PurePath)) and value != ""
                if not _SECRET.search(str(name))
            }
    return found
