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

from rdagent_sota_bridge.errors import (
    BridgeError,
    JobError,
    NothingAcceptedError,
    SessionError,
    WorkspaceNotFoundError,
)
from rdagent_sota_bridge.factor_set import locate
from rdagent_sota_bridge.factor_set.names import LATEST_LOG
from rdagent_sota_bridge.run import gate, progress, stages
from rdagent_sota_bridge.run import job as jobs
from rdagent_sota_bridge.run.display import Screen, Status, to_go
from rdagent_sota_bridge.run.job import BASELINE, FACTORS, MODELS, TITLES, Job
from rdagent_sota_bridge.run.locks import Stopped
from rdagent_sota_bridge.settings import path_entries
from rdagent_sota_bridge.system import child

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
        BridgeError: if something stops it; it can go on once that is fixed.
    """
    rdagent = stages.find_rdagent()
    if job.options.from_logs and job.factor_set is None:
        # Now, not after the minute that the look at the machine may take.
        located = gate.locate_set(path_entries(job.options.from_logs))
        job = dataclasses.replace(job, factor_set=gate.described(located))
    outside.say("Looking at RD-Agent, its seams and Qlib's environment ...")
    gate.check_machine(outside.show)
    if job.is_open(FACTORS) and (job := _run_stage(job, FACTORS, rdagent, outside)).end:
        return _out_of_time(job, outside)
    if job.is_open(MODELS):
        try:
            job = _with_checked_set(job, outside)
        except NothingAcceptedError as error:
            return _nothing_accepted(job, error, outside)
    for name in (MODELS, BASELINE):
        if job.is_open(name) and (job := _run_stage(job, name, rdagent, outside)).end:
            return _out_of_time(job, outside)
    job = _written(dataclasses.replace(job, end="done"))
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
    report = jobs.report_file(job)
    # One that was written before the job's last change is of fewer loops.
    if report.exists() and report.stat().st_mtime_ns >= job.file.stat().st_mtime_ns:
        outside.say(f"  report: {report}")
    else:  # it was stopped there
        _report(job, outside)
    return 0 if job.end == "done" else 1


# --- the set ---


def _with_checked_set(job: Job, outside: Outside) -> Job:
    """Return the job with the set of its factor stage, or the one that it began with, checked."""
    if job.factor_set is None:
        located = gate.locate_set((str(job.log(FACTORS)),))
        held = gate.described(located)
    else:
        held = job.factor_set
        try:
            located = locate.factor_sets(held.paths, ())
        except WorkspaceNotFoundError:  # the project was moved: its logs lead there, and the digest tells
            log = job.log(FACTORS)
            located = gate.locate_set(path_entries(job.options.from_logs) if log is None else (str(log),))
            held = dataclasses.replace(gate.described(located), digest=held.digest)
    has_state = job.file.exists()
    try:
        held = gate.check_set(held, located, outside.show)
    except BridgeError:
        if has_state:
            outside.say(f"No model was trained. When that is fixed, go on: {job.resume_command}")
        raise
    outside.say(f"The models are trained on {', '.join(held.paths)} ({held.digest})")
    job = dataclasses.replace(job, factor_set=held)
    return _written(job) if has_state else job


def _nothing_accepted(job: Job, error: NothingAcceptedError, outside: Outside) -> int:
    if not job.file.exists():
        raise error  # of a log that --from-log named
    job = _written(dataclasses.replace(job, end="nothing accepted"))
    outside.say(f"{error.fact}: no model stage\n  where: {error.place}\n{_more_factors(job)}")
    _report(job, outside)
    return 1


def _more_factors(job: Job) -> str:
    log = job.log(FACTORS)
    if job.options.all_duration and log is not None:
        stage, finished = job.stage(FACTORS), progress.finished_loops(log)
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
    stage, log = job.stage(name), job.log(name)
    resume = progress.Resume(None) if log is None else progress.where_to_resume(log)
    if resume.note:
        outside.say(f"{TITLES[name]}: {resume.note}")
    if resume.finished >= stage.loops:  # it was killed after its last step
        return _written(job.with_stage(dataclasses.replace(stage, state="ended")))
    seconds = stages.share(job, name)
    if seconds is not None and seconds < 1:
        return _written(dataclasses.replace(job, end="out of time"))
    if log is None or resume.file is None:
        stage = dataclasses.replace(stage, log=jobs.stamp())
        log = job.file.absolute().parent / stage.log
    # Before the child starts: after a kill the folder has to be known.
    stage = dataclasses.replace(stage, state="begun")
    job = _written(job.with_stage(stage))
    set_paths = () if job.factor_set is None else job.factor_set.paths
    command = stages.command(rdagent, stage, resume.file, seconds, job.options.passed_on)
    environment = stages.environment(outside.environ, stage, log, set_paths)
    outside.say(f"{TITLES[name]}: {' '.join(command[1:])}, log {os.path.relpath(log)}")
    screen = Screen(outside.console)
    watch = _Watch(job, name, log, screen)
    try:
        with (
            child.started(command, environment, Path.cwd(), keep=outside.descriptors) as process,
            screen.shown(),
        ):
            watch.look()
            try:
                for piece in child.output(process):
                    screen.write(piece)
                    watch.look()
            except Stopped:
                # RD-Agent may need ten seconds for its containers, and as long again to leave.
                outside.say("Ending the stage, with all that it started; this can take half a minute ...")
                raise
        status = process.returncode
    finally:
        job = watch.save()
    if status != 0:
        fix = f"fix what they tell, and go on: {job.resume_command}"
        if status == _USAGE and job.options.passed_on:  # which a job that goes on keeps
            options = shlex.join(job.options.passed_on)
            fix = f"begin a new job without what RD-Agent does not take: --new (was {options})"
        raise JobError(
            f"The {TITLES[name]} ended with status {status}",
            f"{log}; its last lines stand above, and in {log.with_name(LATEST_LOG)}",
            fix,
        )
    finished = progress.finished_loops(log)
    if finished < stage.loops:
        why = "" if seconds is None else ": its time is used up"
        outside.say(f"The {TITLES[name]} ended after {finished} of {stage.loops} loops{why}")
    if finished == 0 and seconds is not None and name != FACTORS:  # no model: nothing is done
        return _written(dataclasses.replace(job, end="out of time"))
    return _written(job.with_stage(dataclasses.replace(job.stage(name), state="ended")))


def _written(job: Job) -> Job:
    jobs.write(job)
    return job


class _Watch:
    """Counts the time of a stage, that of its earlier starts included, and shows where the stage is."""

    def __init__(self, job: Job, name: str, log: Path, screen: Screen) -> None:
        self._job, self._stage = job, job.stage(name)
        self._log, self._screen = log, screen
        self._began = self._saved = time.monotonic()
        self._looked = -math.inf
        self._finished = 0
        self._used_at_last_finish = self._stage.seconds
        self._best_ic: float | None = None
        self._best_of = (0, 0)

    def save(self) -> Job:
        """Write the time that the stage has run into the state, and return the job."""
        self._saved = time.monotonic()
        used = round(self._stage.seconds + self._saved - self._began, 1)
        return _written(self._job.with_stage(dataclasses.replace(self._stage, seconds=used)))

    def look(self) -> None:
        """Show by its session files where the stage is, at most once a second; save the time now and then."""
        now = time.monotonic()
        if now - self._saved >= _SAVE_SECONDS:
            self.save()
        if now - self._looked < _LOOK_SECONDS:
            return
        used = self._stage.seconds + now - self._began
        at = progress.position(progress.steps_done(self._log))
        if self._looked > 0 and at.finished != self._finished:
            self._used_at_last_finish = used
        if at.back_tests and (at.back_tests, at.finished) != self._best_of:
            # RD-Agent may be writing the session at this moment: what is known stays until the next look.
            with contextlib.suppress(SessionError):
                self._best_ic = best_ic(self._log)
                self._best_of = (at.back_tests, at.finished)
        self._looked, self._finished = now, at.finished
        loops = self._stage.loops
        expected = to_go(used, self._used_at_last_finish, at.finished, loops)
        self._screen.show(Status(TITLES[self._stage.name], at, loops, used, expected, self._best_ic))


def best_ic(log: Path) -> float | None:
    """Return the highest IC of a run's back-tests; None where none has any.

    Raises:
        SessionError: if the session can't be read.
    """
    from rdagent_sota_bridge.report import history  # late: pandas and pyarrow

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
    if factors is not None and job.is_open(MODELS):
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
    given = [] if job.factor_set is None else [Path(log) for log in job.factor_set.logs]
    own = [job.log(name) for name in (FACTORS, MODELS, BASELINE)]
    return [log for log in dict.fromkeys([*given, *own]) if log is not None and progress.steps_done(log)]
