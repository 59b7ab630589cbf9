"""A job from its first stage to its report, and from wherever it was stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rdagent_sota_bridge import child
from rdagent_sota_bridge.errors import (
    BridgeError,
    JobError,
    NothingAcceptedError,
    SessionError,
    WorkspaceNotFoundError,
)
from rdagent_sota_bridge.names import LATEST_LOG
from rdagent_sota_bridge.run import gate, progress, stages, times
from rdagent_sota_bridge.run import job as jobs
from rdagent_sota_bridge.run.display import Screen, Status, to_go
from rdagent_sota_bridge.run.job import BASELINE, FACTORS, MODELS, TITLES, FactorSet, Job
from rdagent_sota_bridge.run.stopping import Stopped
from rdagent_sota_bridge.settings import path_entries

Say = Callable[[str], None]
"""Says one thing to the user."""

_LOOK_SECONDS = 1.0
"""How often a stage's session files are looked at."""

_SAVE_SECONDS = 15.0
"""How often the time used is written into the state, so that a kill loses no more of it."""

_USAGE = 2
"""RD-Agent's status for a command line that it does not understand (typer's)."""


@dataclass(frozen=True)
class Outside:
    """What a job needs of the world around it.

    Attributes:
        console: Where the stages' output goes.
        say: Says one thing to the user.
        show: Shows lines of a check under a heading.
        report: Writes the report of some logs into a file.
        environ: The environment of the stages, but for what makes them stages.
        descriptors: What the stages' lifelines hold open until all their processes are gone.
    """

    console: Console
    say: Say
    show: gate.Show
    report: Callable[[Sequence[Path], Path], None]
    environ: Mapping[str, str]
    descriptors: tuple[int, ...] = ()


def go(job: Job, outside: Outside) -> int:
    """Do what is left of a job, and return the exit status: 0 where its models are trained.

    The state is written when the first stage begins, and from then on at every change; a job whose first
    check fails leaves none.

    Raises:
        BridgeError: if something stops it; it can go on once that is mended.
    """
    rdagent = stages.find_rdagent()
    if job.options.from_logs and job.factor_set is None:
        # Now, not after the minute that the look at the machine may take.
        located = gate.locate_set(path_entries(job.options.from_logs))
        job = dataclasses.replace(job, factor_set=gate.described(located))
    outside.say("Looking at RD-Agent, its seams and Qlib's environment ...")
    gate.check_machine(outside.show)
    if _is_open(job, FACTORS) and (job := _run_stage(job, FACTORS, rdagent, outside)).end:
        return _out_of_time(job, outside)
    if _is_open(job, MODELS):
        try:
            job = _with_checked_set(job, outside)
        except NothingAcceptedError as error:
            return _nothing_accepted(job, error, outside)
    for name in (MODELS, BASELINE):
        if _is_open(job, name) and (job := _run_stage(job, name, rdagent, outside)).end:
            return _out_of_time(job, outside)
    job = dataclasses.replace(job, end="done")
    jobs.write(job)
    _report(job, outside)
    return 0


def tell_end(job: Job, outside: Outside) -> int:
    """Say how a job ended that has nothing left to do, and return its exit status."""
    if job.end == "out of time":
        outside.say(_no_time(job))
    elif job.end == "nothing accepted":
        outside.say(
            f"The factor stage of this job accepted no loop: {job.log(FACTORS)}\n{_more_factors(job)}"
        )
    else:
        outside.say(
            f"The job is finished: {job.file}\n"
            f"  to add models: {job.resume_command} --model-loops N, N being all of them"
        )
    if _has_report(job):
        outside.say(f"  report: {jobs.report_file(job)}")
    else:  # it was stopped there
        _report(job, outside)
    return 0 if job.end == "done" else 1


def _has_report(job: Job) -> bool:
    """Return True if the job's report was written after its last change: not that of fewer loops."""
    file = jobs.report_file(job)
    return file.exists() and file.stat().st_mtime_ns >= job.file.stat().st_mtime_ns


def _is_open(job: Job, name: str) -> bool:
    stage = job.stage(name)
    return stage is not None and stage.state != "ended"


# --- the set ---


def _with_checked_set(job: Job, outside: Outside) -> Job:
    """Return the job with the set of its factor stage, or the one that it began with, checked."""
    if job.factor_set is None:
        located = gate.locate_set((str(job.log(FACTORS)),))
        held = gate.described(located)
    else:
        held = job.factor_set
        try:
            located = gate.files_of(held)
        except WorkspaceNotFoundError:  # the project was moved: its logs lead there, and the digest tells
            log = job.log(FACTORS)
            located = gate.locate_set(path_entries(job.options.from_logs) if log is None else (str(log),))
            held = dataclasses.replace(gate.described(located), digest=held.digest)
    has_state = job.file.exists()
    try:
        held = gate.check_set(held, located, outside.show)
    except BridgeError:
        if has_state:
            outside.say(f"No model was trained. When that is mended, go on: {job.resume_command}")
        raise
    outside.say(f"The models are trained on {', '.join(held.paths)} ({held.digest})")
    job = dataclasses.replace(job, factor_set=held)
    if has_state:
        jobs.write(job)
    return job


def _nothing_accepted(job: Job, error: NothingAcceptedError, outside: Outside) -> int:
    if not job.file.exists():
        raise error  # of a log that --from-log named
    job = dataclasses.replace(job, end="nothing accepted")
    jobs.write(job)
    outside.say(f"{error.fact}: no model stage\n  where: {error.place}\n{_more_factors(job)}")
    _report(job, outside)
    return 1


def _more_factors(job: Job) -> str:
    stage, log = job.stage(FACTORS), job.log(FACTORS)
    if job.options.all_duration and stage is not None and log is not None:
        finished = progress.finished_loops(progress.steps_done(log))
        if finished < stage.loops:  # RD-Agent keeps the timer in the session, and would end after a step
            return (
                f"  fix:   its time was used up after {finished} of {stage.loops} loops: begin a new job "
                "with more time: --new"
            )
    return (
        f"  fix:   go on with more factor loops: {job.resume_command} --factor-loops N, N being all of them"
    )


# --- a stage ---


def _run_stage(job: Job, name: str, rdagent: str, outside: Outside) -> Job:
    """Run a stage to its end, and return the job; with an end where there is no time for it.

    Raises:
        JobError: if RD-Agent ends with a status other than 0.
        SessionError: if the sessions that it should go on from can't be read.
    """
    stage = job.stage(name)
    assert stage is not None  # noqa: S101 - the callers have looked
    log = job.log(name)
    resume = progress.Resume(None) if log is None else progress.where_to_resume(log)
    if resume.note:
        outside.say(f"{TITLES[name]}: {resume.note}")
    if resume.finished >= stage.loops:  # it was killed after its last step
        job = job.with_stage(dataclasses.replace(stage, state="ended"))
        jobs.write(job)
        return job
    seconds = times.share(job, name)
    if seconds is not None and seconds < 1:
        job = dataclasses.replace(job, end="out of time")
        jobs.write(job)
        return job
    if resume.file is None:
        stage = dataclasses.replace(stage, log=jobs.stamp())
    # Before the child starts: after a kill the folder has to be known.
    stage = dataclasses.replace(stage, state="begun")
    job = job.with_stage(stage)
    jobs.write(job)
    log = job.log(name)
    assert log is not None  # noqa: S101 - it was named above
    set_paths = () if job.factor_set is None else job.factor_set.paths
    command = stages.command(rdagent, stage, resume.file, seconds, job.options.passed_on)
    environment = stages.environment(outside.environ, stage, log, set_paths)
    outside.say(f"{TITLES[name]}: {' '.join(command[1:])}, log {os.path.relpath(log)}")
    clock = _Clock(job, name)
    try:
        with (
            child.started(command, environment, Path.cwd(), keep=outside.descriptors) as process,
            Screen(outside.console).shown() as screen,
        ):
            watch = _Watch(job, name, log, screen)
            watch.look(clock.seconds)
            try:
                for piece in child.output(process):
                    screen.write(piece)
                    watch.look(clock.seconds)
                    clock.save_now_and_then()
            except Stopped:
                # RD-Agent may need ten seconds for its containers, and as long again to leave.
                outside.say("Ending the stage, with all that it started; this can take half a minute ...")
                raise
        status = process.returncode
    finally:
        job = clock.save()
    if status != 0:
        fix = f"fix what they tell, and go on: {job.resume_command}"
        if status == _USAGE and job.options.passed_on:  # which a job that goes on keeps
            fix = f"begin a new job without what RD-Agent does not take: --new (was {_passed_on(job)})"
        raise JobError(
            f"The {TITLES[name]} ended with status {status}",
            f"{log}; its last lines stand above, and in {log.with_name(LATEST_LOG)}",
            fix,
        )
    stage = job.stage(name)
    assert stage is not None  # noqa: S101 - it is the one that ran
    finished = progress.finished_loops(progress.steps_done(log))
    if finished < stage.loops:
        why = "" if seconds is None else ": its time is used up"
        outside.say(f"The {TITLES[name]} ended after {finished} of {stage.loops} loops{why}")
    if finished == 0 and seconds is not None and name != FACTORS:  # no model: nothing is done
        job = dataclasses.replace(job, end="out of time")
        jobs.write(job)
        return job
    job = job.with_stage(dataclasses.replace(stage, state="ended"))
    jobs.write(job)
    return job


def _passed_on(job: Job) -> str:
    return shlex.join(job.options.passed_on)


class _Clock:
    """Counts the time that a stage runs, on top of that of its earlier starts, and keeps it in the state."""

    def __init__(self, job: Job, name: str) -> None:
        stage = job.stage(name)
        assert stage is not None  # noqa: S101 - it is about to run
        self._job, self._stage = job, stage
        self._began = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        return self._stage.seconds + time.monotonic() - self._began

    def save_now_and_then(self) -> None:
        if time.monotonic() - self._saved >= _SAVE_SECONDS:
            self.save()

    def save(self) -> Job:
        self._saved = time.monotonic()
        job = self._job.with_stage(dataclasses.replace(self._stage, seconds=round(self.seconds, 1)))
        jobs.write(job)
        return job


class _Watch:
    """Looks at a stage's session files now and then, and shows on a screen where the stage is."""

    def __init__(self, job: Job, name: str, log: Path, screen: Screen) -> None:
        stage = job.stage(name)
        assert stage is not None  # noqa: S101 - it is about to run
        self._title, self._loops = TITLES[name], stage.loops
        self._log, self._screen = log, screen
        self._looked = -math.inf
        self._at: progress.Position | None = None
        self._used_at_last_finish = stage.seconds
        self._best_ic: float | None = None
        self._best_of = (0, 0)

    def look(self, used: float) -> None:
        """Show where the stage is after so many seconds, at most once a second."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        at, before = progress.position(progress.steps_done(self._log)), self._at
        if before is not None and at.finished != before.finished:
            self._used_at_last_finish = used
        if at.back_tests and (at.back_tests, at.finished) != self._best_of:
            # RD-Agent may be writing the session at this moment: what is known stays until the next look.
            with contextlib.suppress(SessionError):
                self._best_ic = best_ic(self._log)
                self._best_of = (at.back_tests, at.finished)
        self._at = at
        expected = to_go(used, self._used_at_last_finish, at.finished, self._loops)
        self._screen.show(Status(self._title, at, self._loops, used, expected, self._best_ic))


def best_ic(log: Path) -> float | None:
    """Return the highest IC of a run's back-tests; None where none has any.

    Raises:
        SessionError: if the session can't be read.
    """
    from rdagent_sota_bridge import history  # late: pandas and pyarrow

    run = history.read_run(log)
    found = [loop.metrics["IC"] for loop in run.loops if "IC" in loop.metrics]
    return max((ic for ic in found if math.isfinite(ic)), default=None)


# --- the end ---


def _out_of_time(job: Job, outside: Outside) -> int:
    outside.say(_no_time(job))
    _report(job, outside)
    return 1


def _no_time(job: Job) -> str:
    missed = [TITLES[stage.name] for stage in job.stages if stage.state != "ended"]
    factors = job.log(FACTORS)
    fix = "begin a new job with more time"
    if factors is not None and _is_open(job, MODELS):
        fix += f", on the factors of this one: rdagent-sota run --new --from-log {os.path.relpath(factors)}"
    return (
        f"The time of the job is used up (--all-duration {job.options.all_duration}), and nothing is left "
        f"for the {' and the '.join(missed)}\n  fix:   {fix}"
    )


def _report(job: Job, outside: Outside) -> None:
    logs = report_logs(job)
    if not logs:
        return
    file = jobs.report_file(job)
    try:
        outside.report(logs, file)
    except BridgeError:
        named = " ".join(os.path.relpath(log) for log in logs)
        outside.say(f"The stages are done, and the report is missing: rdagent-sota report {named}")
        raise


def report_logs(job: Job) -> list[Path]:
    """Return the logs that the report of a job is about: where the factors came from, models, baseline."""
    held = job.factor_set if job.factor_set is not None else FactorSet("", (), ())
    own = [job.log(name) for name in (FACTORS, MODELS, BASELINE)]
    given = [Path(log) for log in held.logs]
    return [log for log in dict.fromkeys([*given, *own]) if log is not None and progress.steps_done(log)]
