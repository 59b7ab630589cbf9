"""The stage of `--baseline`: each model of a log trained again without the mined columns, and their table."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from rich.console import Console

from rdagent_sota_bridge.errors import BridgeError, JobError
from rdagent_sota_bridge.run import display, stages
from rdagent_sota_bridge.run import job as jobs
from rdagent_sota_bridge.run.job import BASELINE, MODELS, TITLES, Job
from rdagent_sota_bridge.run.progress import Position

if TYPE_CHECKING:
    from rdagent_sota_bridge.report.history import Loop  # else late: pandas and pyarrow


def models(log: Path) -> list[tuple[Loop, Path]]:
    """Return the loops of a log whose models were trained with mined columns and gave a result, and where.

    Raises:
        SessionError: if the log has no session that can be read.
    """
    from rdagent_sota_bridge.report import history  # late: pandas and pyarrow

    return [
        (loop, loop.workspace)
        for loop in history.read_run(log).loops
        if loop.kind == "model"
        and loop.metrics
        and loop.workspace
        and (loop.manifest or {}).get("mined_columns")
    ]


def train(job: Job, say: Callable[[str], None], console: Console, keep: tuple[int, ...]) -> Job:
    """Train the models of a job again, and return the job; what is trained is kept.

    A model that can't be trained again is said, and the others are trained.

    Args:
        job: The job; its models are trained.
        say: Says one thing to the user.
        console: Where the status goes.
        keep: What the trainings' lifelines hold open until all their processes are gone.

    Raises:
        JobError: if no model could be trained again.
        SessionError: if the log of the models has no session that can be read.
    """
    from rdagent_sota_bridge.models.retrain import Change  # late: pandas and pyarrow
    from rdagent_sota_bridge.models.trainings import How, Wanted, train_all

    log = job.log(MODELS)
    found = [] if log is None else models(log)
    seconds, title, began = stages.share(job, BASELINE), TITLES[BASELINE], time.monotonic()
    before, done, failed = job.stage(BASELINE).seconds, 0, 0
    job = jobs.write(job.with_stage(BASELINE, state="begun"))
    screen = display.Screen(console)
    # Beside the model, where the report looks for it.
    loops = {Wanted(workspace, Change(columns=()), workspace.parent): loop for loop, workspace in found}
    order = list(loops)

    def begin(one: Wanted) -> bool:
        number, used = order.index(one), time.monotonic() - began
        if seconds is not None and used >= max(seconds, 1):
            return False
        text = f"{title}: model {number + 1} of {len(found)}, {loops[one].name}; {display.shown(used)} used"
        screen.show(Position(done, "", done, done), text)
        return True

    try:
        how = How(job.options.jobs or 1, job.options.cluster)
        with screen.shown(), contextlib.closing(train_all(order, how, say, keep, begin)) as trained:
            for one, answer in trained:
                if isinstance(answer, BridgeError):
                    failed += 1
                    loop = loops[one]
                    say(f"Loop {loop.number} {loop.name} is not trained again: {answer}")
                else:
                    done += 1
        if done + failed < len(found):
            text = f"The {title} ended after {done + failed} of {len(found)} models: its time is used up"
            say(text)
    finally:
        spent = round(before + time.monotonic() - began, 1)
        job = jobs.write(job.with_stage(BASELINE, seconds=spent))
    say(f"{title}: {done} of {len(found)} models are trained again without the mined columns")
    if failed and not done:
        fix = f"fix what stands above, and resume: {job.resume_command}"
        raise JobError("No model could be trained again without the mined columns", str(log), fix)
    if found and not done:
        return jobs.write(dataclasses.replace(job, end="out of time"))
    return jobs.write(job.with_stage(BASELINE, state="ended"))


def table(log: Path) -> str:
    """Return the IC of a log's models with the mined columns and without, as lines: what the factors add.

    Raises:
        SessionError: if the log has no session that can be read.
    """
    from rdagent_sota_bridge.report import ablation, history  # late: pandas and pyarrow
    from rdagent_sota_bridge.report.statistics import interval

    run = history.read_run(log)
    pairs = ablation.pairs([run], [])
    if not pairs:
        return "No model was trained again without the mined columns: nothing says what they add"

    def line(name: str, by_loop: list[list[ablation.Pair]]) -> str:
        ours, base = (
            fmean(fmean(side(pair).metrics.get("IC", math.nan) for pair in of_loop) for of_loop in by_loop)
            for side in (attrgetter("ours"), attrgetter("base"))
        )
        said, told = ablation.difference(chain(*by_loop)), "not known"
        if said is not None:
            ic = said.ic
            told = f"{ic.mean:>10.4f} {interval(ic.low, ic.high) or f' none: {ic.days} days are too few'}"
        return f"{name:<32} {ours:>8.4f} {base:>8.4f} {told}"

    lines = [f"{'IC of a model':<32} {'with':>8} {'without':>8} {'difference':>10}  95 % interval"]
    by_loop = [list(of_loop) for _, of_loop in groupby(pairs, lambda pair: pair.place)]
    for of_loop in by_loop:
        place = of_loop[0].place
        name = f"loop {run.loops[place[1]].number} {run.loops[place[1]].name}"
        lines += [
            line(name + ("" if pair.seed is None else f", seed {pair.seed}"), [[pair]]) for pair in of_loop
        ]
        if (seeds := ablation.over_seeds(of_loop, place)) is not None:
            spreads = seeds.ours, seeds.base, seeds.difference
            means, deviations = [one.mean for one in spreads], [one.deviation for one in spreads]
            for name, figures in (
                (f"mean of {seeds.seeds} seeds", means),
                ("standard deviation", deviations),
            ):
                lines.append("  {:<30} {:>8.4f} {:>8.4f} {:>10.4f}".format(name, *figures))
    return "\n".join([*lines, *[line("mean", by_loop)] * (len(by_loop) > 1)])
