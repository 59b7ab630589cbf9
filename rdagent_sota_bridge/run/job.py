"""The state of a job: what was asked, and how far it came. One JSON file in the log folder."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, with_config

from rdagent_sota_bridge.errors import JobError
from rdagent_sota_bridge.factor_set.names import LOGS
from rdagent_sota_bridge.system.files import read_json, write_whole

FORM = 1
"""The form of the file; one of another form is refused."""

_KNOWN = ConfigDict(extra="forbid", allow_inf_nan=False)

FACTORS, MODELS, BASELINE = "factors", "models", "baseline"
"""The names of the stages, in their order."""

TITLES = {FACTORS: "factor stage", MODELS: "model stage", BASELINE: "baseline stage"}

DEFAULT_LOOPS = 10

SET_BY_JOB = {
    "--loop-n": "use --factor-loops and --model-loops",
    "--path": "use --resume, or --from-log to skip the factor stage",
}
"""RD-Agent's options that a job sets itself, and what to use in their place."""

_NAME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{6}_run\.json")
_LEAVE_OUT = "leave the option out, or begin a new job with --new"

State = Literal["waiting", "begun", "ended"]
End = Literal["", "done", "nothing accepted", "out of time"]


@with_config(_KNOWN)
@dataclass(frozen=True)
class Options:
    """What a command line asks for; None, or empty, for what it leaves out.

    Attributes:
        factor_loops: The loops of the factor stage; in a job 0 where `from_logs` replaces it.
        model_loops: The loops of the model stage.
        baseline: True to train its models again without the mined columns.
        all_duration: The time for all stages, in RD-Agent's form; empty for no limit.
        from_logs: What `--from-log` named; empty where there is a factor stage.
        passed_on: Further options for both of RD-Agent's commands.
        from_models: What `--from-models` named, whose models take the place of those of a model stage.
        jobs: How many models are trained again at once on this machine.
        cluster: The address of the Dask scheduler whose workers train them in its place.
        seeds: With how many seeds, 1 to this number, the best model is trained in the stage of `baseline`.
        holdout: What `--holdout` named: months, as 12M, or a first day.
    """

    factor_loops: int | None = None
    model_loops: int | None = None
    baseline: bool = False
    all_duration: str = ""
    from_logs: str = ""
    passed_on: tuple[str, ...] = ()
    from_models: str = ""
    jobs: int | None = None
    cluster: str = ""
    seeds: int = 0
    holdout: str = ""


@with_config(_KNOWN)
@dataclass(frozen=True)
class Stage:
    """One of RD-Agent's commands in a job, or the trainings without the mined columns.

    Attributes:
        name: `FACTORS`, `MODELS` or `BASELINE`.
        loops: How many loops it is to finish in all.
        log: The name of its log folder, beside the state; empty before it begins, and for `BASELINE`, which
            leaves none. Of the models that `--from-models` named it is the path from the state's folder.
        state: `ended` once RD-Agent ended it with status 0.
        seconds: How long it has run, without pauses.
    """

    name: str
    loops: int
    log: str = ""
    state: State = "waiting"
    seconds: float = 0.0


@with_config(_KNOWN)
@dataclass(frozen=True)
class JobSet:
    """The set that the models of a job are trained on: its absolute workspaces or files, and logs to them.

    The digest is empty until the set was checked.
    """

    digest: str
    paths: tuple[str, ...]
    logs: tuple[str, ...]


@with_config(_KNOWN)
@dataclass(frozen=True)
class Holdout:
    """The days that no stage of a job is to see.

    Attributes:
        first: The first of them (ISO).
        last: The last one that has a label.
        test_ends: The end of the test segment (ISO) by the name of the stage.
    """

    first: str
    last: str
    test_ends: dict[str, str]


@with_config(_KNOWN)
@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        file: Its state; the folder that it is in is that of the logs.
        project: The folder that RD-Agent works in, relative to that folder.
        options: What was asked.
        stages: In their order.
        factor_set: None until it is known.
        end: How the job ended; empty for one that did not.
        holdout: None where none was asked for, or it is not known yet.
    """

    file: Path
    project: str
    options: Options
    stages: tuple[Stage, ...]
    factor_set: JobSet | None = None
    end: End = ""
    holdout: Holdout | None = None

    def stage(self, name: str) -> Stage:
        """Return the stage of a name, which the job has."""
        return next(stage for stage in self.stages if stage.name == name)

    def is_open(self, name: str) -> bool:
        """Return True for a stage that the job has and has not ended."""
        return any(stage.name == name and stage.state != "ended" for stage in self.stages)

    def log(self, name: str) -> Path | None:
        """Return the log folder of a stage that has begun, absolute; else None."""
        logs = [stage.log for stage in self.stages if stage.name == name and stage.log]
        return Path(os.path.normpath(self.file.absolute().parent / logs[0])) if logs else None

    def with_stage(self, name: str, **changes: Any) -> Job:
        """Return the job with changes to a stage."""
        stages = (dataclasses.replace(one, **changes) if one.name == name else one for one in self.stages)
        return dataclasses.replace(self, stages=tuple(stages))

    @property
    def resume_command(self) -> str:
        """The command that resumes the job, in its project's folder."""
        log_dir = os.path.relpath(self.file.absolute().parent)
        where = "" if Path(log_dir) == LOGS else f" --log-dir {shlex.quote(log_dir)}"
        return f"rdagent-sota run --resume{where}"


# --- the file ---


def stamp() -> str:
    """Return the present moment as RD-Agent names its log folders (`log/conf.py`, 0.8.0 and 1.0.0)."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d_%H-%M-%S-%f")


def report_file(job: Job) -> Path:
    """Return where the report of a job goes."""
    return job.file.with_name(job.file.name.removesuffix("_run.json") + "_report.html")


def write(job: Job) -> Job:
    """Write the state of a job, whole or not at all, and return the job.

    Raises:
        JobError: if it can't be written.
    """
    content = {"form": FORM, **dataclasses.asdict(job)}
    del content["file"]
    try:
        # In ASCII: an option or a path may hold what is no UTF-8.
        write_whole(job.file, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise JobError(
            f"The state of the job can't be written: {error.strerror}",
            str(job.file),
            "make room there, or make the folder one that you may write into; then resume with --resume",
        ) from None
    return job


def newest(log_dir: Path) -> Job | None:
    """Return the newest job of a log folder, or None.

    Raises:
        JobError: if its state can't be read, or is of another form.
    """
    found = files(log_dir)
    return read(found[-1]) if found else None


def files(log_dir: Path) -> list[Path]:
    """Return the states of the jobs of a log folder, in the order that the jobs began."""
    return sorted(file for file in log_dir.glob("*_run.json") if _NAME.fullmatch(file.name))


def read(file: Path) -> Job:
    """Return the job of a state; raise a JobError as `newest` does."""
    try:
        content = read_json(file)
        if content.pop("form") != FORM:
            raise ValueError
        job = TypeAdapter(Job).validate_python({**content, "file": file})
        names = [stage.name for stage in job.stages]
        if MODELS not in names or names != [name for name in TITLES if name in names]:
            raise ValueError
        if job.log(BASELINE) is not None:  # loops of plain RD-Agent, of an earlier release
            raise ValueError
        return job
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # no job, or no mapping
        fact, fix = (
            "is damaged, or of another release of rdagent-sota-bridge",
            "use the release that wrote it",
        )
        if isinstance(error, OSError):
            fact, fix = f"can't be read: {error.strerror}", "fix that"
        raise JobError(
            f"The state of the job {fact}", str(file), f"{fix}, or begin anew with --new"
        ) from None


# --- beginning and resuming ---


def new(asked: Options, log_dir: Path, from_models: Path | None = None) -> Job:
    """Return a job for what was asked, not yet written.

    Args:
        asked: What the command line says.
        log_dir: The folder of the logs.
        from_models: The log that `--from-models` names; None for a job that trains its own.

    Raises:
        JobError: if the options contradict each other, or what the job itself sets.
    """
    file, project = log_dir / f"{stamp()}_run.json", os.path.relpath(Path.cwd(), log_dir)
    _check_ablation(asked, has_baseline=asked.baseline)
    if asked.from_logs and asked.factor_loops is not None:
        raise JobError(
            "--from-log skips the factor stage, and --factor-loops asks for one",
            "options --from-log and --factor-loops",
            "leave one of them out",
        )
    if from_models is not None:
        loops = asked.factor_loops, asked.model_loops
        others = *loops, asked.from_logs, asked.passed_on, asked.holdout
        if not asked.baseline or any(others):
            fact = (
                "--from-models trains the models of a log again without the mined columns, and nothing else"
            )
            how = "use it as: rdagent-sota run --from-models LOG --baseline"
            raise JobError(fact, "the options beside --from-models", how)
        trained = Stage(MODELS, 0, os.path.relpath(from_models, log_dir), "ended")
        return Job(file, project, asked, (trained, Stage(BASELINE, 1)))
    factors = 0 if asked.from_logs else DEFAULT_LOOPS if asked.factor_loops is None else asked.factor_loops
    models = DEFAULT_LOOPS if asked.model_loops is None else asked.model_loops
    stages = [Stage(FACTORS, factors), Stage(MODELS, models), Stage(BASELINE, models)]
    left_out = (FACTORS if asked.from_logs else "", "" if asked.baseline else BASELINE)
    options = dataclasses.replace(asked, factor_loops=factors, model_loops=models)
    return Job(file, project, options, tuple(stage for stage in stages if stage.name not in left_out))


def _check_ablation(asked: Options, *, has_baseline: bool) -> None:
    if asked.jobs and asked.cluster:
        fact = "--jobs trains on this machine, and --cluster on others"
        raise JobError(fact, "options --jobs and --cluster", "leave one of them out")
    given = {"--jobs": asked.jobs, "--cluster": asked.cluster, "--seeds": asked.seeds}
    if not has_baseline and (option := next((name for name, value in given.items() if value), "")):
        fact = f"{option} is for models that are trained again, and without --baseline none is"
        raise JobError(fact, f"option {option}", "add --baseline, or leave it out")


def resumed(job: Job, asked: Options) -> Job:
    """Return a job as it is to be resumed: with more loops, where more are asked for.

    Raises:
        JobError: if an option contradicts the job.
    """
    project = Path(os.path.normpath(job.file.absolute().parent / job.project))
    if not project.is_dir() or not project.samefile(Path.cwd()):
        raise JobError(
            "The job belongs to another folder than the current one",
            f"{job.file}, of a job in {project}",
            f"start it again there: cd {shlex.quote(str(project))}",
        )
    has = job.options
    _check_ablation(asked, has_baseline=has.baseline)
    if asked.jobs or asked.cluster:  # where models are trained changes none
        job = dataclasses.replace(
            job, options=dataclasses.replace(has, jobs=asked.jobs, cluster=asked.cluster)
        )
    for option, asks, had in (
        ("--baseline", "yes" * asked.baseline, "yes" * has.baseline),
        ("--all-duration", asked.all_duration, has.all_duration),
        ("--from-log", asked.from_logs, has.from_logs),
        ("--from-models", asked.from_models, has.from_models),
        ("--holdout", asked.holdout, has.holdout),
        ("An option for RD-Agent", " ".join(asked.passed_on), " ".join(has.passed_on)),
    ):
        if asks not in ("", had):
            fact = f"{option} says {asks}, and the job to resume has {had or 'none'}"
            raise JobError(fact, str(job.file), _LEAVE_OUT)
    job = _with_seeds(job, asked.seeds)
    job = _with_more(job, "--factor-loops", asked.factor_loops, (FACTORS,))
    job = _with_more(job, "--model-loops", asked.model_loops, (MODELS, BASELINE))
    # A training that failed is tried again.
    return dataclasses.replace(job, end="") if job.end == "done" and job.is_open(BASELINE) else job


def _with_seeds(job: Job, seeds: int) -> Job:
    """Return a job with so many seeds; 0 leaves them as they are."""
    if seeds in (0, job.options.seeds):
        return job
    if seeds < job.options.seeds:
        fact = f"--seeds {seeds} is less than the {job.options.seeds} that the job was to train with"
        raise JobError(fact, str(job.file), _LEAVE_OUT)
    options = dataclasses.replace(job.options, seeds=seeds)
    return dataclasses.replace(job.with_stage(BASELINE, state="begun"), options=options)


def _with_more(job: Job, option: str, loops: int | None, names: tuple[str, ...]) -> Job:
    """Return a job with so many loops in each stage of these names."""
    stages = [stage for stage in job.stages if stage.name in names]
    if loops is None or any(stage.loops == loops for stage in stages):
        return job
    fact, fix = "", _LEAVE_OUT
    if not stages:
        fact = f"{option} asks for a factor stage, and the job to resume has none"
    elif job.options.from_models:
        fact = f"{option} asks for a model stage, and the job to resume has none"
    elif loops < stages[0].loops:
        fact = f"{option} {loops} is less than the {stages[0].loops} that the job was to do"
        fix = f"leave the option out, or ask for more than {stages[0].loops}: the number is of all loops"
    elif FACTORS in names and job.stage(MODELS).state != "waiting":
        fact = "The model stage has begun with the set of this job's factor stage, which is over"
    if fact:
        raise JobError(fact, str(job.file), fix)
    for stage in stages:
        state = "waiting" if stage.state == "waiting" else "begun"
        job = job.with_stage(stage.name, loops=loops, state=state)
    if FACTORS in names:  # a set that was found after fewer factor loops is not the one of these
        options = dataclasses.replace(job.options, factor_loops=loops)
        return dataclasses.replace(job, options=options, factor_set=None, end="")
    return dataclasses.replace(job, options=dataclasses.replace(job.options, model_loops=loops), end="")
