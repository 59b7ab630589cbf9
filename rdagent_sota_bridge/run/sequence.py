"""A job from its first stage to its report, and from wherever it was stopped."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.doctor.seam_check import Seams
from rdagent_sota_bridge.errors import (
    BridgeError,
    JobError,
    NothingAcceptedError,
    SessionError,
    WorkspaceNotFoundError,
    plural,
)
from rdagent_sota_bridge.factor_set import locate
from rdagent_sota_bridge.factor_set.names import LATEST_LOG
from rdagent_sota_bridge.models import trainings
from rdagent_sota_bridge.report import history
from rdagent_sota_bridge.report.history import Run
from rdagent_sota_bridge.run import baseline, display, gate, holdout, outcome, progress, stages
from rdagent_sota_bridge.run import job as jobs
from rdagent_sota_bridge.run.job import BASELINE, FACTORS, MODELS, TITLES, Job
from rdagent_sota_bridge.run.locks import Stopped
from rdagent_sota_bridge.settings import path_entries, read_settings
from rdagent_sota_bridge.system import child

_LOOK_SECONDS = 1.0
"""How often a stage's session files are looked at."""

_SAVE_SECONDS = 15.0
"""How often the time used is written into the state, so that a kill loses no more of it."""


@dataclass(frozen=True)
class Outside:
    """What a job needs of the world around it.

    Attributes:
        console: Where the stages' output goes.
        say: Says one thing to the user.
        show: Shows lines of a check under a heading.
        report: Writes the report of some logs into a file.
        verify: Shows what the models of a run were trained on; False where a claim can't be shown.
        environ: The environment of the stages, but for what makes them stages.
        descriptors: What the stages' lifelines hold open until all their processes are gone.
    """

    console: Console
    say: Callable[[str], None]
    show: gate.Show
    report: Callable[[Sequence[Path], Path], None]
    verify: Callable[[Run], bool]
    environ: Mapping[str, str]
    descriptors: tuple[int, ...] = ()


def go(job: Job, outside: Outside) -> int:
    """Do what is left of a job, and return the exit status: 0 where its models are trained.

    The state is written when the first stage begins, and from then on at every change; a job whose first
    check fails leaves none.

    Raises:
        BridgeError: if something stops it; it can be resumed once that is fixed.
    """
    rdagent = stages.find_rdagent()
    if job.options.baseline and job.is_open(MODELS) and not read_settings().use_alpha_factors:
        fact = (
            "--baseline trains the models again on the base set alone, and USE_ALPHA_FACTORS=false has none"
        )
        raise JobError(fact, "--baseline and USE_ALPHA_FACTORS", "leave one of them out")
    named = job.log(MODELS) if job.options.from_models else None
    if named is not None and not baseline.models(history.read_run(named)):
        fix = "name a log of `rdagent fin_model` with the factors, whose workspaces are there"
        fact = "No model of the log was trained with the factors and has a result"
        raise JobError(fact, str(named), fix)
    if job.options.cluster and job.is_open(BASELINE):
        with trainings.dask().connected(job.options.cluster):
            pass  # now, not after the loops
    if job.options.from_logs and job.factor_set is None:
        # Now, not after the minute that the look at the machine may take.
        located = gate.locate_set(path_entries(job.options.from_logs))
        job = dataclasses.replace(job, factor_set=gate.job_set(located))
    outside.say("Looking at RD-Agent, its seams and Qlib's environment ...")
    seams = gate.check_machine(outside.show, job.is_open(FACTORS), bool(job.options.holdout))
    if job.options.holdout:
        kept_back = job.holdout or holdout.plan(job.options.holdout, seams, job.is_open(FACTORS))
        if job.holdout is None:
            outside.say(holdout.begun(job, kept_back))
        job, seams = dataclasses.replace(job, holdout=kept_back), holdout.moved(seams, kept_back)
    for name in (FACTORS, MODELS, BASELINE):
        if name == MODELS and job.is_open(MODELS):
            try:
                job = _with_checked_set(job, outside, seams)
            except NothingAcceptedError as error:
                if not job.file.exists():
                    raise  # of a log that --from-log named
                outside.say(f"{error.fact}: no model stage\n  where: {error.place}")
                job = jobs.write(dataclasses.replace(job, end="nothing accepted"))
                break
        if name == BASELINE and job.is_open(BASELINE):
            job = baseline.train(job, outside.say, outside.console, outside.descriptors)
        elif job.is_open(name):
            job = _run_stage(job, name, rdagent, outside)
        if job.end:
            break
    else:
        models = job.log(MODELS)
        # An ablation that failed is tried again, and the one look is for the best model and its ablation.
        if job.holdout is not None and models is not None and not job.is_open(BASELINE):
            holdout.open_at_end(models, outside.say)
        job = jobs.write(dataclasses.replace(job, end="done"))
    return show_end(job, outside)


def show_end(job: Job, outside: Outside) -> int:
    """Say how a job ended, what its models were trained on and what to do next; and write its report.

    A report that is there is left, but where the job has changed since.

    Returns:
        The exit status: 0 where the job is done, its holdout is opened, and each model that claims the
        factors can be shown to have them.
    """
    log = job.log(FACTORS)
    add_factors, add_models = (
        f"{job.resume_command} --{kind}-loops N, N being all of them" for kind in ("factor", "model")
    )
    if job.end == "out of time":
        missed = " and the ".join(TITLES[stage.name] for stage in job.stages if stage.state != "ended")
        text = f"The time of the job is used up (--all-duration {job.options.all_duration}), and nothing is "
        text += f"left for the {missed}"
        to_do = "begin a new job with more time"
        if log is not None and job.is_open(MODELS):
            named = shlex.quote(os.path.relpath(log))
            to_do += f", on the factors of this one: rdagent-sota run --new --from-log {named}"
    elif job.end == "nothing accepted" and log is not None:
        wanted, finished = job.stage(FACTORS).loops, progress.finished_loops(log)
        to_do = f"add factor loops: {add_factors}"
        if job.options.all_duration and finished < wanted:
            # RD-Agent keeps the timer in the session, and would end after a step.
            used = f"its time was used up after {finished} of {wanted} loops"
            to_do = f"{used}: begin a new job with more time: --new"
        text = f"The factor stage of this job accepted no loop: {log}"
    else:
        text = f"The job is finished: {job.file}"
        to_do = f"to add models: {add_models}"
        if job.options.from_models:
            to_do = "to train on other factors: begin a new job"
    outside.say(text)
    models, holds, is_open = job.log(MODELS), True, True
    if models is not None and not job.is_open(MODELS) and progress.steps_done(models):
        found = history.read_run(models)
        if reason := outcome.without_factors(models):
            outside.say(f"The model stage went on without the factors (SOTA_ON_ERROR=baseline): {reason}")
        if job.options.baseline:
            outside.say(baseline.table(found))
        if job.holdout is not None:
            text, is_open = holdout.opened(found)
            outside.say(text)
        named = shlex.quote(os.path.relpath(models))
        if holds := outside.verify(found):
            to_do += f"\n  to score days with the best accepted model: rdagent-sota predict {named}"
        else:
            to_do = f"do not rely on what is broken or not verified above: rdagent-sota verify --json {named}"
    report, logs = jobs.report_file(job), progress.logs(job)
    # One that was written before the job's last change is of fewer loops.
    if not report.exists() or report.stat().st_mtime_ns < job.file.stat().st_mtime_ns:
        try:
            if logs:
                outside.report(logs, report)
        except BridgeError:
            named = shlex.join(os.path.relpath(log) for log in logs)
            outside.say(f"The stages are done, and the report is missing: rdagent-sota report {named}")
            raise
    read = f"\n  read the report: {report}" * report.exists()
    outside.say(f"Next:\n  {to_do}{read}")
    return 0 if job.end == "done" and holds and is_open else 1


def _with_checked_set(job: Job, outside: Outside, seams: Seams | Line) -> Job:
    """Return the job with the set of its factor stage, or the one that it began with, checked."""
    held, log = job.factor_set, job.log(FACTORS)
    logs = path_entries(job.options.from_logs) if log is None else (str(log),)
    try:
        located = gate.locate_set(logs) if held is None else locate.factor_sets(held.paths, ())
    except WorkspaceNotFoundError:
        if held is None:
            raise
        # The project was moved: its logs lead there, and the digest shows whether it is the same set.
        located, held = gate.locate_set(logs), None
    known = "" if job.factor_set is None else job.factor_set.digest
    has_state = job.file.exists()
    try:
        held = gate.check_set(held or gate.job_set(located, known), located, outside.show, seams)
    except BridgeError:
        if has_state:
            outside.say(f"No model was trained. When that is fixed, resume: {job.resume_command}")
        raise
    outside.say(f"The models are trained on {', '.join(held.paths)} ({held.digest})")
    job = dataclasses.replace(job, factor_set=held)
    return jobs.write(job) if has_state else job


# --- a stage ---


def _run_stage(job: Job, name: str, rdagent: str, outside: Outside) -> Job:
    """Run a stage to its end, and return the job; with an end where there is no time for it.

    Raises:
        JobError: if RD-Agent ends with a status other than 0, or trained on another set than it was to.
        SessionError: if the sessions that it should be resumed from can't be read.
    """
    log, title, loops = job.log(name), TITLES[name], job.stage(name).loops
    resume = progress.Resume(None) if log is None else progress.where_to_resume(log)
    if resume.note:
        outside.say(f"{title}: {resume.note}")
    if log is not None and resume.finished >= loops:  # it was killed after its last step
        return _ended(job, name, log)
    seconds = stages.share(job, name)
    if seconds is not None and seconds < 1:
        return jobs.write(dataclasses.replace(job, end="out of time"))
    folder = jobs.stamp() if log is None or resume.file is None else log.name
    log = job.file.absolute().parent / folder
    # Before the child starts: after a kill the folder has to be known.
    job = jobs.write(job.with_stage(name, log=folder, state="begun"))
    stage, paths = job.stage(name), () if job.factor_set is None else job.factor_set.paths
    command = stages.command(rdagent, stage, resume.file, seconds, job.options.passed_on)
    environment = stages.environment(outside.environ, stage, log, paths, stages.of_holdout(job))
    outside.say(f"{title}: {' '.join(command[1:])}, log {os.path.relpath(log)}")
    screen = display.Screen(outside.console)
    watch = _Watch(job, name, log, screen)
    keep = outside.descriptors
    try:
        with child.started(command, environment, Path.cwd(), keep=keep) as process, screen.shown():
            watch.look()
            try:
                for piece in child.output(process):
                    screen.write(piece)
                    watch.look()
            except Stopped:
                # RD-Agent may need ten seconds for its containers, and as long again to leave.
                outside.say("Ending the stage, with all that it started; this can take half a minute ...")
                raise
    finally:
        job = watch.save()
    if process.returncode == stages.USAGE and not progress.steps_done(log):
        job.file.unlink()  # it would keep its options
        fact = f"RD-Agent does not take the command line of the {title}: {shlex.join(command[1:])}"
        fix = "begin again without what it does not take; no job is left"
        if name != FACTORS and (mined := job.log(FACTORS)) is not None:
            fix += f", but the factors: --from-log {shlex.quote(os.path.relpath(mined))}"
        raise JobError(fact, "what it says stands above", fix)
    if process.returncode != 0:
        fix = f"fix what they say, and resume: {job.resume_command}"
        text_log = log / LATEST_LOG
        where = f"{log}; its last lines stand above{f', and in {text_log}' * text_log.exists()}"
        raise JobError(f"The {title} ended with status {process.returncode}", where, fix)
    finished = progress.finished_loops(log)
    if finished < loops:
        why = "" if seconds is None else ": its time is used up"
        outside.say(f"The {title} ended after {finished} of {plural(loops, 'loop')}{why}")
    if finished == 0 and seconds is not None and name != FACTORS:  # no model: nothing is done
        return jobs.write(dataclasses.replace(job, end="out of time"))
    return _ended(job, name, log)


def _ended(job: Job, name: str, log: Path) -> Job:
    outcome.check(job, name, log)
    return jobs.write(job.with_stage(name, state="ended"))


class _Watch:
    """Counts the time of a stage, that of its earlier starts included, and shows where the stage is."""

    def __init__(self, job: Job, name: str, log: Path, screen: display.Screen) -> None:
        self._job, self._stage = job, job.stage(name)
        self._log, self._screen = log, screen
        self._began = self._saved = time.monotonic()
        self._looked = -math.inf
        self._at = progress.Position(0, "", 0, 0)
        self._used_at_finish = self._stage.seconds
        self._best_ic: float | None = None

    def _used(self) -> float:
        return self._stage.seconds + time.monotonic() - self._began

    def save(self) -> Job:
        """Write the time that the stage has run into the state, and return the job."""
        self._saved = time.monotonic()
        return jobs.write(self._job.with_stage(self._stage.name, seconds=round(self._used(), 1)))

    def look(self) -> None:
        """Show by its session files where the stage is, at most once a second; save the time now and then."""
        now = time.monotonic()
        if now - self._saved >= _SAVE_SECONDS:
            self.save()
        if now - self._looked < _LOOK_SECONDS:
            return
        at, before = progress.position(progress.steps_done(self._log)), self._at
        if self._looked > 0 and at.finished != before.finished:
            self._used_at_finish = self._used()
        self._looked, self._at = now, at
        if at.back_tests and (at.back_tests, at.finished) != (before.back_tests, before.finished):
            try:
                self._best_ic = best_ic(self._log)
            except SessionError:  # RD-Agent may be writing it at this moment: again at the next look
                self._at = at._replace(back_tests=before.back_tests)
        title, loops = TITLES[self._stage.name], self._stage.loops
        line = display.status(title, at, loops, self._used(), self._used_at_finish, self._best_ic)
        self._screen.show(at, line)


def best_ic(log: Path) -> float | None:
    """Return the highest IC of a run's back-tests; None where none has any.

    Raises:
        SessionError: if the session can't be read.
    """
    found = [loop.metrics["IC"] for loop in history.read_run(log).loops if "IC" in loop.metrics]
    return max(filter(math.isfinite, found), default=None)
