"""The command `rdagent-sota verify`: a line per model loop on screen, or all of them as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rdagent_sota_bridge.cli.output import ASCII_MARKS, BAD, DOUBTFUL, GOOD, print_json, print_notes
from rdagent_sota_bridge.errors import JobError, one_line, plural
from rdagent_sota_bridge.factor_set import locate, sessions
from rdagent_sota_bridge.factor_set.names import LATEST, LOGS
from rdagent_sota_bridge.factor_set.sessions import Session
from rdagent_sota_bridge.report import history, verify
from rdagent_sota_bridge.report.history import Run
from rdagent_sota_bridge.run import job as jobs
from rdagent_sota_bridge.run import progress
from rdagent_sota_bridge.run.job import MODELS, Job

_MARKS = {
    "factors": ("✓", GOOD),
    "base set alone": ("✓", GOOD),
    "none": ("-", DOUBTFUL),
    "not trained": ("-", ""),
    "not verified": ("?", BAD),
    "broken": ("✗", BAD),
}


def run(log: str | None, as_json: bool) -> int:
    """Print what can be shown of each model loop of a run, and return the exit status.

    Args:
        log: A log folder, its `__session__`, a session file, or `latest` for the newest log with models; None
            is the model stage of the newest job.
        as_json: Print one JSON object and nothing else.

    Returns:
        1 where a loop claims what can't be shown, else 0.

    Raises:
        JobError: if the newest job has trained no model yet, or its state can't be read.
        SessionError: if the log can't be read, or is of a run without models.
    """

    def models(job: Job) -> list[Path]:
        return [one for one in progress.logs(job) if one == job.log(MODELS)]

    fix = "run `rdagent fin_model` in this folder, or name a log folder"
    missing, texts = "No log of a run with models", [] if log is None else [log]
    (folder,) = named_logs(texts, models, lambda one: one.has_models, missing, fix)
    found = history.read_run(folder)
    if not as_json:
        return 0 if show(found, Console()) else 1
    verdicts = verify.verify(found)
    again = verify.trained_again(found)
    holds = all(one.holds for one in [*verdicts, *again])
    loops, trained_again = (
        [{**dataclasses.asdict(one), "holds": one.holds, "digest": one.digest or None} for one in side]
        for side in (verdicts, again)
    )
    about = {"log": found.log, "command": found.command, "holds": holds}
    print_json({**about, "loops": loops, "trained_again": trained_again, "notes": found.notes})
    return 0 if holds else 1


def named_logs(
    named: Sequence[str],
    of_job: Callable[[Job], list[Path]],
    fits: Callable[[Session], bool],
    missing: str,
    fix: str,
) -> list[Path]:
    """Return the log folders that some texts name; where there is none those of the newest job below ./log.

    Where there is no job either it is `latest`. Which was taken is said on stderr.

    Args:
        named: Paths, or `latest`.
        of_job: Returns the logs of a job that are wanted.
        fits: True for a log that `latest` may be.
        missing: What the error says where none fits.
        fix: What its fix says.

    Raises:
        JobError: if the newest job has no such log yet, or its state can't be read.
        SessionError: if a path is not there, or no log fits `latest`.
    """
    if named:
        return [_named_log(text, fits, missing, fix) for text in named]
    instead = f"name a log folder, or `{LATEST}`"
    try:
        job = jobs.newest(LOGS)
    except JobError as error:
        raise JobError(error.fact, error.place, instead) from None
    if job is None:
        latest = _named_log(LATEST, fits, missing, fix)
        print_notes([f"no job of `rdagent-sota run` is below ./{LOGS}: the latest log is taken, {latest}"])
        return [latest]
    print_notes([f"the newest job is taken: {job.file}"])
    if logs := of_job(job):
        return logs
    raise JobError("The newest job has nothing to show yet", str(job.file), f"let it go on, or {instead}")


def _named_log(named: str, fits: Callable[[Session], bool], missing: str, fix: str) -> Path:
    if named != LATEST:
        return locate.existing_log(named)
    log, _, notes = sessions.newest_log(fits, missing, fix)
    print_notes(notes)
    return log


def show(found: Run, console: Console) -> bool:
    """Print what can be shown of each model loop of a run; False where one claims what can't be shown."""
    verdicts = verify.verify(found)
    ascii_only = console.options.ascii_only

    def line(text: str, mark: str = "", style: str = "") -> None:
        text = one_line(text)  # names come from an LLM: what commands a terminal could write another verdict
        if ascii_only:
            text, mark = text.encode("ascii", "backslashreplace").decode(), mark.translate(ASCII_MARKS)
        console.print(Text.assemble((mark, style), text), soft_wrap=True, highlight=False)

    line(f"{found.command}: {found.log}")
    shown = [*verdicts, *verify.trained_again(found)]
    width = max(len(one.state) for one in shown)
    for one in shown:
        mark, style = _MARKS[one.state]
        number = "?" if one.loop is None else one.loop
        line(f"  loop {number} {one.name}: {one.text}", f"{mark} {one.state:<{width}}", style)
        if not one.holds and one.workspace is not None:
            line(f"  where: {one.workspace}")
    for note in found.notes:
        line(f"note: {note}")
    claims = [one.holds for one in verdicts if one.digest or not one.holds]
    what = f"{len(claims)} claim{'s' * (len(claims) == 1)} factors, {sum(claims)} shown to have them"
    loops = plural(len(verdicts), "model loop")
    line(f"{loops}: {what if claims else 'none claims factors'}")
    return all(one.holds for one in shown)
