"""The command `rdagent-sota run`: which job it is, its locks and signals, and what it says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.cli.lines import show as show_block
from rdagent_sota_bridge.errors import JobError, one_line
from rdagent_sota_bridge.run import job as jobs
from rdagent_sota_bridge.run import locks, stages
from rdagent_sota_bridge.run.display import open_console, write_nothing_more
from rdagent_sota_bridge.run.job import Job, Options
from rdagent_sota_bridge.run.locks import Stopped


def run(asked: Options, log_dir: Path, *, resume: bool, anew: bool) -> int:
    """Begin a job or resume one, and return the exit status.

    Args:
        asked: What the command line says.
        log_dir: The folder of the logs; made where it is not there.
        resume: Resume the newest job there.
        anew: Begin a new job although the newest is not finished.

    Raises:
        BridgeError: if the job can't be begun, or is stopped by something that the user can fix.
    """
    console = open_console()
    environ = dict(os.environ)  # as the user has it: RD-Agent's modules, once imported, change it

    def say(text: str) -> None:
        # Without markup, and unbroken: paths and commands are there to be copied. A terminal that is gone
        # shows nothing, and the job continues or ends as it would have.
        try:
            lines = "\n".join(map(one_line, text.split("\n")))
            console.print(lines, markup=False, highlight=False, soft_wrap=True)
            console.file.flush()
        except OSError:
            write_nothing_more()

    def show(heading: str, lines: list[Line]) -> None:
        show_block([lines], heading, console)

    if resume and anew:
        raise JobError(
            "--resume continues a job, and --new begins one", "options --resume and --new", "leave one out"
        )
    if asked.all_duration:
        stages.seconds_of(asked.all_duration)
    if asked.holdout:
        stages.check_holdout(asked.holdout)
    stages.find_rdagent()
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(
            f"The folder of the logs can't be made: {error.strerror}",
            f"{log_dir}, of --log-dir",
            "name a folder that you may write into",
        ) from None
    job: Job | None = None
    try:
        with locks.stops(), locks.held(log_dir, say) as descriptor:
            job = _job(asked, log_dir, resume=resume, anew=anew)
            # Late: pandas and pyarrow. A command line that means nothing is refused without them.
            from rdagent_sota_bridge.cli import verify
            from rdagent_sota_bridge.run import sequence

            verified = partial(verify.show, console=console)
            outside = sequence.Outside(console, say, show, _report, verified, environ, (descriptor,))
            return sequence.show_end(job, outside) if job.end else sequence.go(job, outside)
    except Stopped as stopped:
        if job is not None and job.file.exists():
            say(f"Stopped. Resume it: {job.resume_command}")
        return 128 + stopped.number


def _job(asked: Options, log_dir: Path, *, resume: bool, anew: bool) -> Job:
    newest = None if anew else jobs.newest(log_dir)
    if resume and newest is None:
        raise JobError(
            "There is no job to resume",
            f"{log_dir.absolute()} holds no state of one (*_run.json)",
            "begin one: the same command without --resume; or name the folder of its logs with --log-dir",
        )
    if newest is None or (newest.end and not resume):
        return jobs.new(asked, log_dir, _models(asked.from_models) if asked.from_models else None)
    if resume:
        return jobs.resumed(newest, asked)
    raise JobError(
        "The newest job in this log folder is not finished",
        str(newest.file),
        f"resume it: {newest.resume_command}; or begin a new one all the same: --new",
    )


def _models(named: str) -> Path:
    from rdagent_sota_bridge.cli import verify  # late: pandas and pyarrow

    missing, fix = "No log of a run with models", "name the log folder of a run of `rdagent fin_model`"
    (log,) = verify.named_logs([named], lambda _: [], lambda one: one.has_models, missing, fix)
    return log


def _report(logs: Sequence[Path], file: Path) -> None:
    from rdagent_sota_bridge.cli import report  # late: plotly

    report.run([str(log) for log in logs], output=file, as_json=False)
