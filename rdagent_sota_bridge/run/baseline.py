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
from typing import Any

from rich.console import Console

from rdagent_sota_bridge.errors import BridgeError, JobError, plural
from rdagent_sota_bridge.models.retrain import Change
from rdagent_sota_bridge.models.trainings import How, Wanted, train_all
from rdagent_sota_bridge.report import ablation, gather, history
from rdagent_sota_bridge.report.history import Loop, Run
from rdagent_sota_bridge.report.statistics import interval
from rdagent_sota_bridge.run import display, stages
from rdagent_sota_bridge.run import job as jobs
from rdagent_sota_bridge.run.job import BASELINE, MODELS, TITLES, Job
from rdagent_sota_bridge.run.progress import Position


def models(run: Run) -> list[tuple[Loop, Path]]:
    """Return the loops of a run whose models were trained with mined columns and gave a result, and where."""
    return [
        (loop, loop.workspace)
        for loop in run.loops
        if loop.kind == "model"
        and loop.metrics
        and loop.workspace
        and (loop.manifest or {}).get("mined_columns")
    ]


def train(job: Job, say: Callable[[str], None], console: Console, keep: tuple[int, ...]) -> Job:
    """Train the models of a job again, then the best with its seeds, and return the job; what is there stays.

    A model that can't be trained again is said, and the others are trained; the stage is open then.

    Args:
        job: The job; its models are trained.
        say: Says one thing to the user.
        console: Where the status goes.
        keep: What the trainings' lifelines hold open until all their processes are gone.

    Raises:
        JobError: if no model could be trained again.
        SessionError: if the log of the models has no session that can be read.
    """
    log = job.log(MODELS)
    assert log is not None  # noqa: S101 - they are trained
    run = history.read_run(log)
    for loop in run.loops:
        if loop.kind == "model" and loop.metrics and loop.workspace is None:
            say(f"Loop {loop.number} {loop.name} is not trained again: its workspace is gone")
    wanted = _wanted(run, job.options.seeds)
    seconds, title, began = stages.share(job, BASELINE), TITLES[BASELINE], time.monotonic()
    before, failed = job.stage(BASELINE).seconds, 0
    done: list[Wanted] = []
    job = jobs.write(job.with_stage(BASELINE, state="begun"))
    screen = display.Screen(console)
    order = list(wanted)

    def begin(one: Wanted) -> bool:
        number, used = order.index(one), time.monotonic() - began
        if seconds is not None and used >= max(seconds, 1):
            return False
        text = f"{title}: model {number + 1} of {len(order)}, {wanted[one]}; {display.shown(used)} used"
        screen.show(Position(len(done), "", len(done), len(done)), text)
        return True

    try:
        how = How(job.options.jobs or 1, job.options.cluster)
        with screen.shown(), contextlib.closing(train_all(order, how, say, keep, begin)) as trained:
            for one, answer in trained:
                if isinstance(answer, BridgeError):
                    failed += 1
                    say(f"{wanted[one]} is not trained again: {answer}")
                else:
                    done.append(one)
        if (number := len(done) + failed) < len(order):
            of_all = plural(len(order), "model")
            say(f"The {title} ended after {number} of {of_all}: its time is used up")
    finally:
        spent = round(before + time.monotonic() - began, 1)
        job = jobs.write(job.with_stage(BASELINE, seconds=spent))
    ablations, count = (sum(one.change.seed is None for one in some) for some in (done, order))
    of_all = f"{plural(count, 'model')} {'is' if count == 1 else 'are'}"
    say(f"{title}: {ablations} of {of_all} trained again without the mined columns")
    if seeded := len(order) - count:
        say(f"{title}: {len(done) - ablations} of {seeded} trainings of the best model with seeds are done")
    if failed and not done:
        fix = f"fix what stands above, and resume: {job.resume_command}"
        raise JobError("No model could be trained again without the mined columns", str(log), fix)
    if failed:
        say(f"{title}: to try again what failed: {job.resume_command}")
    if wanted and not done:
        return jobs.write(dataclasses.replace(job, end="out of time"))
    return jobs.write(job.with_stage(BASELINE, state="begun" if failed else "ended"))


def _wanted(run: Run, seeds: int) -> dict[Wanted, str]:
    """Return the trainings of a run's models that are to be there, in their order, each with its name."""

    def one(workspace: Path, **change: Any) -> Wanted:
        return Wanted(workspace, Change(**change))

    wanted = {one(place, no_mined=True): f"Loop {loop.number} {loop.name}" for loop, place in models(run)}
    best = gather.best_model([run])
    loop = None if best is None else gather.loop_at([run], best)
    if wanted and loop is not None and loop.workspace is not None:
        for seed in range(1, seeds + 1):
            # One after the other: where time runs out, as many pairs as there can be are whole.
            for no_mined, which in ((False, "with"), (True, "without")):
                words = f"Loop {loop.number} {loop.name} (seed {seed}, {which} the mined columns)"
                wanted[one(loop.workspace, no_mined=no_mined, seed=seed)] = words
    return wanted


def table(run: Run) -> str:
    """Return the IC of a run's models with the mined columns and without, as lines: what the factors add."""
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
