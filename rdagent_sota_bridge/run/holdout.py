"""Days that a job keeps back from its stages, and the look at them with the best model and its ablation."""

from __future__ import annotations

import datetime
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.doctor.seam_check import Seams
from rdagent_sota_bridge.errors import BridgeError, HoldoutError, JobError
from rdagent_sota_bridge.factor_set.names import WORKSPACES, workspace_root
from rdagent_sota_bridge.models.predict import predict_again
from rdagent_sota_bridge.qlib_files import label, market
from rdagent_sota_bridge.qlib_files.model_yaml import QlibStart, Segment, Task, inside
from rdagent_sota_bridge.report import ablation, daily_ic, gather, history, holdout
from rdagent_sota_bridge.report.history import Run
from rdagent_sota_bridge.report.holdout import Opening
from rdagent_sota_bridge.report.statistics import estimate
from rdagent_sota_bridge.run import job as jobs
from rdagent_sota_bridge.run.job import FACTORS, MODELS, Holdout, Job
from rdagent_sota_bridge.run.stages import MONTHS

# --- before the stages ---


def plan(asked: str, seams: Seams | Line, mines: bool) -> Holdout:
    """Return the days that a job keeps back: the last ones that can be predicted and have a label.

    Args:
        asked: Months, or the first day.
        seams: What RD-Agent would start Qlib with.
        mines: True where factor loops are to be run.

    Raises:
        HoldoutError: if there are no such days, or RD-Agent does not take its test end from a variable.
        SettingsError: if a date of RD-Agent's settings is none.
    """
    if isinstance(seams, Line) or seams.asked is None or (mines and seams.of_factors is None):
        fact, fix = "What RD-Agent would start Qlib with is not known", "leave --holdout out"
        raise HoldoutError(fact, "the seams that do not fit: rdagent-sota check", fix)
    starts = {MODELS: seams.asked.start}
    if mines and seams.of_factors is not None:
        starts[FACTORS] = seams.of_factors.start
    days, ahead, place = _labelled(starts[MODELS].task())
    last, months = days[-1 - ahead], MONTHS.fullmatch(asked)
    begin = pd.Timestamp(asked) if months is None else last - pd.DateOffset(months=int(months[1]), days=-1)
    held = days[(days >= begin) & (days <= last)]
    position = int(days.searchsorted(begin)) - ahead - 1
    ends = {}
    for name, start in starts.items():
        task, trouble = start.task(), ""
        end = days[max(position, 0)]
        # The user's end is only ever moved back.
        end = end if pd.isna(task.test[1]) else min(end, task.test[1].normalize())
        ends[name] = str(end.date())
        earlier = _ending(start, ends[name]).task()
        if "test_end" not in start.run_env or earlier.test[1] != end:
            raise HoldoutError(
                "RD-Agent does not take the end of the test segment from a variable: no day can be kept back",
                f"{start.config_name} of the installed RD-Agent, as its runner starts it",
                "use RD-Agent 1.0.0, whose dates are settings (0.8.0 has them in its YAML), or leave it out",
            )
        if held.empty:
            trouble = f"is empty: the last day that has a label is {last.date()}"
        elif position < 0:
            trouble = "is longer than the data"
        elif (fitted := max(task.train[1], task.valid[1])) > end:
            trouble = f"begins inside the training or validation segment, or too near: {fitted.date()}"
        elif not inside(days, earlier.test).any():
            trouble = f"leaves no day of the test segment, which begins on {task.test[0].date()}"
        if trouble:
            place = f"--holdout {asked}, which begins on {begin.date()}; {start.config_name}; {place}"
            raise HoldoutError(f"The holdout {trouble}", place, "choose another first day")
    return Holdout(str(held[0].date()), str(last.date()), ends)


def moved(seams: Seams | Line, held: Holdout) -> Seams | Line:
    """Return what was found of RD-Agent, with the models' test end of the job, by which a set is checked.

    Raises:
        HoldoutError: if Qlib's data are gone since the days were chosen; the gate leaves that to the holdout.
    """
    if isinstance(seams, Line) or seams.asked is None:
        return seams
    start = _ending(seams.asked.start, held.test_ends[MODELS])
    _labelled(start.task())
    return replace(seams, asked=replace(seams.asked, start=start))


def _ending(start: QlibStart, end: str) -> QlibStart:
    return replace(start, run_env={**start.run_env, "test_end": end})


def _labelled(task: Task) -> tuple[pd.DatetimeIndex, int, str]:
    """Return the trading days, how many days after its own a label needs, and the calendar's place."""
    found, ahead = market.read_market(task.provider_uri, task.market), label.days_ahead(task.label)
    if found is None or not task.label or ahead >= len(found.calendar):
        fact = "Which are the last days with a label is not known"
        place = f"the calendar of {task.market} in {task.provider_uri}, the label {task.label}"
        fix = "download Qlib's data, and let the YAML name its market and label"
        raise HoldoutError(fact, place, fix)
    days = found.calendar.normalize()
    place = f"{found.folder / 'calendars' / 'day.txt'}, {days[0].date()} to {days[-1].date()}"
    return days, ahead, place


def begun(job: Job, held: Holdout) -> str:
    """Return what is said of a job's holdout before the first stage: its days, and who saw them before.

    Raises:
        HoldoutError: if the openings of before can't be read.
    """
    said = f"Holdout: {held.first} to {held.last}. No stage sees a day behind {max(held.test_ends.values())}"
    sources = () if job.factor_set is None else map(Path, job.factor_set.paths)
    days = pd.Timestamp(held.first), pd.Timestamp(held.last)
    if seen := holdout.seen_by(holdout.segments(_roots(job.file), sources), days):
        said += f"\n  It will not be called unseen: {holdout.seen_text(len(seen))}, such as {seen[-1]}"
    if before := holdout.count(holdout.openings(job.file), days):
        said += f"\n  {holdout.before_text(before)}"
    return said


# --- at the end ---


def open_at_end(log: Path, say: Callable[[str], object]) -> None:
    """Open the holdout of a job's models, once; why it can't be opened is said."""
    try:
        if holdout.newest([log]) is None:
            say("Opening the holdout: the best model and its ablation predict it once ...")
            open_(log, say)
    except BridgeError as error:
        say(f"The holdout is not opened: {error}")


def open_(log: Path, say: Callable[[str], object]) -> Opening:
    """Let the best model of a run and its ablation predict days that no stage saw, and write that down.

    The days are those that the models' job kept back, else those behind all that the project has seen.

    Args:
        log: The log of the models.
        say: Says one thing to the user.

    Raises:
        HoldoutError: if there is no such model or day, or what was opened before can't be read.
        BridgeError: if a model can't predict.
    """
    run, notes = history.read_run(log), list[str]()
    place = gather.best_model([run])
    loop = None if place is None else gather.loop_at([run], place)
    if loop is None or loop.workspace is None or loop.record is None or loop.record.task is None:
        fact, fix = "No model of the run has a result and a training that can be read", "name another log"
        raise HoldoutError(fact, str(run.log), fix)
    holdout.openings(run.log)  # what is damaged there is told before minutes of work
    factor_set = (loop.manifest or {}).get("factor_set") or {}
    miners = holdout.mined_in(factor_set, loop.workspace)
    known = holdout.segments({*_roots(run.log), loop.workspace.parent}, miners)
    first, last = _kept_back(run.log, say) or _behind(loop.record.task, known)
    end = pd.Timestamp(factor_set.get("end") or last).normalize()
    if end < first:
        fact = f"The factor set ends on {end.date()}, before the holdout, which begins on {first.date()}"
        raise HoldoutError(fact, str(loop.workspace), "mine the factors on newer data")
    last = min(last, end)  # behind it Qlib would fill in zeros
    days = str(first.date()), str(last.date())
    pairs = [one for one in ablation.pairs([run], notes) if one.place == place and one.seed is None]
    for note in notes if not pairs else ():  # why the ablation is not found may be among them
        say(note)
    places = [loop.workspace, *(one.base.workspace for one in pairs[:1])]
    ics = [daily_ic.of_predictions(predict_again(workspace, days)) for workspace in places]
    figures = [estimate(one.to_frame()) for one in [*ics, *([ics[0] - ics[1]] if pairs else [])]]
    opened = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    names = run.log.name, loop.workspace.name, places[1].name if pairs else ""
    seen = len(holdout.seen_by(known, (first, last)))
    return holdout.add(run.log, Opening(opened, *names, *days, seen, 0, *figures), say)


def opened(run: Run) -> tuple[str, bool]:
    """Return what the newest opening of a run's models says, and True; how to open it, and False."""
    try:
        found = holdout.newest([run.log])
    except HoldoutError as error:
        return str(error), False
    command = f"rdagent-sota holdout {shlex.quote(os.path.relpath(run.log))}"
    if found is None:
        return f"The holdout is closed. To open it: {command}", False
    said = holdout.text(found)
    if not gather.is_best([run], found.model):
        said += f"\n  another model is the best since then; to open it for that one, which counts: {command}"
    return said, True


def _kept_back(log: Path, say: Callable[[str], object]) -> Segment | None:
    """Return what the newest job that trained the models of a log kept back; None where none did.

    A job whose state can't be read is passed over, and said.
    """
    for file in reversed(jobs.files(log.parent)):
        try:
            job = jobs.read(file)
        except JobError as error:
            say(f"a job is passed over: {error.fact} ({error.place})")
        else:
            if job.holdout is not None and job.stage(MODELS).log == log.name:
                return pd.Timestamp(job.holdout.first), pd.Timestamp(job.holdout.last)
    return None


def _behind(task: Task, known: Mapping[Path, tuple[Segment, ...]]) -> Segment:
    """Return the days with a label that no workspace has seen, and no label of theirs reaches."""
    days, ahead, place = _labelled(task)
    ends = [(end, workspace) for workspace, held in known.items() for _, end in held]
    for end, workspace in ends:
        if pd.isna(end):
            fact = "Which days a workspace of this project has seen is not known"
            raise HoldoutError(fact, str(workspace), "remove it, if it saw no day behind the test segment")
    last, workspace = max(ends)
    behind = days[days > last][ahead : -ahead or None]
    if behind.empty:
        fact = f"No day with a label is left behind what this project has seen, to {last.date()}"
        fix = "begin a job with --holdout, or download newer data of the market"
        raise HoldoutError(fact, f"{workspace}; {place}", fix)
    return behind[0], behind[-1]


def _roots(inside: Path) -> list[Path]:
    """Return the folders of a project's workspaces, by a file or folder among its logs."""
    return [inside.absolute().parent.parent / WORKSPACES, workspace_root()]
